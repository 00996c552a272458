"""Alembic's environment and the migration steps."""
