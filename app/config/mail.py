"""Parsing of CUTOUT_SMTP_URL, CUTOUT_MAIL_FROM and e-mail addresses."""

import re
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from urllib.parse import unquote, urlsplit

import idna

LONGEST_ADDRESS, LONGEST_LOCAL_PART = 254, 64
# The characters of local parts. "!" and "%" are excluded, because old servers interpret them as routes to other
# servers.
ATOM = r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]+"
LOCAL_PART = re.compile(rf"{ATOM}(?:\.{ATOM})*")
PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class MailServer:
    """The SMTP server that CUTOUT_SMTP_URL describes."""

    host: str
    port: int
    tls: bool
    user: str = ""
    password: str = field(default="", repr=False)


def read_server(url: str) -> MailServer:
    """Parse `smtp://user:password@host:587`, or `smtps://…` for TLS from the first byte.

    Raises:
        ValueError: the URL is malformed; the message does not repeat it.

    """
    form = "write smtp://user:password@host:587, or smtps://… for TLS from the start"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"this is not the URL of a mail server; {form}") from None
    if parts.scheme not in PORTS or not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            f"this is not the URL of a mail server; {form}. In the user and password, write /, ?, # and @"
            " as %2F and so on"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise ValueError(f"a user and a password go together; set both or neither; {form}")
    if not (user + password).isascii() or not (user + password).isprintable():
        raise ValueError(
            "the user and password must be printable ASCII: other characters are not sent the same way everywhere"
        )
    return MailServer(host, port or PORTS[parts.scheme], parts.scheme == "smtps", user, password)


def read_address(address: str) -> str:
    """Return an e-mail address in the form used for sending, with an international domain in ASCII.

    Raises:
        ValueError: it is not one plain address, as in `anna@example.com`.

    """
    if len(address) > LONGEST_ADDRESS:
        raise ValueError(f"The address is longer than {LONGEST_ADDRESS} characters.")
    local, at, domain = address.strip(" ").rpartition("@")
    if not at or not LOCAL_PART.fullmatch(local) or len(local) > LONGEST_LOCAL_PART:
        raise ValueError(
            "Give one address without a name, such as anna@example.com, with ASCII before the @."
        )
    try:
        ascii_domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    except UnicodeError:
        ascii_domain = ""
    # A single label is a host in a local network; a domain that ends in a digit may be an IPv4 address.
    if "." not in ascii_domain.strip(".") or ascii_domain.endswith(".") or ascii_domain[-1].isdigit():
        raise ValueError("The part after the @ is not an internet domain such as example.com.")
    if len(local) + 1 + len(ascii_domain) > LONGEST_ADDRESS:
        raise ValueError(f"The address is longer than {LONGEST_ADDRESS} characters.")
    return f"{local}@{ascii_domain}"


def read_sender(value: str) -> Address:
    """Parse the sender of e-mails: `cutout@example.com`, or `Cutout <cutout@example.com>`.

    Raises:
        ValueError: the value is not exactly one address.

    """
    message = EmailMessage(policy=SMTP)
    try:
        message["From"] = value
        [sender] = message["From"].addresses
        return Address(sender.display_name, addr_spec=read_address(sender.addr_spec))
    except (ValueError, IndexError, HeaderParseError):
        raise ValueError("write one address, as in: Cutout <cutout@example.com>") from None
