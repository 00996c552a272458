"""Add subscriptions with their daily quotas, and payments; a job records whether a quota or credits paid for it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_payments()
    _create_subscriptions()
    _add_payment_of_jobs()


def downgrade() -> None:
    op.drop_column("background_removal_jobs", "paid_by")
    for table in ("subscription_usage", "subscriptions", "payments"):
        op.drop_table(f"background_remover_{table}")


def _create_payments() -> None:
    op.create_table(
        "background_remover_payments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("payment_id", sa.String(length=120), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("plan", sa.String(length=32), nullable=True),
        sa.Column("credits", sa.Integer(), nullable=True),
        sa.Column("rupiah", sa.Integer(), nullable=False),
        sa.Column(
            "status",
            sa.Enum("pending", "confirmed", name="paymentstatus", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("confirmed_by", sa.Uuid(), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(plan IS NULL) <> (credits IS NULL)", name=op.f("ck_background_remover_payments_plan_or_credits")
        ),
        sa.ForeignKeyConstraint(
            ["confirmed_by"], ["users.id"], name=op.f("fk_background_remover_payments_confirmed_by_users")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_background_remover_payments_user_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_background_remover_payments")),
        sa.UniqueConstraint("payment_id", name=op.f("uq_background_remover_payments_payment_id")),
    )
    op.create_index(
        op.f("ix_background_remover_payments_user_id"), "background_remover_payments", ["user_id"]
    )


def _create_subscriptions() -> None:
    op.create_table(
        "background_remover_subscriptions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("plan", sa.String(length=32), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.String(length=500), nullable=True),
        sa.ForeignKeyConstraint(
            ["id"],
            ["background_remover_payments.id"],
            name=op.f("fk_background_remover_subscriptions_id_payments"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_background_remover_subscriptions_user_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_background_remover_subscriptions")),
    )
    op.create_index(
        op.f("ix_background_remover_subscriptions_user_id_ends_at"),
        "background_remover_subscriptions",
        ["user_id", "ends_at"],
    )

    op.create_table(
        "background_remover_subscription_usage",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("professional", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "professional >= 0 AND professional <= used",
            name=op.f("ck_background_remover_subscription_usage_counts"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_background_remover_subscription_usage_user_id_users")
        ),
        sa.PrimaryKeyConstraint("user_id", "day", name=op.f("pk_background_remover_subscription_usage")),
    )


def _add_payment_of_jobs() -> None:
    # Add the column in place: SQLite does not allow copying a table while rows in other tables reference it.
    op.add_column(
        "background_removal_jobs",
        sa.Column(
            "paid_by",
            sa.Enum("quota", "credits", name="paidby", native_enum=False, length=16),
            server_default="credits",
            nullable=False,
        ),
    )
