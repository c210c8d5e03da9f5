"""Renders questions into training rows and prompts, and reads answers, by the student's own prompt adapter; apart, since it loads dspy."""

from __future__ import annotations

from typing import Any

from bench.side import Json, serve
from bench.task import program
from stillhouse_programs.build import build_program
from stillhouse_programs.grammar import derive_grammar
from stillhouse_programs.prompts import Unparsable, make_prompt_adapter, parse, render_answer
from stillhouse_programs.render import Rejection, render_row
from stillhouse_programs.spec import parse_spec

LABEL = "category"


class Renderer:
    """The task's one predictor with the stock chat prompt adapter."""

    def __init__(self) -> None:
        self._program = build_program(parse_spec(program()))
        self._prompt_adapter = make_prompt_adapter("chat")
        self._signature: Any = dict(self._program.named_predictors())["self"].signature

    def answer(self, request: Json) -> Json:
        if request["op"] == "rows":
            return {"rows": [self._row(row) for row in request["rows"]]}
        if request["op"] == "grammar":
            return {"grammar": derive_grammar(self._signature, self._prompt_adapter), "answers": self._answers(request["labels"])}
        return {"labels": [self._read(text) for text in request["texts"]]}

    def _row(self, row: Json) -> Json:
        call = {"inputs": {"question": row["question"]}, "outputs": {LABEL: row[LABEL]}, "overrides": []}
        made = render_row(self._program, "self", call, self._prompt_adapter)
        if isinstance(made, Rejection):
            raise ValueError(f"{row['question']}: {made.message}")
        return {"prompt": made.prompt, "completion": made.completion, "digest": made.digest}

    def _answers(self, labels: list[str]) -> list[str]:
        return [render_answer(self._prompt_adapter, self._signature, {LABEL: label}) for label in labels]

    def _read(self, text: str) -> str | None:
        try:
            return str(parse(self._prompt_adapter, self._signature, text)[LABEL])
        except Unparsable:
            return None


if __name__ == "__main__":
    serve(Renderer().answer)
