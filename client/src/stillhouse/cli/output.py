"""How the command line speaks: tables, JSON, errors, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from stillhouse import (
    APIConnectionError,
    APIStatusError,
    ConfigError,
    DamagedArtifact,
    InvalidName,
    Stillhouse,
    StillhouseError,
    WaitTimeout,
)
from stillhouse.cli.files import FileProblem
from stillhouse.cli.tables import draw

console = Console()
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProjectOption = Annotated[str | None, typer.Option(help="For operators: a project's name or id, or * for all; the key's own unless given.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="At most so many.")]


class Exit(IntEnum):
    """Documented exit codes; scripts tell them apart."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    TIMEOUT = 4
    WORSE = 5
    INCONCLUSIVE = 6
    PAUSED = 7


_EXITS = {"worse": Exit.WORSE, "inconclusive": Exit.INCONCLUSIVE, "not_compared": Exit.INCONCLUSIVE}
"""Refusals that a pipeline must tell apart, by the error's code."""


@contextmanager
def connected() -> Iterator[Stillhouse]:
    """A client, and every expected error as one line."""
    with one_line(), Stillhouse() as client:
        yield client


@contextmanager
def one_line() -> Iterator[None]:
    """Every expected error as one line on standard error, with its exit code."""
    try:
        yield
    except WaitTimeout as error:
        stop(str(error), Exit.TIMEOUT)
    except (ConfigError, FileProblem, InvalidName) as error:
        stop(str(error), Exit.USAGE)
    except APIConnectionError as error:
        stop(f"{error}. Does the server run, and is this its address? `stillhouse login` takes another", Exit.FAILED)
    except APIStatusError as error:
        show_refusal(error)
        raise typer.Exit(_exit_of(error)) from None
    except (StillhouseError, DamagedArtifact, FileExistsError) as error:
        stop(str(error), Exit.FAILED)


def _exit_of(error: APIStatusError) -> Exit:
    if error.status_code == 409 and error.code in _EXITS:
        return _EXITS[error.code]
    return Exit.USAGE if error.status_code in {400, 415, 422} else Exit.FAILED


def stop(message: str, code: Exit) -> NoReturn:
    """Print one line and end with `code`."""
    errors.print(f"[red]error[/red] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def show_refusal(error: APIStatusError) -> None:
    """The message, then each row that is wrong; a single fault that the message says already stands there once."""
    errors.print(f"[red]error[/red] {escape(error.message)}", highlight=False, soft_wrap=True)
    alone = len(error.details) == 1 and str(error.details[0].get("message")) in error.message
    for detail in error.details[: 0 if alone else 20]:
        place = " ".join([*([f"row {detail['row']}"] if detail.get("row") else []), str(detail.get("field") or "")]).strip()
        line = f"  {place}: {detail.get('message')}" if place else f"  {detail.get('message')}"
        errors.print(line, highlight=False, markup=False, soft_wrap=True)
    if error.status_code == 401:
        errors.print("  `stillhouse login` takes another key; STILLHOUSE_API_KEY, where it is set, wins over it", highlight=False)
    if len(error.details) > 20:
        errors.print(f"  … and {len(error.details) - 20} more")
    if error.request_id:
        errors.print(f"  request {error.request_id}", style="dim", highlight=False)


def show_json(value: Any) -> None:
    """Plain JSON on standard output, never wrapped or coloured."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


def show_once(made: Any, secret: str | None, summary: str, word: str, undo: str, as_json: bool) -> None:
    """What was made with a secret that no other reply shows: the secret alone on standard output, so that a shell can keep it."""
    if secret is None:
        stop(f"{made.id} was made, but the reply with its {word} was lost: {undo} it and make another one", Exit.FAILED)
    if as_json:
        show_json(made)
        return
    console.print(secret, highlight=False, soft_wrap=True)
    errors.print(summary, style="dim", highlight=False)


def show_one(thing: Any, title: str, said: str, as_json: bool) -> None:
    """A thing as JSON, or as one line with what is said of it; a name in it is neither markup nor an emoji's name."""
    show_json(thing) if as_json else console.print(Text.assemble((title, "bold"), f"  {said}"), soft_wrap=True)


def show_deleted(name: str, as_json: bool) -> None:
    """That the object is gone."""
    show_one({"id": name, "deleted": True}, name, "deleted", as_json)


def show_json_line(value: Any) -> None:
    """One JSON object a line, for streams."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


Column = tuple[str, Callable[[Any], object]]


def show_rows(rows: Sequence[Any], columns: Sequence[Column], as_json: bool) -> None:
    """The rows as they came, or as a table."""
    if as_json:
        show_json(rows)
    else:
        show_table(rows, columns)


def show_table(rows: Iterable[Any], columns: Sequence[Column]) -> None:
    """A table whose cells are made by each column's function."""
    draw(console, [title for title, _ in columns], [[_cell(make(row)) for _, make in columns] for row in rows])


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def when(seconds: int | None) -> str:
    """Unix seconds as local time."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, tz=timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
