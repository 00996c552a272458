"""Word of a batch's end."""

from sqlalchemy.orm import Session

from app.db.tables import Batch, Channel, Delivery


def announce(session: Session, batch: Batch) -> None:
    """Have a batch's end told to whom it asks for."""
    wanted = ((Channel.WEBHOOK, batch.webhook_url), (Channel.MAIL, batch.notify_email))
    for channel, target in wanted:
        if target is not None:
            session.add(Delivery(batch_id=batch.id, channel=channel, target=target))
