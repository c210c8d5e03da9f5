"""Run once by the supervisor before the server starts: migrate the database and see to the first API key.

A process of its own (`python -m stack.prepare`), so that the supervisor imports neither SQLAlchemy nor settings and may serve several
stacks in one process. Prints one JSON object: {"api_key": …, "project": …}.
"""
