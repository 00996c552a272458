"""E-mail notifications of batches: their content, their recipients, and where the SMTP password is sent."""

import logging
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from aiosmtpd.smtp import Session as Caller

from cutout.app import maintenance
from cutout.app.bootstrap import mailer_from
from cutout.app.config import settings
from cutout.app.config.base import SettingsError
from cutout.app.config.mail import MailServer, read_sender, read_server
from cutout.app.core import log_config
from cutout.app.db.session import Database
from cutout.app.db.tables import Channel, Delivery
from cutout.app.notifications import email
from cutout.app.notifications.attempts import WAITS
from cutout.app.notifications.email import Mailer, check_email
from cutout.app.notifications.errors import CannotNotify
from cutout.app.notifications.outbox import MOST_AT_ONCE, NO_MAIL, Outbox
from tests.app.api_client import opened_shop
from tests.app.databases import new_user
from tests.app.notifications.test_outbox import deliver, deliveries, end_batch, later, only, outbox_of
from tests.fakes import PATIENCE, wait_until
from tests.web import PUBLIC, answer, certificates, open_web

pytestmark = pytest.mark.slow

USER, PASSWORD = "cutout@shop", "p%ss w:rd/?#"
IN_A_URL = "cutout%40shop:p%25ss%20w%3Ard%2F%3F%23"
ANNA = "anna@example.com"


class PostBox:
    """Handler of a mail server: records messages and sets the replies."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []
        self.callers: list[Caller] = []
        self.passwords: list[str] = []
        self.to_recipient, self.to_data = "250 OK", "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, caller: Caller, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.to_recipient.startswith("2"):
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, server: SMTP, caller: Caller, envelope: Envelope) -> str:  # noqa: N802
        if self.to_data.startswith("2"):
            self.taken.append(envelope)
            self.callers.append(caller)
        return self.to_data

    def check(
        self, server: SMTP, caller: Caller, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.passwords.append(data.password.decode())
        right = data == LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)  # Let the server send the reply.

    @property
    def mails(self) -> list[EmailMessage]:
        found = []
        for envelope in self.taken:
            assert isinstance(envelope.content, bytes)
            read = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(read, EmailMessage)
            found.append(read)
        return found


@contextmanager
def mail_server(
    box: PostBox,
    *,
    login: bool = False,
    tls: ssl.SSLContext | None = None,
    starttls: ssl.SSLContext | None = None,
    port: int = 0,
) -> Iterator[int]:
    """Run a mail server on this host; yield its port."""
    port = port or free_port()
    own: dict[str, Any] = {"tls_context": starttls}
    if login:
        # This server does not count implicit TLS as TLS.
        own |= {"authenticator": box.check, "auth_required": True, "auth_require_tls": tls is None}
    logging.getLogger("mail.log").disabled = True  # The server's own log contains every message.
    server = Controller(box, "127.0.0.1", port, ssl_context=tls, **own)
    server.start()
    try:
        yield port
    finally:
        server.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def mailer(url: str, tls: ssl.SSLContext | None = None) -> Mailer:
    return Mailer(read_server(url), read_sender("Cutout <cutout@shop.example>"), tls)


def send_one(database: Database, by: Mailer | None, **batch: Any) -> tuple[Outbox, Delivery]:
    """End a batch and try to notify Anna."""
    end_batch(database, new_user(database), notify_email=ANNA, **batch)
    outbox = outbox_of(database, mailer=by, public_origin="https://cutout.example")
    assert deliver(outbox) == 1
    return outbox, only(database)


def test_a_mail_says_what_became_of_a_batch(database: Database) -> None:
    box = PostBox()
    names = ("beach.jpg", "evil\r\nBcc: eve@example.com\r\n\r\n\u202egpj.exe", "x" * 500)
    with mail_server(box) as port:
        _, delivery = send_one(database, mailer(f"smtp://127.0.0.1:{port}"), failed=names, cancelled=1)
    assert (delivery.attempts, delivery.status, delivery.error, delivery.due_at) == (1, None, None, None)
    assert delivery.delivered_at is not None
    [envelope], [mail] = box.taken, box.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("cutout@shop.example", [ANNA])
    head = {name: str(value) for name, value in mail.items()}
    assert datetime.strptime(head.pop("Date"), "%a, %d %b %Y %H:%M:%S %z") == datetime(
        2025, 11, 25, 10, tzinfo=UTC
    )
    assert head == {
        "From": "Cutout <cutout@shop.example>",
        "To": ANNA,
        "Subject": "Cutout: your batch has finished, 2 of 6 photos succeeded",
        "Message-ID": f"<{delivery.id}@shop.example>",
        "Auto-Submitted": "auto-generated",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "quoted-printable",
        "MIME-Version": "1.0",
    }
    lines = mail.get_content().splitlines()
    for line in ("Completed: 2", "Failed: 3", "Cancelled: 1", "Credits charged: 6", "Credits returned: 12"):
        assert line in lines
    assert any(line.startswith("https://cutout.example/api/background-remover/batch/") for line in lines)
    assert "- beach.jpg: The photo is damaged." in lines
    assert f"- {'x' * 99}…: The photo is damaged." in lines
    [odd] = [line for line in lines if "evil" in line]
    assert odd.startswith("- evil\ufffd\ufffdBcc: eve@example.com\ufffd\ufffd\ufffd\ufffd\ufffdgpj.exe: ")
    assert not any(line.startswith("Bcc") for line in lines)
    raw = envelope.content
    assert isinstance(raw, bytes)
    assert max(map(len, raw.splitlines())) <= 998


def test_where_the_service_does_not_know_its_address_the_mail_says_so(database: Database) -> None:
    box = PostBox()
    with mail_server(box) as port:
        end_batch(database, new_user(database), notify_email=ANNA)
        deliver(outbox_of(database, mailer=mailer(f"smtp://127.0.0.1:{port}")))
    lines = box.mails[0].get_content().splitlines()
    [path] = [line for line in lines if line.startswith("/api/background-remover/batch/")]
    assert lines[lines.index(path) - 1].endswith(", at the URL of the service:")


over_smtps = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")


@over_smtps
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_the_password_is_given_over_tls(database: Database, tmp_path: Path, scheme: str) -> None:
    box = PostBox()
    server, trusting = certificates(tmp_path, "localhost")
    kind = {"tls": server} if scheme == "smtps" else {"starttls": server}
    with mail_server(box, login=True, **kind) as port:  # type: ignore[arg-type]
        _, delivery = send_one(database, mailer(f"{scheme}://{IN_A_URL}@localhost:{port}", trusting))
    assert delivery.error is None
    assert len(box.taken) == 1
    assert set(box.passwords) == {PASSWORD}
    assert box.callers[0].ssl is not None or scheme == "smtps"


def failed(database: Database, by: Mailer, capsys: pytest.CaptureFixture[str], *, final: bool = False) -> str:
    """Try to notify Anna, which fails; return the reason, and check that the password appears nowhere."""
    log_config.configure("console")
    _, delivery = send_one(database, by)
    assert delivery.delivered_at is None
    assert (delivery.due_at is None) == final
    told = "".join(capsys.readouterr())
    for secret in (PASSWORD, IN_A_URL, IN_A_URL.partition(":")[2], "secret"):
        assert secret not in told
        assert secret not in repr(by.__dict__)
    assert "host=example.com" in told
    assert ANNA not in told
    return str(delivery.error)


def test_the_password_is_given_to_nobody_else(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = PostBox()
    server, trusting = certificates(tmp_path, "other.example")
    with mail_server(box, starttls=server, login=True) as port:
        by = mailer(f"smtp://{IN_A_URL}@localhost:{port}", trusting)
        assert "check its certificate" in failed(database, by, capsys)
    assert box.passwords == []


def test_the_password_is_not_sent_in_the_clear(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    box = PostBox()
    with mail_server(box) as port:
        by = mailer(f"smtp://{IN_A_URL}@localhost:{port}")
        assert "does not offer STARTTLS" in failed(database, by, capsys)
    assert (box.passwords, box.taken) == ([], [])


@over_smtps
def test_a_password_that_is_wrong_is_told_to_the_owner(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = PostBox()
    server, trusting = certificates(tmp_path, "localhost")
    with mail_server(box, tls=server, login=True) as port:
        by = mailer(f"smtps://cutout:{IN_A_URL.partition(':')[2]}@localhost:{port}", trusting)
        assert "refuses the user or password of CUTOUT_SMTP_URL (535)" in failed(database, by, capsys)
    assert box.passwords


def test_a_server_without_logins_is_told_to_the_owner(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, trusting = certificates(tmp_path, "localhost")
    with answering(b"220 hello\r\n250 hello\r\n221 bye\r\n", server) as port:
        by = mailer(f"smtps://{IN_A_URL}@localhost:{port}", trusting)
        assert "does not accept a user and password" in failed(database, by, capsys)


def test_without_a_password_any_certificate_is_better_than_none(database: Database, tmp_path: Path) -> None:
    box = PostBox()
    server, _ = certificates(tmp_path, "other.example")
    with mail_server(box, starttls=server) as port:
        send_one(database, mailer(f"smtp://localhost:{port}"))
    assert box.callers[0].ssl is not None


@pytest.mark.parametrize(
    ("step", "reply", "says", "final"),
    [
        ("to_recipient", "550 5.1.1 secret", "refuses the recipient (550)", True),
        ("to_recipient", "451 secret", "refuses the recipient (451)", False),
        ("to_recipient", "421 secret", "refuses the recipient (421)", False),
        ("to_data", "554 secret", "refuses the mail (554)", True),
        ("to_data", "452 secret", "refuses the mail (452)", False),
    ],
)
def test_what_a_refusal_means(
    database: Database, capsys: pytest.CaptureFixture[str], step: str, reply: str, says: str, final: bool
) -> None:
    box = PostBox()
    setattr(box, step, reply)
    with mail_server(box) as port:
        assert says in failed(database, mailer(f"smtp://127.0.0.1:{port}"), capsys, final=final)


def test_a_server_that_was_away_gets_the_same_mail(database: Database) -> None:
    port = free_port()
    outbox, delivery = send_one(database, mailer(f"smtp://127.0.0.1:{port}"))
    assert delivery.error == email.NO_ANSWER
    box = PostBox()
    with mail_server(box, port=port):
        later(outbox, WAITS[0])
        assert deliver(outbox) == 1
    assert (only(database).attempts, only(database).error) == (2, None)
    assert box.mails[0]["Message-ID"] == f"<{delivery.id}@shop.example>"


@contextmanager
def answering(says: bytes, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run a server that replies with its lines one by one, the first on connection; then it stays silent."""
    over = threading.Event()

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        if tls is not None:
            connection = tls.wrap_socket(connection, server_side=True)
        with suppress(OSError), connection, connection.makefile("rwb") as stream:
            for line in says.splitlines(keepends=True):
                stream.write(line)
                stream.flush()
                stream.readline()
            over.wait(PATIENCE)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        over.set()
        thread.join(PATIENCE)


@pytest.mark.parametrize("says", [b"", b"220 hello\r\n", b"220 hello\r\n250 hello\r\n"])
def test_a_server_that_hangs_is_waited_for_no_longer_than_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(email, "SECONDS", 0.2)
    with answering(says) as port:  # The server waits until the e-mail has been given up.
        _, delivery = send_one(database, mailer(f"smtp://127.0.0.1:{port}"))
    assert delivery.error == email.NO_ANSWER


@contextmanager
def flooding(begin: bytes, again: bytes, pause: float, sent: list[int]) -> Iterator[int]:
    """Run a server that sends `again` without end until disconnected; `sent` counts its bytes, and ends with 0."""
    over = threading.Event()

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                connection.sendall(begin)
                while not over.wait(pause):
                    connection.sendall(again)
                    sent.append(len(again))
            except OSError:
                sent.append(0)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        over.set()
        thread.join(20)


@pytest.mark.parametrize(
    ("begin", "again", "pause"),
    [
        (b"", 1000 * b"220-hello\r\n", 0),
        (b"220 hello\r\n", 1000 * b"250-X\r\n", 0),
        (b"220-", b"x", 0.01),  # A timeout per step would restart with each byte.
    ],
    ids=["banner", "features", "drip"],
)
def test_a_server_that_never_ends_its_answer_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch, begin: bytes, again: bytes, pause: float
) -> None:
    if pause:
        monkeypatch.setattr(email, "SECONDS_IN_ALL", 0.3)
    sent: list[int] = []
    with flooding(begin, again, pause, sent) as port:
        _, delivery = send_one(database, mailer(f"smtp://127.0.0.1:{port}"))
        wait_until(lambda: sent[-1:] == [0])
    assert delivery.error == email.NO_ANSWER


def test_a_mail_that_was_taken_is_not_sent_again_for_want_of_a_good_bye(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(email, "SECONDS", 0.2)
    # The server answers the connection, EHLO, MAIL, RCPT, DATA and the message; not QUIT.
    with answering(b"220 hello\r\n" + b"250 ok\r\n" * 3 + b"354 go on\r\n250 taken\r\n") as port:
        _, delivery = send_one(database, mailer(f"smtp://127.0.0.1:{port}"))
    assert (delivery.error, delivery.delivered_at is None) == (None, False)


def test_a_mail_server_that_hangs_keeps_no_webhook_waiting(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "DELIVER_EVERY", timedelta(milliseconds=20))
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, open_web() as web:
        web.pages["/hook"] = answer()
        smtp_url = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        sends = {"smtp_url": smtp_url, "mail_from": "cutout@shop.example", "fetch_allow_networks": PUBLIC}
        with opened_shop(database, tmp_path, **sends):
            user = new_user(database)
            for _ in range(MOST_AT_ONCE + 1):
                end_batch(database, user, notify_email=ANNA, completed=1)
            wait_until(lambda: sum(delivery.attempts for delivery in deliveries(database)) == MOST_AT_ONCE)
            end_batch(database, user, f"http://{PUBLIC}:{web.port}/hook")
            wait_until(lambda: bool(web.seen))
            by_mail = [one for one in deliveries(database) if one.channel is Channel.MAIL]
            assert sorted(one.attempts for one in by_mail) == [0] + [1] * MOST_AT_ONCE
            assert not any(one.error for one in by_mail)


@pytest.mark.parametrize(
    ("banner", "says"), [(b"554 secret\r\n", "answers 554"), (b"SSH-2.0-secret\r\n", "does not speak SMTP")]
)
def test_what_is_no_mail_server_is_not_quoted(
    database: Database, capsys: pytest.CaptureFixture[str], banner: bytes, says: str
) -> None:
    with answering(banner) as port:
        assert says in failed(database, mailer(f"smtp://127.0.0.1:{port}"), capsys)


def test_nobody_is_promised_mail_where_none_is_sent(database: Database) -> None:
    with pytest.raises(CannotNotify, match=r"^notifyEmail: This service does not send mail"):
        outbox_of(database).check_email(ANNA, ANNA)
    by = mailer("smtp://127.0.0.1:25")
    assert outbox_of(database, mailer=by).check_email(ANNA, ANNA) == ANNA
    # The batch was submitted while a mail server was configured.
    _, delivery = send_one(database, None)
    assert (delivery.error, delivery.due_at is None) == (NO_MAIL, False)


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        (ANNA, ANNA),
        (" Anna.B+x@Example.COM ", "Anna.B+x@example.com"),
        ("anna@bücher.example", "anna@xn--bcher-kva.example"),
        ("o'neil@mail.example.co.id", "o'neil@mail.example.co.id"),
    ],
)
def test_addresses_that_are_taken(address: str, kept: str) -> None:
    assert check_email(address) == kept


@pytest.mark.parametrize(
    "address",
    [
        "",
        "anna",
        "@example.com",
        "anna@",
        "anna@example.com, ben@example.com",
        "anna@example.com;ben@example.com",
        "Anna <anna@example.com>",
        "<anna@example.com>",
        "anna@example.com\r\nBcc: eve@example.com",
        "anna@example.com\n",
        "anna\r\n@example.com",
        "anna\x00@example.com",
        "an na@example.com",
        '"anna b"@example.com',
        "anna(comment)@example.com",
        "ben@example.com@example.com",
        "anna%example.com@relay.example.com",
        "host!anna@example.com",
        ".anna@example.com",
        "anna..b@example.com",
        "ännä@example.com",
        "anna@localhost",
        "anna@com.",
        "anna@example.com.",
        "anna@example..com",
        "anna@-example.com",
        "anna@exa_mple.com",
        "anna@[127.0.0.1]",
        "anna@127.0.0.1",
        "anna@example.com:25",
        "anna@xn--\udcff.example",
        "a" * 65 + "@example.com",
        "anna@" + "a" * 64 + ".example",
        "anna@" + "a.b" * 100 + ".example",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(CannotNotify, match=r"^notifyEmail: "):
        check_email(address)


def test_the_settings_of_a_mail_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mailer_from(settings.load()) is None
    monkeypatch.setenv("CUTOUT_SMTP_URL", f"smtp://{IN_A_URL}@mail.example")
    monkeypatch.setenv("CUTOUT_MAIL_FROM", "Büro Cutout <cutout@shop.example>")
    loaded = settings.load()
    made = mailer_from(loaded)
    assert made is not None
    assert (made.sender.display_name, made.sender.addr_spec) == ("Büro Cutout", "cutout@shop.example")
    assert PASSWORD not in repr(loaded)
    read: Callable[[str], MailServer] = read_server
    assert read(f"smtp://{IN_A_URL}@mail.example") == MailServer("mail.example", 587, False, USER, PASSWORD)
    assert read("smtps://mail.example") == MailServer("mail.example", 465, True)
    assert read("smtp://[::1]:2525/") == MailServer("::1", 2525, False)
    monkeypatch.delenv("CUTOUT_MAIL_FROM")
    with pytest.raises(SettingsError, match="go together"):
        settings.load()
    # Port 25 is for transfer between servers; the default must be another port.
    assert smtplib.SMTP_PORT == 25


@pytest.mark.parametrize(
    "url",
    [
        "mail.example",
        "http://mail.example",
        "smtp://",
        "smtp://mail.example:port",
        "smtp://mail.example/secret",
        "smtp://mail.example?secret",
        "smtp://user:secret/x@mail.example",
        "smtp://user:secret#x@mail.example",
        "smtp://secret@mail.example",
        "smtp://:secret@mail.example",
        "smtp://user:secrét@mail.example",
        "smtp://user:secret%0Ax@mail.example",
        "smtp://[secret",
    ],
)
def test_a_malformed_mail_server_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^CUTOUT_SMTP_URL: ") as error:
        settings.load(smtp_url=url, mail_from="cutout@shop.example")
    assert "secr" not in str(error.value)


@pytest.mark.parametrize(
    "sender", ["cutout", "a@b.example, c@d.example", "Cutout <a@b.example>\nBcc: c@d.example"]
)
def test_a_malformed_sender_is_refused(sender: str) -> None:
    with pytest.raises(SettingsError, match=r"^CUTOUT_MAIL_FROM: write one address"):
        settings.load(smtp_url="smtp://mail.example", mail_from=sender)


def test_the_public_address_is_one_to_which_paths_are_added() -> None:
    assert (
        settings.load(public_url="https://cutout.example/base/").public_url == "https://cutout.example/base"
    )
    wrong_hosts = ("cutout.example", "ftp://cutout.example", "https://x/?a", "https://x/#a", "https://u:p@x/")
    wrong_paths = (
        "https://x//y",
        "https://x/a//b",
        "https://x/../y",
        "https://x/a b",
        "https://x/caf%C3%A9",
        "https://x/api",
    )
    for wrong in (*wrong_hosts, *wrong_paths):
        with pytest.raises(SettingsError, match=r"^CUTOUT_PUBLIC_URL: "):
            settings.load(public_url=wrong)
