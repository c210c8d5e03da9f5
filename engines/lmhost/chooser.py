"""Chooses the next token of each row, with no more logits than the rows' grammars leave open."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

from engines.lmhost.model import Llama
from engines.lmhost.rows import Row
from engines.lmhost.sampling import Chosen, choose, forced, weighed
from engines.lmhost.walks import Allowed

# A row, and how many drafted tokens lie between its last token and the one to choose.
Place = tuple[Row, int]


class Chooser:
    """Sampling over the whole vocabulary or over the few tokens that a grammar allows."""

    def __init__(self, model: Llama) -> None:
        self._model = model

    def choose(self, places: list[Place], hidden: Tensor) -> list[Chosen]:
        """One token for each place; ``hidden [len(places), hidden_size]``."""
        allowed = [row.walk.allowed() if row.walk else None for row, _ in places]
        chosen = [Chosen(0)] * len(places)
        for members in _alike(allowed):
            first = allowed[members[0]]
            picked = [places[i] for i in members]
            if first is not None and first.ids is not None:
                found = self._among(picked, hidden[members], first.ids)
            else:
                found = self._any(picked, hidden[members], [allowed[i] for i in members])
            for i, token in zip(members, found, strict=True):
                chosen[i] = token
        return chosen

    def _among(self, places: list[Place], hidden: Tensor, ids: Tensor) -> list[Chosen]:
        names = ids.tolist()
        if len(names) == 1:
            return [forced(names[0], row.request.logprobs) for row, _ in places]
        logits = self._model.logits_of(hidden, ids.to(hidden.device))
        return _chosen(places, logits, names)

    def _any(self, places: list[Place], hidden: Tensor, allowed: list[Allowed | None]) -> list[Chosen]:
        logits = self._model.logits(hidden)
        for row, rule in enumerate(allowed):
            if rule is not None and rule.forbidden is not None:
                logits[row].masked_fill_(rule.forbidden.to(logits.device), float("-inf"))
        return _chosen(places, logits, None)


def _chosen(places: list[Place], logits: Tensor, ids: list[int] | None) -> list[Chosen]:
    """A token for each place, with its log-probability where the row's request asks for it; ``ids`` are the names of the columns."""
    columns = choose(logits, [row.draw(ahead) for row, ahead in places])
    tokens = columns if ids is None else [ids[column] for column in columns]
    wanted = [row.request.logprobs for row, _ in places]
    return [
        Chosen(token) if most is None else weighed(token, each, ids, most) for token, each, most in zip(tokens, logits, wanted, strict=True)
    ]


def _alike(allowed: list[Allowed | None]) -> list[list[int]]:
    """Indices grouped so that rows with the same few tokens, and all rows without such, are together."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, rule in enumerate(allowed):
        groups[0 if rule is None or rule.ids is None else id(rule)].append(index)
    return list(groups.values())
