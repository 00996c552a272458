"""Record of each result where its subject is, how much it covers, and how sure the network was."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JOBS = "background_removal_jobs"


def upgrade() -> None:
    op.add_column(JOBS, sa.Column("subject", sa.JSON(none_as_null=True), nullable=True))
    op.add_column(JOBS, sa.Column("coverage", sa.Double(), nullable=True))
    op.add_column(JOBS, sa.Column("uncertainty", sa.Double(), nullable=True))
    op.add_column(JOBS, sa.Column("needs_review", sa.Boolean(), nullable=True))


def downgrade() -> None:
    for column in ("needs_review", "uncertainty", "coverage", "subject"):
        op.drop_column(JOBS, column)
