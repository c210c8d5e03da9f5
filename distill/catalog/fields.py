"""Whether the fields of a dataset, and its rows, suit a program; and its rows as the program takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from distill.catalog.models import Dataset
from distill.errors import Detail, Invalid
from distill.spec_part import did_you_mean
from stillhouse_programs.spec import (
    Column,
    Label,
    ProgramSpec,
    cast_cell,
    check_row,
    columns,
    expand,
    labels,
    required_input_names,
    row_reader,
)

MAX_DETAILS = 20
CSV, TABLES = "csv", frozenset({"csv", "parquet"})
Row = dict[str, Any]


def reader_of(spec: ProgramSpec, dataset: Dataset) -> Callable[[Row], Row]:
    """What makes the stored rows of a dataset those that a program takes: the cells of a CSV get the types of its fields."""
    if dataset.source_format not in TABLES:
        return lambda row: row
    return row_reader(spec, as_text=dataset.source_format == CSV)


# ------------------------------------------------------------------ row by row


def check_rows(spec: ProgramSpec, rows: Iterable[Mapping[str, Any]], param: str = "trainset") -> None:
    """Check rows one by one against a program. Raises Invalid with a detail for each fault, at most 20; `param` names the first."""
    expanded = expand(spec)
    details: list[Detail] = []
    bad, total = 0, 0
    for total, row in enumerate(rows, start=1):
        faults = check_row(expanded, row)
        bad += bool(faults)
        details.extend(Detail(fault.message, total, fault.field or None) for fault in faults[: MAX_DETAILS - len(details)])
    if bad:
        raise _bad_rows(param, bad, total, details)


def _bad_rows(param: str, bad: int, total: int, details: list[Detail]) -> Invalid:
    first = details[0]
    noun = "row" if total == 1 else "rows"
    message = f"{param}: {bad} of {total} {noun} cannot be used. Row {first.row}, `{first.field}`: {first.message}."
    return Invalid(message, code="invalid_rows", param=_place(param, first), details=tuple(details))


def _place(param: str, fault: Detail) -> str:
    return f"{param}[{(fault.row or 1) - 1}]" + (f".{fault.field}" if fault.field else "")


# ------------------------------------------------------------------ by the summary alone


def check_summary(spec: ProgramSpec, dataset: Dataset, param: str, *, labels_teach: bool = False) -> None:
    """Check a stored dataset by its summary alone, so that its size does not matter.

    It has rows, every row has the inputs that the program requires, and the values that the summary shows fit their fields. With
    `labels_teach` there is a column for every answer of the program. Raises Invalid.
    """
    if dataset.row_count == 0:
        raise Invalid(f"{param}: the dataset has no rows", code="empty_dataset", param=param)
    known = {entry["name"]: entry for entry in dataset.fields}
    details = [detail for name in required_input_names(spec) if (detail := _missing(name, known, dataset.row_count))]
    if details:
        raise _unsuitable(details, param)
    if labels_teach:
        _check_labels(labels(spec), known, param)
    details = list(_unfit(_typed_columns(spec, labels_teach), known, as_text=dataset.source_format == CSV))
    if details:
        raise _unsuitable(details, param)


def _unsuitable(details: list[Detail], param: str) -> Invalid:
    first = details[0]
    return Invalid(f"{param}: {first.message}", code="invalid_rows", param=_place(param, first), details=tuple(details[:MAX_DETAILS]))


def _missing(name: str, known: Mapping[str, Any], rows: int) -> Detail | None:
    entry = known.get(name)
    if entry is None:
        return Detail(f"no row has the input `{name}`{did_you_mean(name, known)}", 1, name)
    if entry["present"] < rows:
        return Detail(
            f"{rows - entry['present']} of {rows} rows lack the input `{name}`; the first is row {entry['first_missing']}",
            entry["first_missing"],
            name,
        )
    return None


def _typed_columns(spec: ProgramSpec, labels_teach: bool) -> list[Column]:
    inner = (
        [Column(name, "label", label.schema, required=False) for label in labels(spec) for name in label.columns] if labels_teach else []
    )
    # What code returns is guessed from its predictors: no reason to refuse a row.
    known = [column for column in columns(spec).values() if spec.code is None or column.role == "input"]
    return list({column.name: column for column in (*inner, *known)}.values())


def _unfit(wanted: Iterable[Column], known: Mapping[str, Any], *, as_text: bool) -> Iterator[Detail]:
    """What the summary shows of a column and its field cannot hold: one detail for each kind of value, or for each of few values."""
    for column in wanted:
        entry = known.get(column.name, {})
        for seen in entry.get("values") or entry.get("kinds", []):
            message = _fault(column, seen["value"], as_text=as_text) if "value" in seen else None
            if message:
                rows = f"{seen['rows']} rows, the first is row {seen['row']}" if seen["rows"] > 1 else f"row {seen['row']}"
                yield Detail(f"`{column.name}`: {message} ({rows})", seen["row"], column.name)


def _fault(column: Column, value: Any, *, as_text: bool) -> str | None:
    read = cast_cell(value, column.schema) if as_text and isinstance(value, str) else value
    empty = read is None and not column.required
    return None if empty else column.fault(read)


def _check_labels(wanted: Iterable[Label], known: Mapping[str, Any], param: str) -> None:
    """A program of several predictors has answers that it does not return: they are trained on too."""
    absent = [label for label in wanted if not any(name in known for name in label.columns)]
    if not absent:
        return
    details = tuple(Detail(f"no row has a column {_either(label)}", None, label.columns[0]) for label in absent)
    names = ", ".join(f"`{label.columns[0]}`" for label in absent)
    message = f"{param}: where the labels teach, the rows need a gold value for every answer of every predictor; they lack {names}"
    raise Invalid(message, code="missing_labels", param=param, details=details[:MAX_DETAILS])


def _either(label: Label) -> str:
    return " or ".join(f"`{name}`" for name in label.columns)
