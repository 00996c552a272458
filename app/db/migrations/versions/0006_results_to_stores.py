"""Deliver results to the users' own stores."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JOBS, DELIVERIES = "background_removal_jobs", "result_deliveries"


def upgrade() -> None:
    op.add_column(JOBS, sa.Column("has_store", sa.Boolean(), nullable=True))
    op.create_table(
        DELIVERIES,
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("target", sa.String(length=4096), nullable=False),
        sa.Column("stem", sa.String(length=255), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(length=500), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["background_removal_jobs.id"],
            name=op.f("fk_result_deliveries_job_id_background_removal_jobs"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_result_deliveries_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result_deliveries")),
        sa.UniqueConstraint("job_id", name=op.f("uq_result_deliveries_job_id")),
    )
    op.create_index(op.f("ix_result_deliveries_due_at"), DELIVERIES, ["due_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_result_deliveries_due_at"), DELIVERIES)
    op.drop_table(DELIVERIES)
    op.drop_column(JOBS, "has_store")
