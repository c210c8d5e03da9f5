"""Reading what a user names on the command line: specs, rows, name=value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class FileProblem(Exception):
    """A file cannot be read as what it should be; the text names the file and the line."""


def read_document(path: Path) -> Any:
    """JSON, or YAML by its suffix. Raises FileProblem with the line."""
    text = read_text(path)
    try:
        return yaml.safe_load(text) if path.suffix in {".yaml", ".yml"} else json.loads(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise FileProblem(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except json.JSONDecodeError as error:
        raise FileProblem(f"{path} line {error.lineno}: not valid JSON: {error.msg}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl or .json file. Raises FileProblem."""
    if path.suffix in {".jsonl", ".ndjson"}:
        return _read_jsonl(path)
    loaded = read_document(path)
    rows = loaded.get("rows") if isinstance(loaded, dict) else loaded
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FileProblem(f"{path}: expected a list of rows")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            rows.append(_row(path, number, line))
    return rows


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise FileProblem(f"{path} line {number}: not valid JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise FileProblem(f"{path} line {number}: a row is an object")
    return row


def read_text(path: Path) -> str:
    """The text of a file. Raises FileProblem."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileProblem(f"{path}: {error}") from None


def parse_pairs(pairs: list[str]) -> Mapping[str, str]:
    """`["a=1"]` → `{"a": "1"}`. Raises FileProblem for one without `=`."""
    for pair in pairs:
        if "=" not in pair:
            raise FileProblem(f"{pair!r}: expected name=value")
    return dict(pair.split("=", 1) for pair in pairs)
