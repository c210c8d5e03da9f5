"""Rows to tokens: the student's chat template over prompt and completion, with the boundary between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engines.chat_template import Conversation, Message, for_template, texts, token_ids
from engines.rendering import TemplateRefused
from engines.schemas import ChatMessage, TrainingRow
from engines.trainer.errors import BadInput

TOGETHER = 64
"""Rows that are rendered at once: their texts are held until they are tokens."""


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
    """Every row of a JSONL file, in order. Raises BadInput naming the row (its line, from 1) that cannot be trained on; RendererError."""
    rows, lines = list[EncodedRow](), _read(path, param)
    while chunk := list(islice(lines, TOGETHER)):
        encoded = encode_all([(f"Row {number}", row) for number, row in chunk], tokenizer, param)
        rows += [_fitting(each, number, max_seq_length, param) for (number, _), each in zip(chunk, encoded, strict=True)]
    return rows


def _fitting(row: EncodedRow | BadInput, number: int, max_seq_length: int, param: str) -> EncodedRow:
    if isinstance(row, BadInput):
        raise row
    if len(row.ids) > max_seq_length:
        raise BadInput(
            "row_too_long",
            f"Row {number} has {len(row.ids)} tokens; max_seq_length is {max_seq_length}. "
            "Rows are never cut: leave it out or allow more tokens.",
            param,
        )
    return row


def encode_all(rows: Sequence[tuple[str, TrainingRow]], tokenizer: Any, param: str) -> list[EncodedRow | BadInput]:
    """Tokens of rows with their names, each by itself, or why it has none; rendered together. Raises RendererError."""
    plans = [_plan(row) for _, row in rows]
    rendered = iter(texts(tokenizer, [conversation for plan in plans for conversation in plan.conversations]))
    encoded = list[EncodedRow | BadInput]()
    for (name, _), plan in zip(rows, plans, strict=True):
        made = list(islice(rendered, len(plan.conversations)))
        try:
            encoded.append(_encoded(plan, made, tokenizer, name, param))
        except BadInput as error:
            encoded.append(error)
    return encoded


@dataclass(frozen=True)
class Plan:
    """What is rendered of a row: its prompt, the whole of it, and the whole without each thing that stands `beside` its text."""

    conversations: tuple[Conversation, ...] = ()
    beside: tuple[str, ...] = ()
    fault: str | None = None


def _plan(row: TrainingRow) -> Plan:
    try:
        prompt, completion = _for_template(row.prompt), _for_template(row.completion)
    except ValueError as error:
        return Plan(fault=str(error))
    messages = [*prompt, *completion]
    plainer = {"tools": Conversation(messages)} if row.tools else {}
    for key, name in (("tool_calls", "tool calls"), ("reasoning_content", "reasoning")):
        without = [{word: value for word, value in message.items() if word != key} for message in messages]
        if without != messages:
            plainer[name] = Conversation(without, row.tools)
    asked = Conversation(prompt, row.tools, asks=True), Conversation(messages, row.tools)
    return Plan((*asked, *plainer.values()), tuple(plainer))


def _encoded(plan: Plan, made: Sequence[str | TemplateRefused], tokenizer: Any, name: str, param: str) -> EncodedRow:
    """Raises BadInput: what the template leaves out is not trained on."""
    refusal = plan.fault or next((str(each) for each in made if isinstance(each, TemplateRefused)), None)
    if refusal is not None:
        raise BadInput("row_not_renderable", f"{name}: the chat template refuses it: {refusal}", param)
    start, text, *plainer = map(str, made)
    if not text.startswith(start):
        raise BadInput("row_not_renderable", f"{name}: the chat template changes the prompt once the completion follows it.", param)
    for missing, without in zip(plan.beside, plainer, strict=True):
        if without == text:
            raise BadInput("row_not_renderable", f"{name}: the base model's chat template says nothing of {missing}.", param)
    return _join(tokenizer, start, text[len(start) :], name, param)


def _for_template(messages: list[ChatMessage]) -> list[Message]:
    return [for_template(message.model_dump(exclude_none=True)) for message in messages]


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
