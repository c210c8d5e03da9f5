"""What each call of a loaded program's predictor takes along: the grammar of its answers, and whether their bound is a default."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from stillhouse_programs.grammar import Grammar, derive_grammar
from stillhouse_programs.tuned_provider import DEFAULT_BOUND, GRAMMAR, carried

_KEPT_GRAMMARS = 1000


@dataclass(frozen=True)
class CallOptions:
    """What the calls of one predictor add to their config, while `model` is the one that is asked.

    `model` is an LM's model string, as `tune/sh-…`; another LM that the app sets may not know grammars. `held_by` is the prompt adapter
    whose answers a grammar holds, `bound` the default of `max_tokens`; None where there is none.
    """

    model: str
    held_by: dspy.Adapter | None
    bound: int | None

    def __call__(self, lm: Any, signature: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Raises NoGrammar for a signature of the caller's own that no grammar holds."""
        if getattr(lm, "model", None) != self.model:
            return {}
        added: dict[str, Any] = {}
        if self.held_by is not None:
            added[GRAMMAR] = _grammar(signature, self.held_by)
        if self.bound is not None and config.get("max_tokens") is None and lm.kwargs.get("max_tokens") == self.bound:
            added[DEFAULT_BOUND] = True
        return carried({**lm.kwargs, **config}, added) if added else {}


@functools.lru_cache(_KEPT_GRAMMARS)
def _grammar(signature: Any, prompt_adapter: dspy.Adapter) -> Grammar:
    return derive_grammar(signature, prompt_adapter)
