"""Chooses the next token of each row, with no more logits than the rows' grammars leave open."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

from engines.lmhost.model import Llama
from engines.lmhost.rows import Row
from engines.lmhost.sampling import Draw, choose
from engines.lmhost.walks import Allowed

# A row, and how many drafted tokens lie between its last token and the one to choose.
Place = tuple[Row, int]


class Chooser:
    """Sampling over the whole vocabulary or over the few tokens that a grammar allows."""

    def __init__(self, model: Llama) -> None:
        self._model = model

    def choose(self, places: list[Place], hidden: Tensor) -> list[int]:
        """One token id for each place; ``hidden [len(places), hidden_size]``."""
        allowed = [row.walk.allowed() if row.walk else None for row, _ in places]
        tokens = [0] * len(places)
        for members in _alike(allowed):
            first = allowed[members[0]]
            picked = [places[i][0].draw(places[i][1]) for i in members]
            if first is not None and first.ids is not None:
                found = self._among(picked, hidden[members], first.ids)
            else:
                found = self._any(picked, hidden[members], [allowed[i] for i in members])
            for i, token in zip(members, found, strict=True):
                tokens[i] = token
        return tokens

    def _among(self, draws: list[Draw], hidden: Tensor, ids: Tensor) -> list[int]:
        names = ids.tolist()
        if len(names) == 1:
            return names * len(draws)
        logits = self._model.logits_of(hidden, ids.to(hidden.device))
        return [names[column] for column in choose(logits, draws)]

    def _any(self, draws: list[Draw], hidden: Tensor, allowed: list[Allowed | None]) -> list[int]:
        logits = self._model.logits(hidden)
        for row, rule in enumerate(allowed):
            if rule is not None and rule.forbidden is not None:
                logits[row].masked_fill_(rule.forbidden.to(logits.device), float("-inf"))
        return choose(logits, draws)


def _alike(allowed: list[Allowed | None]) -> list[list[int]]:
    """Indices grouped so that rows with the same few tokens, and all rows without such, are together."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, rule in enumerate(allowed):
        groups[0 if rule is None or rule.ids is None else id(rule)].append(index)
    return list(groups.values())
