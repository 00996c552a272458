"""The server that sends mail about batches."""

from typing import ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from cutout.app.config import mail
from cutout.app.config.base import SettingsGroup


class MailSettings(SettingsGroup):
    """The server that sends mail about batches."""

    title: ClassVar[str] = "Mail"

    smtp_url: SecretStr | None = Field(
        None,
        description="`smtp://user:password@host:587`, or `smtps://…` for TLS from the start, of the server that "
        "sends [mail about batches](notifications.md#mail); default: no mail is sent",
    )
    mail_from: str | None = Field(
        None,
        description="the sender of mail, such as `Cutout <cutout@example.com>`; goes with `CUTOUT_SMTP_URL`",
    )
    notify_any_email: bool = Field(
        False,
        description="a batch's `notifyEmail` may be any address; default: only the address of the user. With "
        "`CUTOUT_AUTH=off` any address is allowed",
    )

    @field_validator("smtp_url")
    @classmethod
    def _check_smtp_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            mail.read_server(value.get_secret_value())
        return value

    @field_validator("mail_from")
    @classmethod
    def _check_mail_from(cls, value: str | None) -> str | None:
        if value is not None:
            mail.read_sender(value)
        return value

    @model_validator(mode="after")
    def _check_mail(self) -> Self:
        if (self.smtp_url is None) != (self.mail_from is None):
            raise ValueError("CUTOUT_SMTP_URL and CUTOUT_MAIL_FROM go together; set both or neither")
        return self
