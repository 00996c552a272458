"""Animations: how many frames a job has, which its price counts."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JOBS = "background_removal_jobs"


def upgrade() -> None:
    op.add_column(JOBS, sa.Column("frames", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column(JOBS, "frames")
