"""openapi.json, the contract with every client: `python -m app.openapi` writes it, `--check` says whether it is current."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from app.main import build_routes

FILE = Path("openapi.json")


def text() -> str:
    """The document as it is committed."""
    return json.dumps(build_routes().openapi(), ensure_ascii=False, indent=1) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file into the current folder, or compare it. Returns the exit code."""
    if "--check" not in arguments:
        FILE.write_text(text(), encoding="utf-8")
        return 0
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text():
        return 0
    sys.stderr.write("openapi.json is stale: run `make openapi`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
