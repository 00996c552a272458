"""History: find the refinements of a job."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JOBS = "background_removal_jobs"
INDEX = "ix_background_removal_jobs_refined_from_created_at_id"


def upgrade() -> None:
    op.create_index(INDEX, JOBS, ["refined_from", "created_at", "id"])


def downgrade() -> None:
    op.drop_index(INDEX, table_name=JOBS)
