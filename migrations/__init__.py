"""Alembic revisions; every revision runs under the old code."""
