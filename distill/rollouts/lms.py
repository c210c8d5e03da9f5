"""An LM as the runner's protocol has it."""

from __future__ import annotations

from typing import Any

from distill.spec import LmSpec


def runner_lm(lm: LmSpec, slot: str, answer_tokens: int | None) -> dict[str, Any]:
    """An entry of `lms`: `slot` is where the relay sends its calls, `answer_tokens` the bound of answers where the LM sets none."""
    body = {"slot": slot, "options": lm.options(), "constrain": lm.constrain, "native": list(lm.native)}
    return body if answer_tokens is None else {**body, "answer_tokens": answer_tokens}
