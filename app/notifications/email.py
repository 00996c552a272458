"""Mail: which addresses it is sent to, and the server of the host's owner that takes it."""

import io
import re
import smtplib
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import idna

from cutout.app.notifications.errors import CannotNotify, NotDelivered

# For each step of the conversation, and for all of it.
SECONDS, SECONDS_IN_ALL = 15.0, 60.0
# All that a server answers in a conversation; a usual one has a thousand bytes.
MOST_ANSWER_BYTES = 64 * 1024
LONGEST_ADDRESS, LONGEST_LOCAL_PART = 254, 64
# What mailboxes are called. Neither "!" nor "%": old servers take them for a way to other servers.
ATOM = r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]+"
LOCAL_PART = re.compile(rf"{ATOM}(?:\.{ATOM})*")
NO_ANSWER = "The mail server does not answer, or broke off."
PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class MailServer:
    """Where mail is given, as CUTOUT_SMTP_URL says it."""

    host: str
    port: int
    tls: bool
    user: str = ""
    password: str = field(default="", repr=False)


def read_server(url: str) -> MailServer:
    """Read `smtp://user:password@host:587`, or `smtps://…` for TLS from the first byte.

    Raises:
        ValueError: it is malformed; the message has nothing of it.

    """
    form = "write smtp://user:password@host:587, or smtps://… for TLS from the start"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"this is no address of a mail server; {form}") from None
    if parts.scheme not in PORTS or not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            f"this is no address of a mail server; {form}. What has /, ?, # or @ in it is written as %2F and so on"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise ValueError(f"a user and a password go together; {form}")
    if not (user + password).isascii() or not (user + password).isprintable():
        raise ValueError(
            "user and password have to be of printable ASCII: others are not sent the same way everywhere"
        )
    return MailServer(host, port or PORTS[parts.scheme], parts.scheme == "smtps", user, password)


def check_email(address: str) -> str:
    """Return an e-mail address as mail is sent to it, an international domain in ASCII.

    Raises:
        CannotNotify: it is not one plain address, as in `anna@example.com`.

    """
    if len(address) > LONGEST_ADDRESS:
        raise CannotNotify(f"notifyEmail: The address is longer than {LONGEST_ADDRESS} characters.")
    local, at, domain = address.strip(" ").rpartition("@")
    if not at or not LOCAL_PART.fullmatch(local) or len(local) > LONGEST_LOCAL_PART:
        raise CannotNotify(
            "notifyEmail: Give one address without a name, as in anna@example.com; before the @ in ASCII."
        )
    try:
        ascii_domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    except UnicodeError:
        ascii_domain = ""
    # One label is a host of the owner's own network; a number at the end makes an IPv4 address of it.
    if "." not in ascii_domain.strip(".") or ascii_domain.endswith(".") or ascii_domain[-1].isdigit():
        raise CannotNotify(
            "notifyEmail: What is behind the @ is no domain of the internet, as example.com is."
        )
    if len(local) + 1 + len(ascii_domain) > LONGEST_ADDRESS:
        raise CannotNotify(f"notifyEmail: The address is longer than {LONGEST_ADDRESS} characters.")
    return f"{local}@{ascii_domain}"


def read_sender(value: str) -> Address:
    """Read who mail comes from: `cutout@example.com`, or `Cutout <cutout@example.com>`.

    Raises:
        ValueError: it is not one address.

    """
    message = EmailMessage(policy=SMTP)
    try:
        message["From"] = value
        [sender] = message["From"].addresses
        return Address(sender.display_name, addr_spec=check_email(sender.addr_spec))
    except (ValueError, IndexError, HeaderParseError, CannotNotify):
        raise ValueError("write one address, as in: Cutout <cutout@example.com>") from None


class Mailer:
    """Sends mail as `sender` by one server. `tls` says whose certificates count."""

    def __init__(self, server: MailServer, sender: Address, tls: ssl.SSLContext | None = None) -> None:
        self._server = server
        self.sender = sender
        self._own_tls = tls

    @property
    def _tls(self) -> ssl.SSLContext:
        return self._own_tls or _default_tls()

    def send(self, message: EmailMessage, to: str) -> None:
        """Give a mail to the server. This waits, for `SECONDS_IN_ALL` at most.

        Raises:
            NotDelivered: the server is not there, is not to be trusted with the password, or does not take it.

        """
        try:
            self._send(message, to)
        except smtplib.SMTPAuthenticationError as error:
            raise NotDelivered(
                f"The mail server refuses the user or password of CUTOUT_SMTP_URL ({error.smtp_code})."
            ) from None
        except smtplib.SMTPRecipientsRefused as error:
            [(code, _)] = error.recipients.values()
            raise NotDelivered(
                f"The mail server refuses the recipient ({code}).", final=code >= 500
            ) from None
        except smtplib.SMTPDataError as error:
            code = error.smtp_code
            raise NotDelivered(f"The mail server refuses the mail ({code}).", final=code >= 500) from None
        except smtplib.SMTPSenderRefused as error:
            raise NotDelivered(
                f"The mail server refuses CUTOUT_MAIL_FROM as the sender ({error.smtp_code})."
            ) from None
        except ssl.SSLError:
            raise NotDelivered("No secure connection to the mail server: look at its certificate.") from None
        except smtplib.SMTPResponseException as error:
            code = error.smtp_code
            says = f"answers {code}" if code > 0 else "does not speak SMTP"
            raise NotDelivered(f"The mail server {says}.") from None
        except smtplib.SMTPServerDisconnected:
            raise NotDelivered(NO_ANSWER) from None
        except smtplib.SMTPException:
            raise NotDelivered(
                "The mail server takes no user and password, or in no way known here."
            ) from None
        except OSError:
            raise NotDelivered(NO_ANSWER) from None

    def _send(self, message: EmailMessage, to: str) -> None:
        server = self._server
        # Its own name for itself, or a name server would be asked for it.
        named = self.sender.domain
        connection = (
            _BoundedSSL(local_hostname=named, timeout=SECONDS, context=self._tls)
            if server.tls
            else _Bounded(local_hostname=named, timeout=SECONDS)
        )
        # Where no host is given to connect to at once, the library does not remember it for TLS.
        connection._host = server.host
        try:
            code, said = connection.connect(server.host, server.port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, said)
            if not server.tls:
                self._encrypt(connection)
            if server.password:
                connection.login(server.user, server.password)
            connection.send_message(message, self.sender.addr_spec, to)
            with suppress(OSError):  # it has the mail: how it says good-bye does not matter
                connection.quit()
        finally:
            connection.close()

    def _encrypt(self, connection: smtplib.SMTP) -> None:
        connection.ehlo_or_helo_if_needed()
        if connection.has_extn("starttls"):
            connection.starttls(context=self._tls if self._server.password else _unverified())
            connection.ehlo()
        elif self._server.password:
            raise NotDelivered(
                "The mail server offers no STARTTLS, and without it the password is not sent. Use smtps://, or none."
            )


class _Answers(io.RawIOBase):
    """What a server answers, as it comes; it ends with an error after so many bytes, or at a time."""

    def __init__(self, connection: socket.socket, most_bytes: int, end: float) -> None:
        self._connection = connection
        self._end = end
        self.left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._end - time.monotonic()
        if seconds <= 0 or self.left <= 0:
            raise TimeoutError("the mail server answers too much, or for too long")
        self._connection.settimeout(min(SECONDS, seconds))
        count = self._connection.recv_into(buffer)
        self.left -= count
        return count


class _Bounded(smtplib.SMTP):
    """A conversation whose length is bounded in all; the library's timeout is for each read, and its replies never end."""

    file: io.BufferedReader | None
    _host: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._end = time.monotonic() + SECONDS_IN_ALL
        self._left = MOST_ANSWER_BYTES
        super().__init__(*args, **kwargs)

    def getreply(self) -> tuple[int, bytes]:
        # None at the beginning, and again once there is TLS.
        if self.file is None and self.sock is not None:
            self._answers = _Answers(self.sock, self._left, self._end)
            self.file = io.BufferedReader(self._answers)
        try:
            return super().getreply()
        finally:
            self._left = self._answers.left


class _BoundedSSL(_Bounded, smtplib.SMTP_SSL):
    """The same, over TLS from the first byte."""


@cache
def _default_tls() -> ssl.SSLContext:
    """Return the certificates that count on this host; reading them takes a while, so that it is done once."""
    return ssl.create_default_context()


def _unverified() -> ssl.SSLContext:
    """Encrypt with whoever is there: without a password nothing at all would do, and many a local server has no better."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
