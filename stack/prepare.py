"""Run once by the supervisor before the server starts: migrate the database and see to the first API key.

A process of its own (`python -m stack.prepare`), so that the supervisor imports neither SQLAlchemy nor settings and one program may run
several stacks. Prints one JSON object: {"api_key": …, "project": …}.
"""

import json
import sys

from distill.db import dispose
from distill.errors import StillhouseError
from distill.settings import get_settings
from migrations.runner import upgrade
from stack.keys import first_key


def main() -> None:
    """Settings come from the environment."""
    try:
        upgrade()
    except StillhouseError as error:
        sys.exit(error.message)
    api_key, project = first_key(get_settings().home / "credentials.json")
    dispose()
    json.dump({"api_key": api_key, "project": project}, sys.stdout)


if __name__ == "__main__":
    main()
