"""Alembic revisions. Each one runs under the code of the release before it."""
