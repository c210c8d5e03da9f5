"""Rows to tokens: the student's chat template over prompt and completion, with the boundary between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engines.chat_template import Message, Tools, for_template, prompt_text, token_ids, whole_text
from engines.schemas import ChatMessage, TrainingRow
from engines.trainer.errors import BadInput


@dataclass(frozen=True)
class EncodedRow:
    """A row as token ids; ``ids[prompt_length:]`` is the completion, the end-of-turn token last."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def n_targets(self) -> int:
        """How many tokens the loss is taken over."""
        return len(self.ids) - self.prompt_length


def encode_file(path: Path, tokenizer: Any, max_seq_length: int, param: str) -> list[EncodedRow]:
    """Every row of a JSONL file, in order. Raises BadInput naming the row (its line, from 1) that cannot be trained on."""
    rows = []
    for number, row in _read(path, param):
        encoded = encode(row, tokenizer, f"Row {number}", param)
        if len(encoded.ids) > max_seq_length:
            raise BadInput(
                "row_too_long",
                f"Row {number} has {len(encoded.ids)} tokens; max_seq_length is {max_seq_length}. "
                "Rows are never cut: leave it out or allow more tokens.",
                param,
            )
        rows.append(encoded)
    return rows


def encode(row: TrainingRow, tokenizer: Any, name: str, param: str) -> EncodedRow:
    """Tokens of one row through the tokenizer's chat template. Raises BadInput where prompt and row do not line up."""
    try:
        prompt, completion = _for_template(row.prompt), _for_template(row.completion)
        start = prompt_text(tokenizer, prompt, row.tools)
        text = whole_text(tokenizer, [*prompt, *completion], row.tools)
        missing = _left_out(tokenizer, [*prompt, *completion], row.tools, text)
    except Exception as error:  # a template raises what it likes
        raise BadInput("row_not_renderable", f"{name}: the chat template refuses it: {error}", param) from error
    if not text.startswith(start):
        raise BadInput("row_not_renderable", f"{name}: the chat template changes the prompt once the completion follows it.", param)
    if missing:
        raise BadInput("row_not_renderable", f"{name}: the base model's chat template says nothing of {missing}.", param)
    return _join(tokenizer, start, text[len(start) :], name, param)


def _for_template(messages: list[ChatMessage]) -> list[Message]:
    return [for_template(message.model_dump(exclude_none=True)) for message in messages]


def _left_out(tokenizer: Any, messages: list[Message], tools: Tools, text: str) -> str | None:
    """What of a row stands beside its text and is not in what the template made of it: without it, the template makes the same."""
    if tools and whole_text(tokenizer, messages, None) == text:
        return "tools"
    for key, name in (("tool_calls", "tool calls"), ("reasoning_content", "reasoning")):
        plainer = [{word: value for word, value in message.items() if word != key} for message in messages]
        if plainer != messages and whole_text(tokenizer, plainer, tools) == text:
            return name
    return None


def _join(tokenizer: Any, start: str, rest: str, name: str, param: str) -> EncodedRow:
    """Prompt and completion are tokenised apart, as they are when the model answers: its prompt ends where ours ends."""
    prompt, completion = token_ids(tokenizer, start), token_ids(tokenizer, rest)
    # The template may put a newline after the end-of-turn token; the model never has to say it.
    while completion and completion[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id in completion:
        completion.pop()
    if not completion:
        raise BadInput("row_empty", f"{name}: the completion has no tokens.", param)
    return EncodedRow((*prompt, *completion), len(prompt))


def _read(path: Path, param: str) -> Iterator[tuple[int, TrainingRow]]:
    if not path.is_file():
        raise BadInput("rows_missing", f"There is no file {path.name!r} in the work folder.", param)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _parse(line, number, param)


def _parse(line: str, number: int, param: str) -> TrainingRow:
    try:
        return TrainingRow.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "line"
        raise BadInput("row_invalid", f"Row {number}: {where}: {first['msg']}", param) from error
