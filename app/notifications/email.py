"""E-mail notifications: address checks, and delivery by the configured SMTP server."""

import io
import smtplib
import socket
import ssl
import time
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from functools import cache
from typing import Any

from cutout.app.config.mail import MailServer, read_address
from cutout.app.notifications.errors import CannotNotify, NotDelivered

# Timeouts of one SMTP command, and of the whole SMTP session.
SECONDS, SECONDS_IN_ALL = 15.0, 60.0
# Limit for all replies of a server in one session; a usual session has a thousand bytes.
MOST_ANSWER_BYTES = 64 * 1024
NO_ANSWER = "The mail server does not answer, or closed the connection."


def check_email(address: str) -> str:
    """Return an e-mail address in the form used for sending, with an international domain in ASCII.

    Raises:
        CannotNotify: this is not one plain address, as in `anna@example.com`.

    """
    try:
        return read_address(address)
    except ValueError as error:
        raise CannotNotify(f"notifyEmail: {error}") from None


class Mailer:
    """Sends mail as `sender` by one SMTP server. `tls` replaces the default TLS context."""

    def __init__(self, server: MailServer, sender: Address, tls: ssl.SSLContext | None = None) -> None:
        self._server = server
        self.sender = sender
        self._own_tls = tls

    @property
    def _tls(self) -> ssl.SSLContext:
        return self._own_tls or _default_tls()

    def send(self, message: EmailMessage, to: str) -> None:
        """Send a mail. Blocks for at most `SECONDS_IN_ALL`.

        Raises:
            NotDelivered: the server cannot be reached, cannot be trusted with the password, or refuses the mail.

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
            raise NotDelivered("No secure connection to the mail server: check its certificate.") from None
        except smtplib.SMTPResponseException as error:
            code = error.smtp_code
            says = f"answers {code}" if code > 0 else "does not speak SMTP"
            raise NotDelivered(f"The mail server {says}.") from None
        except smtplib.SMTPServerDisconnected:
            raise NotDelivered(NO_ANSWER) from None
        except smtplib.SMTPException:
            raise NotDelivered(
                "The mail server does not accept a user and password, or only in an unsupported way."
            ) from None
        except OSError:
            raise NotDelivered(NO_ANSWER) from None

    def _send(self, message: EmailMessage, to: str) -> None:
        server = self._server
        # Sent as the host name in EHLO; without it, smtplib looks the host's own name up in the DNS.
        named = self.sender.domain
        connection = (
            _BoundedSSL(local_hostname=named, timeout=SECONDS, context=self._tls)
            if server.tls
            else _Bounded(local_hostname=named, timeout=SECONDS)
        )
        # smtplib sets this, which STARTTLS needs, only if the host is passed to the constructor.
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
            with suppress(OSError):  # the mail is accepted already, so an error here does not matter
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
                "The mail server does not offer STARTTLS, so the password is not sent. Use smtps://, or set no"
                " password."
            )


class _Answers(io.RawIOBase):
    """Byte stream of a server's replies that raises TimeoutError after `most_bytes` bytes or at the time `end`."""

    def __init__(self, connection: socket.socket, most_bytes: int, end: float) -> None:
        self._connection = connection
        self._end = end
        self.left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._end - time.monotonic()
        if seconds <= 0 or self.left <= 0:
            raise TimeoutError("the mail server's replies are too long or take too long")
        self._connection.settimeout(min(SECONDS, seconds))
        count = self._connection.recv_into(buffer)
        self.left -= count
        return count


class _Bounded(smtplib.SMTP):
    """An SMTP session with a limit for its total time and size; smtplib limits only the time of each read."""

    file: io.BufferedReader | None
    _host: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._end = time.monotonic() + SECONDS_IN_ALL
        self._left = MOST_ANSWER_BYTES
        super().__init__(*args, **kwargs)

    def getreply(self) -> tuple[int, bytes]:
        # None at the beginning of the session, and again after STARTTLS.
        if self.file is None and self.sock is not None:
            self._answers = _Answers(self.sock, self._left, self._end)
            self.file = io.BufferedReader(self._answers)
        try:
            return super().getreply()
        finally:
            self._left = self._answers.left


class _BoundedSSL(_Bounded, smtplib.SMTP_SSL):
    """`_Bounded` over TLS from the first byte."""


@cache
def _default_tls() -> ssl.SSLContext:
    """Return a TLS context with this host's certificates. Cached, because loading them takes a while."""
    return ssl.create_default_context()


def _unverified() -> ssl.SSLContext:
    """Return a TLS context that accepts every certificate.

    Used only without a password, where unencrypted mail is acceptable too: many local servers have a self-signed
    certificate.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
