"""Chooses the next token of each row, with no more logits than the rows' grammars leave open."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

from engines.lmhost.guidance import Allowed
from engines.lmhost.model import Llama
from engines.lmhost.rows import Row
from engines.lmhost.sampling import choose


class Chooser:
    """Sampling over the whole vocabulary or over the few tokens that a grammar allows."""

    def __init__(self, model: Llama) -> None:
        self._model = model

    def choose(self, rows: list[Row], hidden: Tensor) -> list[int]:
        """One token id for each row; ``hidden [len(rows), hidden_size]``."""
        allowed = [row.walk.allowed() if row.walk else None for row in rows]
        tokens = [0] * len(rows)
        for members in _alike(allowed):
            first = allowed[members[0]]
            picked = [rows[i] for i in members]
            if first is not None and first.ids is not None:
                found = self._among(picked, hidden[members], first.ids)
            else:
                found = self._any(picked, hidden[members], [allowed[i] for i in members])
            for i, token in zip(members, found, strict=True):
                tokens[i] = token
        return tokens

    def _among(self, rows: list[Row], hidden: Tensor, ids: Tensor) -> list[int]:
        names = ids.tolist()
        if len(names) == 1:
            return names * len(rows)
        logits = self._model.logits_of(hidden, ids.to(hidden.device))
        return [names[column] for column in choose(logits, [row.draw() for row in rows])]

    def _any(self, rows: list[Row], hidden: Tensor, allowed: list[Allowed | None]) -> list[int]:
        logits = self._model.logits(hidden)
        for row, rule in enumerate(allowed):
            if rule is not None and rule.forbidden is not None:
                logits[row].masked_fill_(rule.forbidden.to(logits.device), float("-inf"))
        return choose(logits, [row.draw() for row in rows])


def _alike(allowed: list[Allowed | None]) -> list[list[int]]:
    """Indices grouped so that rows with the same few tokens, and all rows without such, are together."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, rule in enumerate(allowed):
        groups[0 if rule is None or rule.ids is None else id(rule)].append(index)
    return list(groups.values())
