"""From logits to tokens. Randomness is a function of (seed, sample, position) alone, so batch mates cannot change an answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a request samples: ``temperature`` 0 is greedy; ``top_p`` keeps the smallest set with that much probability."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """One token to choose: the request's sampling, and the number in [0, 1) that decides."""

    sampling: Sampling
    uniform: float


@dataclass(frozen=True)
class Chosen:
    """A token of an answer. ``logprob`` is the model's for it among the tokens that were allowed, before temperature and ``top_p``;
    ``top`` are the likeliest of these with theirs. Both are empty where the request does not ask for them."""

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def forced(token: int, most: int | None) -> Chosen:
    """The only token that was allowed, which is told beside itself where the ``most`` likeliest are."""
    return Chosen(token, 0.0, ((token, 0.0),) if most else ())


def weighed(token: int, logits: Tensor, ids: list[int] | None, most: int) -> Chosen:
    """A token with the log-probabilities of itself and the ``most`` likeliest among ``ids``, which ``logits [n]`` belong to; None are all
    tokens."""
    logprobs = logits.log_softmax(-1)
    values, columns = logprobs.topk(min(most, logits.shape[0]))
    names = columns.tolist() if ids is None else [ids[column] for column in columns.tolist()]
    column = token if ids is None else ids.index(token)
    top = tuple((name, value) for name, value in zip(names, values.tolist(), strict=True) if value > float("-inf"))
    return Chosen(token, float(logprobs[column]), top)


def uniform(seed: int, sample: int, position: int) -> float:
    """The number in [0, 1) for one position of one sample of a request."""
    digest = hashlib.blake2b(f"{seed}:{sample}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def choose(logits: Tensor, draws: list[Draw]) -> list[int]:
    """One column index per row of float32 ``logits [N, V]``; columns at -inf are never chosen."""
    drawn = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if not drawn:
        return logits.argmax(-1).tolist()
    if len(drawn) == len(draws):
        return _sample(logits, draws)
    result = logits.argmax(-1)
    result[drawn] = torch.tensor(_sample(logits[drawn], [draws[row] for row in drawn]), device=result.device)
    return result.tolist()


def _sample(logits: Tensor, draws: list[Draw]) -> list[int]:
    """Inverse transform sampling in token order."""
    temperatures = torch.tensor([draw.sampling.temperature for draw in draws], device=logits.device)
    chances = (logits / temperatures[:, None]).softmax(-1)
    if any(draw.sampling.top_p < 1 for draw in draws):
        chances = _nucleus(chances, torch.tensor([draw.sampling.top_p for draw in draws], device=logits.device))
    # float64: a float32 sum over a large vocabulary would lose the tail.
    steps = chances.double().cumsum(-1)
    target = torch.tensor([draw.uniform for draw in draws], dtype=torch.float64, device=logits.device) * steps[:, -1]
    return torch.searchsorted(steps, target[:, None], right=True)[:, 0].clamp_(max=logits.shape[1] - 1).tolist()


def _nucleus(chances: Tensor, top_p: Tensor) -> Tensor:
    """Zero what lies outside each row's nucleus; the most probable token always stays."""
    ordered, order = chances.sort(stable=True, dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p[:, None]
    return chances.masked_fill(torch.zeros_like(outside).scatter_(-1, order, outside), 0.0)
