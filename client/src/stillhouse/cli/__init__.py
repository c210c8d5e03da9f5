"""The command line: `stillhouse <noun> <verb>`. Needs `pip install stillhouse[cli]`."""

from __future__ import annotations

import sys

from stillhouse._extras import extra


def main() -> None:
    """The entry point of the bare package too, which says in one line what it lacks."""
    try:
        with extra("cli"):
            from stillhouse.cli.main import app
    except ImportError as error:
        sys.exit(str(error))
    app()
