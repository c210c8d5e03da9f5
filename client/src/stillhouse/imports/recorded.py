"""Recorded runs of a program, and the rows of a dataset that they belong to."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from stillhouse._plain import plain_json
from stillhouse.imports.line import Trace

Json = dict[str, Any]
_Shape = tuple[tuple[str, bool], ...]
"""Names of inputs, and whether each is compared as it stands, since it is a text or null."""
MESSAGE_CHARS = 2000
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Recorded:
    """One run. `number` is its place in the export, counted from 1: the line of a file, or which trace it is."""

    number: int
    trace: Json
    id: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A run that is no trace of the job, and why."""

    number: int
    reason: str
    id: str | None = None


@dataclass(frozen=True)
class Read:
    """What an export holds."""

    traces: list[Recorded]
    rejected: list[Rejected]


@dataclass(frozen=True)
class Matched:
    """Traces with their rows, ready to be sent, and those that belong to no row."""

    traces: list[Json]
    rejected: list[Rejected]


def read_all(found: Iterable[Recorded | Rejected]) -> Read:
    """Apart: what can be used, and what cannot."""
    every = list(found)
    return Read([each for each in every if isinstance(each, Recorded)], [each for each in every if isinstance(each, Rejected)])


def from_jsonl(path: str | Path) -> Read:
    """One trace a line: `inputs`, `outputs` (or `error`, a text or `{type, message}`), `calls` of `{predictor, inputs, outputs}`."""
    return read_all(_lines(Path(path).read_text(encoding="utf-8-sig")))


def _lines(text: str) -> Iterator[Recorded | Rejected]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield Recorded(number, _trace(json.loads(line, parse_constant=_refuse)))
        except json.JSONDecodeError as fault:
            yield Rejected(number, f"not valid JSON: {fault}")
        except ValidationError as fault:
            first = fault.errors(include_url=False)[0]
            yield Rejected(number, f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}")
        except ValueError as fault:
            yield Rejected(number, str(fault))


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"not valid JSON: {number} is no number there")


def _trace(line: Any) -> Json:
    """As the server takes it: what has no outputs failed, for a reason that has a type. Raises ValueError."""
    reason = _fault(line)
    if reason is not None:
        raise ValueError(reason)
    trace = Trace.model_validate(line).model_dump(exclude_unset=True)
    if trace.get("outputs") is not None:
        return {"status": "ok", **trace}
    error = trace.get("error")
    return {"status": "failed", **trace, "error": error if isinstance(error, dict) else recorded_error(error)}


def _fault(trace: Any) -> str | None:
    if not isinstance(trace, dict) or not isinstance(trace.get("inputs"), dict):
        return "expected an object with `inputs`, an object"
    if not isinstance(trace.get("outputs"), (dict, type(None))):
        return "`outputs` is not an object"
    calls = trace.get("calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) and isinstance(call.get("inputs"), dict) for call in calls):
        return "`calls` is not a list of objects with `predictor`, `inputs` and `outputs`"
    return _contradiction(trace)


def _contradiction(trace: Json) -> str | None:
    """A run has outputs or an error; its status, where it says one, is that of what it has."""
    answered = trace.get("outputs") is not None
    if answered and trace.get("error") is not None:
        return "it has `outputs` and an `error`, and a run has one of them"
    status = trace.get("status", "ok" if answered else "failed")
    if (status == "ok") != answered:
        return f"its `status` is {status}, and it has {'' if answered else 'no '}`outputs`"
    return None


def recorded_error(error: Any) -> Json:
    """An error of which only the text is known."""
    return {"type": "Recorded", "message": str(error or "the recorded run has no outputs")[:MESSAGE_CHARS]}


def match(traces: Sequence[Recorded], rows: Sequence[Mapping[str, Any]], *, role: str = "teacher:0", rollouts: int = 1) -> Matched:
    """Find each trace's row by its inputs, which must equal the row's fields of the same names, whatever else the row has.

    All cells of a CSV are texts: where a trace has a number, a truth value, a list or an object, a text that is its JSON equals it, and of
    a number also `007`, `+1` and `.5`.

    At most `rollouts` traces go to one row, as many as the job asks of each example. Rows with equal inputs share their traces on the
    server, so the first of them gets them.
    """
    index = _Index(rows)
    taken: defaultdict[int, int] = defaultdict(int)
    sent, left = [], []
    for found in traces:
        row_number = index.row_of(plain_json(found.trace["inputs"]))
        if row_number is None:
            left.append(Rejected(found.number, "no row of the dataset has these inputs", found.id))
        elif taken[row_number] == rollouts:
            reason = f"row {row_number} has {rollouts} of these already, as many rollouts as the job asks of an example"
            left.append(Rejected(found.number, reason, found.id))
        else:
            body = {name: value for name, value in found.trace.items() if name != "inputs"}
            sent.append({"role": role, "row": row_number, "rollout": taken[row_number], **body})
            taken[row_number] += 1
    return Matched(sent, left)


class _Index:
    """The first row of equal inputs, for each set of names that traces have: an optional input stands in some of them alone."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows
        self._found: dict[_Shape, dict[str, int]] = {}

    def row_of(self, inputs: Json) -> int | None:
        shape = tuple((name, value is None or isinstance(value, str)) for name, value in sorted(inputs.items()))
        if shape not in self._found:
            self._found[shape] = self._rows_by_key(shape)
        return self._found[shape].get(_key(inputs[name] for name, _ in shape))

    def _rows_by_key(self, shape: _Shape) -> dict[str, int]:
        found: dict[str, int] = {}
        for number, row in enumerate(self._rows, 1):
            if shape and all(name in row for name, _ in shape):
                found.setdefault(_key(row[name] if plain else _read(row[name]) for name, plain in shape), number)
        return found


def _read(value: Any) -> Any:
    """What a cell says, which spreadsheets write `TRUE` for true."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except (ValueError, RecursionError):
        return _number(value.strip(), value)


def _number(text: str, otherwise: str) -> Any:
    """Numbers that JSON writes otherwise, which the server takes: `007`, `+1`, `.5`."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else otherwise


def _key(values: Iterable[Any]) -> str:
    return json.dumps(plain_json(list(values)), ensure_ascii=False)
