"""Add batches, whose photos are jobs that workers lease; batch notifications; idempotency keys for batches."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FROM_JOBS = "fk_background_removal_jobs_batch_id_background_removal_batches"


def upgrade() -> None:
    _create_batches()
    _create_deliveries()
    _add_batch_of_jobs()
    _add_batch_of_keys()


def downgrade() -> None:
    op.execute("DELETE FROM idempotency_keys WHERE batch_id IS NOT NULL")
    with op.batch_alter_table("idempotency_keys") as keys:
        keys.drop_constraint(op.f("ck_idempotency_keys_job_or_batch"), type_="check")
        keys.drop_constraint(
            op.f("fk_idempotency_keys_batch_id_background_removal_batches"), type_="foreignkey"
        )
        keys.alter_column("job_id", existing_type=sa.Uuid(), nullable=False)
        keys.drop_column("batch_id")
    op.drop_table("webhook_deliveries")
    op.execute("DELETE FROM background_removal_jobs WHERE batch_id IS NOT NULL")
    op.drop_index(op.f("ix_background_removal_jobs_batch_id_position"), "background_removal_jobs")
    op.drop_index(op.f("ix_background_removal_jobs_claim"), "background_removal_jobs")
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint(op.f(FROM_JOBS), "background_removal_jobs", type_="foreignkey")
    for name in ("sha256", "attempts", "claim", "options", "name", "position", "batch_id"):
        op.drop_column("background_removal_jobs", name)
    op.drop_table("background_removal_batches")


def _create_batches() -> None:
    op.create_table(
        "background_removal_batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "processing",
                "completed",
                "failed",
                "partial",
                "cancelled",
                name="status",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column(
            "tier",
            sa.Enum(
                "basic", "standard", "professional", "industry", name="tier", native_enum=False, length=16
            ),
            nullable=False,
        ),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("credits", sa.Integer(), nullable=False),
        sa.Column("discount", sa.Integer(), nullable=False),
        sa.Column("discount_percent", sa.Integer(), nullable=False),
        sa.Column("charged", sa.Integer(), nullable=True),
        sa.Column("webhook_url", sa.String(length=2048), nullable=True),
        sa.Column("notify_email", sa.String(length=320), nullable=True),
        sa.Column("zip_bytes", sa.BigInteger(), nullable=True),
        sa.Column("claim", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_background_removal_batches_user_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_background_removal_batches")),
    )
    op.create_index(
        op.f("ix_background_removal_batches_finished_at_claimed_at"),
        "background_removal_batches",
        ["finished_at", "claimed_at"],
    )
    op.create_index(
        op.f("ix_background_removal_batches_user_id_created_at"),
        "background_removal_batches",
        ["user_id", "created_at"],
    )


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column(
            "channel",
            sa.Enum("webhook", "mail", name="channel", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("target", sa.String(length=2048), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(length=500), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["background_removal_batches.id"],
            name=op.f("fk_webhook_deliveries_batch_id_background_removal_batches"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(op.f("ix_webhook_deliveries_batch_id"), "webhook_deliveries", ["batch_id"])
    op.create_index(op.f("ix_webhook_deliveries_due_at"), "webhook_deliveries", ["due_at"])


def _add_batch_of_jobs() -> None:
    # Add the columns in place: SQLite does not allow copying a table while rows in other tables reference it.
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    to_batches = [sa.ForeignKey("background_removal_batches.id")] if on_sqlite else []
    for column in (
        sa.Column("batch_id", sa.Uuid(), *to_batches, nullable=True),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(length=1000), nullable=True),
        sa.Column("options", sa.JSON(), nullable=True),
        sa.Column("claim", sa.Uuid(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
    ):
        op.add_column("background_removal_jobs", column, inline_references=on_sqlite)
    if not on_sqlite:
        op.create_foreign_key(
            op.f(FROM_JOBS),
            "background_removal_jobs",
            "background_removal_batches",
            ["batch_id"],
            ["id"],
        )
    op.create_index(op.f("ix_background_removal_jobs_claim"), "background_removal_jobs", ["claim"])
    op.create_index(
        op.f("ix_background_removal_jobs_batch_id_position"),
        "background_removal_jobs",
        ["batch_id", "position"],
        unique=True,
    )


def _add_batch_of_keys() -> None:
    with op.batch_alter_table("idempotency_keys") as keys:
        keys.add_column(sa.Column("batch_id", sa.Uuid(), nullable=True))
        keys.alter_column("job_id", existing_type=sa.Uuid(), nullable=True)
        keys.create_foreign_key(
            op.f("fk_idempotency_keys_batch_id_background_removal_batches"),
            "background_removal_batches",
            ["batch_id"],
            ["id"],
        )
        keys.create_check_constraint(
            op.f("ck_idempotency_keys_job_or_batch"), "(job_id IS NULL) <> (batch_id IS NULL)"
        )
