"""Job files: YAML or JSON with `{file: …}` parts, and the line on which each of its fields stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stillhouse import APIStatusError, Stillhouse
from stillhouse.cli.files import FileProblem, read_document, read_rows, read_text

_ROWS = ("trainset", "valset")
_OPTIONS = ("idempotency_key", "if_changed")


class JobFile:
    """`body` is the request, its `{file: …}` parts read in and its `{dataset: …, at: …}` parts named.

    A CSV or Parquet file stays a Path in it: it is uploaded, since only the server knows the types of the program's fields.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises FileProblem, which names the line."""
        self._path = path
        body = read_document(path)
        if not isinstance(body, dict):
            raise FileProblem(f"{path}: a job file is a mapping of fields")
        self._root = yaml.compose(read_text(path)) if path.suffix in {".yaml", ".yml"} else None
        self._refuse_repeats(self._root)
        for name in body:
            self._refuse_unless_a_field(name)
        self.body: dict[str, Any] = {name: self._part(name, value) for name, value in body.items()}

    def mapping(self, name: str) -> dict[str, Any]:
        """A field that is a mapping, empty where it is left out. Raises FileProblem."""
        value = self.body.get(name)
        if value is not None and not isinstance(value, dict):
            raise FileProblem(f"{self._place(name)}: {name} is a mapping")
        return value or {}

    @contextmanager
    def told_by_line(self) -> Iterator[None]:
        """A refusal that names a field of the file also names its line."""
        try:
            yield
        except APIStatusError as error:
            if (line := self.line_of(error.param or "")) is not None:
                error.message = f"{self._path} line {line}: {error.message}"
            raise

    def line_of(self, param: str) -> int | None:
        """The line of a JSON path (`lms.student.temperature`, `teacher[0].lms`), or of what it stands in; None where none is known."""
        node, line, left = self._root, None, param
        while node is not None and left:
            found = _step(node, left)
            if found is None:
                break
            node, line, left = found
        return line

    def _part(self, name: str, value: Any) -> Any:
        if name == "teacher":
            return [self._teacher(one) for one in value] if isinstance(value, list) else self._teacher(value)
        if name in _ROWS and isinstance(value, dict) and "dataset" in value:
            return self._dataset(name, value)
        path = self._file(value)
        if path is None:
            return value
        if name not in _ROWS:
            return read_document(path)
        if path.suffix not in {".csv", ".parquet"}:
            return read_rows(path)
        if not path.is_file():
            raise FileProblem(f"{self._place(name)}: there is no file {value['file']}")
        return path

    def _teacher(self, value: Any) -> Any:
        if not isinstance(value, dict) or "program" not in value:
            return value
        return {**value, "program": self._part("program", value["program"])}

    def _file(self, value: Any) -> Path | None:
        return self._path.parent / str(value["file"]) if isinstance(value, dict) and set(value) == {"file"} else None

    def _dataset(self, name: str, value: dict[str, Any]) -> str:
        if set(value) - {"dataset", "at"}:
            raise FileProblem(f"{self._place(name)}: {name} takes `dataset` and `at`")
        given = str(value["dataset"])
        return given if "@" in given or given.startswith("ds-") else f"{given}@{value.get('at', 'latest')}"

    def _place(self, param: str) -> str:
        line = self.line_of(param)
        return str(self._path) if line is None else f"{self._path} line {line}"

    def _refuse_unless_a_field(self, name: Any) -> None:
        if not isinstance(name, str):
            raise FileProblem(f"{self._path}: a field has a name, and {name!r} is none")
        if name in _OPTIONS:
            raise FileProblem(f"{self._place(name)}: {name} is an option of the command, and no field")

    def _refuse_repeats(self, node: yaml.Node | None) -> None:
        """YAML itself would take the last of two equal fields, and say nothing."""
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_repeats(item)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if str(key.value) in seen:
                    raise FileProblem(f"{self._path} line {key.start_mark.line + 1}: `{key.value}` stands here a second time")
                seen.add(str(key.value))
                self._refuse_repeats(value)


def uploaded(client: Stillhouse, body: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    """The body with each file of rows replaced by the id of its dataset: the same one for the same `key`, so that the body is the same."""
    sent = dict(body)
    for field, value in body.items():
        if isinstance(value, Path):
            sent[field] = client.datasets.create(value, idempotency_key=f"{key}:{field}" if key else None).id
    return sent


def _step(node: yaml.Node, path: str) -> tuple[yaml.Node, int, str] | None:
    """One step down a JSON path: the node there, its line, and what is left of the path. Names may hold dots, so the longest goes first."""
    if isinstance(node, yaml.SequenceNode) and path.startswith("["):
        number, _, left = path[1:].partition("]")
        if number.isdecimal() and int(number) < len(node.value):
            item = node.value[int(number)]
            return item, item.start_mark.line + 1, left.removeprefix(".")
    if isinstance(node, yaml.MappingNode):
        for key, value in sorted(node.value, key=lambda pair: -len(str(pair[0].value))):
            left = path.removeprefix(str(key.value))
            if left != path and (not left or left[0] in ".["):
                return value, key.start_mark.line + 1, left.removeprefix(".")
    return None
