"""Grammars that accept few texts: a tree of the tokens in which the tokenizer writes them.

An answer is one of the tokenizer's own spellings of these texts, not any sequence of tokens that reads the same: a model has been
trained on the former. Each token is drawn among those that may follow there, so that an answer has the product of their probabilities.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from engines.lmhost.ahead import Ahead
from engines.lmhost.walks import Allowed


@dataclass(eq=False)
class Node:
    """A beginning of an answer; ``forks`` are the nodes from here on, this one included, where the model has to choose."""

    children: dict[int, Node] = field(default_factory=dict)
    accepts: bool = False
    forks: int = 0
    allowed: Allowed = field(default_factory=lambda: Allowed(None, None))


class ClosedGrammar:
    """A grammar that accepts ``answers``, each a sequence of tokens; one that others go on from ends with one of ``ends``."""

    def __init__(self, answers: Iterable[list[int]], ends: list[int]) -> None:
        self._root = Node()
        for answer in answers:
            node = self._root
            for token in answer:
                node = node.children.setdefault(token, Node())
            node.accepts = True
        self._finish(ends)

    def walk(self) -> ClosedWalk:
        """A fresh walk from the start."""
        return ClosedWalk(self._root)

    def _finish(self, ends: list[int]) -> None:
        nodes, at = [self._root], 0
        while at < len(nodes):
            nodes.extend(nodes[at].children.values())
            at += 1
        for node in reversed(nodes):
            ids = [*node.children, *(ends if node.accepts else [])]
            node.allowed = Allowed(torch.tensor(sorted(ids)), None)
            node.forks = sum(child.forks for child in node.children.values()) + (len(node.children) + node.accepts > 1)


class ClosedWalk:
    """One row's way through the tree."""

    error = ""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def done(self) -> bool:
        return not self._node.children

    def accept(self, token: int) -> None:
        self._node = self._node.children[token]

    def forced(self) -> list[int]:
        tokens = list[int]()
        while len(self._node.children) == 1 and not self._node.accepts:
            ((token, self._node),) = self._node.children.items()
            tokens.append(token)
        return tokens

    def allowed(self) -> Allowed:
        return self._node.allowed

    def ahead(self, most: int, depth: int) -> Ahead:
        """The nearest come first."""
        tokens, parents, forks = list[int](), list[int](), list[int]()
        queue = deque([(self._node, -1, 0)])
        while queue:
            node, place, length = queue.popleft()
            if place >= 0 and len(node.children) + node.accepts > 1:
                forks.append(place)
            below = [(token, child) for token, child in node.children.items() if child.forks] if length < depth else []
            for token, child in below[: most - len(tokens)]:
                tokens.append(token)
                parents.append(place)
                queue.append((child, len(tokens) - 1, length + 1))
        return _pruned(tokens, parents, forks)


def _pruned(tokens: list[int], parents: list[int], forks: list[int]) -> Ahead:
    """Without the tokens that lead to no fork."""
    kept = set[int]()
    for place in forks:
        while place >= 0 and place not in kept:
            kept.add(place)
            place = parents[place]
    places = {place: number for number, place in enumerate(sorted(kept))}
    return Ahead(
        tuple(tokens[place] for place in places),
        tuple(places.get(parents[place], -1) for place in places),
        tuple(places[place] for place in forks),
    )
