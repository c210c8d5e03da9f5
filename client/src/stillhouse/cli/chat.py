"""`stillhouse chat MODEL`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from stillhouse import Stillhouse
from stillhouse.cli.output import connected, console, show_json_line

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for each answer.")]


def chat(
    model: Annotated[str, typer.Argument(help="An id that `stillhouse models list` shows.")],
    message: Annotated[str | None, typer.Argument(help="What to say; without it, each line of standard input.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of each answer.")] = None,
    as_json: Json = False,
) -> None:
    """Talk to a model; the answer is shown while it comes. It remembers what was said until it ends (Ctrl-D).

    A fine-tuned model expects the prompts of its program: `stillhouse artifacts call` makes them.
    """
    options = {name: value for name, value in {"temperature": temperature, "max_tokens": max_tokens}.items() if value is not None}
    said: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    with connected() as client:
        for text in _lines() if message is None else [message]:
            said.append({"role": "user", "content": text})
            answer = _answer(client, model, said, options, as_json)
            said.append({"role": "assistant", "content": answer})
            if as_json:
                show_json_line({"model": model, "content": answer})


def _answer(client: Stillhouse, model: str, said: list[dict[str, Any]], options: dict[str, Any], as_json: bool) -> str:
    parts = []
    for part in client.chat.stream(model, said, **options):
        parts.append(part)
        if not as_json:
            console.print(part, end="", highlight=False, markup=False, soft_wrap=True)
    if not as_json:
        console.print()
    return "".join(parts)


def _lines() -> Iterator[str]:
    """What somebody types, or pipes in."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            console.print("> ", end="", style="bold")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
