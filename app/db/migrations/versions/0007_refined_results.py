"""Refine results: a job from the masks of another one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JOBS = "background_removal_jobs"


def upgrade() -> None:
    op.add_column(JOBS, sa.Column("refined_from", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column(JOBS, "refined_from")
