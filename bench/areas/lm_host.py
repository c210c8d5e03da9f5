"""LM host requests a second against transformers' generate, which answers one prompt after another: base and LoRA, free and constrained.

And eight samples of a constrained answer against one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from bench.areas.training import ADAPTER
from bench.figures import interleave
from bench.host import Host, lm_host
from bench.report import Detail, Figure, figure, measured
from bench.session import Session
from bench.side import Side
from bench.task import trec
from examples.trec.data import CATEGORIES

AREA = "lm_host"
OTHER = "generate"
IN_FLIGHT = (1, 16, 32)
SAMPLES = 8
LORA = "bench-lora"

Prompts = list[list[dict[str, Any]]]


@dataclass(frozen=True)
class Kind:
    """What is asked for: by which model, and whether the answer is constrained."""

    model: str
    constrained: bool

    @property
    def name(self) -> str:
        return f"{self.model}, {'constrained' if self.constrained else 'free'}"


@dataclass(frozen=True)
class Round:
    """Requests a second, CPU seconds a request, and the answers."""

    rate: float
    cpu: float
    texts: list[str]


@dataclass(frozen=True)
class Asked:
    """Prompts that nobody has seen yet, the constraint as the host takes it, and as `generate` takes it.

    Every prompt is asked once, or by the two sides once each: the host remembers what it has read.
    """

    unseen: Iterator[list[dict[str, Any]]]
    grammar: dict[str, Any]
    answers: list[str]

    def take(self, count: int) -> Prompts:
        return list(islice(self.unseen, count))


KINDS = [Kind(model, constrained) for model in ("base", "lora") for constrained in (False, True)]


def measure(session: Session) -> list[Figure]:
    rounds = session.size(1, 3)
    session.expect(1 + rounds * (len(KINDS) * (1 + len(IN_FLIGHT)) + 2))
    session.tick("loading the models")
    adapter = session.folder(ADAPTER)
    trained = (adapter / "adapter_config.json").is_file()
    asked = _asked(session)
    arguments = (session.base_model, str(adapter), str(session.threads))
    with Side("generate", session.environment(), session.folder(AREA) / "generate.log", arguments) as stock, lm_host(session) as host:
        host.load(LORA, adapter)
        _warm_up(host, stock, asked)
        made = []
        for kind in KINDS:
            made += _compare(session, kind, host, stock, asked, rounds, "trained" if trained else "random")
        return [*made, _several(session, host, asked, rounds)]


def _asked(session: Session) -> Asked:
    few, many = _counts(session)
    count = len(KINDS) * (1 + session.size(1, 3) * (few + (len(IN_FLIGHT) - 1) * many)) + session.size(1, 3) * 2 * few
    _, held_out = trec(session.home / "downloads", 0, count, session.seed)
    environment = session.environment(DSPY_CACHEDIR=str(session.folder("dspy-cache")))
    with Side("render_rows", environment, session.folder(AREA) / "rows.log") as side:
        prompts = [row["prompt"] for row in side.ask(op="rows", rows=held_out)["rows"]]
        found = side.ask(op="grammar", labels=sorted(CATEGORIES.values()))
    return Asked(iter(prompts), found["grammar"], found["answers"])


def _counts(session: Session) -> tuple[int, int]:
    """Prompts of a round: one by one, and side by side."""
    return session.size(2, 6), session.size(8, 64)


def _warm_up(host: Host, stock: Side, asked: Asked) -> None:
    """One prompt each, so that neither side's first pass counts; the host then has the prompts' shared beginning in its cache."""
    for kind in KINDS:
        prompts = asked.take(1)
        _ours(host, kind, asked, prompts, 1)
        _stock(stock, kind, asked, prompts)


def _compare(session: Session, kind: Kind, host: Host, stock: Side, asked: Asked, rounds: int, adapter: str) -> list[Figure]:
    few, many = _counts(session)
    shared: Prompts = []

    def other() -> Round:
        session.tick(f"{kind.name}, one by one")
        shared[:] = asked.take(few)
        return _stock(stock, kind, asked, shared)

    def ours(in_flight: int) -> Round:
        session.tick(f"{kind.name}, {in_flight} in flight")
        return _ours(host, kind, asked, shared if in_flight == 1 else asked.take(many), in_flight)

    sides: list[Callable[[], Round]] = [other, *(partial(ours, width) for width in IN_FLIGHT)]
    theirs, *mine = interleave(rounds, sides)
    return [_figure(kind, width, found, theirs, adapter) for width, found in zip(IN_FLIGHT, mine, strict=True)]


def _several(session: Session, host: Host, asked: Asked, rounds: int) -> Figure:
    """SAMPLES constrained answers to each prompt of the base model, and one; both drawn at temperature 1, one prompt after another."""
    few, _ = _counts(session)

    def side(samples: int) -> Round:
        session.tick(f"{samples} samples of a prompt")
        prompts = asked.take(few)
        found = host.ask(host.base_model, prompts, 1, asked.grammar, {"n": samples, "temperature": 1, "seed": session.seed})
        return Round(few / found.seconds, found.cpu_seconds / few, found.texts)

    ours, other = interleave(rounds, [partial(side, SAMPLES), partial(side, 1)])
    wall = measured("prompts/s", "higher", [each.rate for each in ours], [each.rate for each in other])
    cpu = measured("CPU s/prompt", "lower", [each.cpu for each in ours], [each.cpu for each in other])
    name = f"base, constrained, {SAMPLES} samples of a prompt"
    return figure(AREA, name, wall, n=few, cpu=cpu, other_name="1 sample", details={"dtype": "float32"})


def _figure(kind: Kind, in_flight: int, ours: Sequence[Round], other: Sequence[Round], adapter: str) -> Figure:
    wall = measured("requests/s", "higher", [each.rate for each in ours], [each.rate for each in other])
    cpu = measured("CPU s/request", "lower", [each.cpu for each in ours], [each.cpu for each in other])
    details: dict[str, Detail] = {"n_other": len(other[0].texts), "dtype": "float32"}
    if in_flight == 1:
        # The grammar leaves a line end at the end open; the host leaves it out, and the texts that `generate` may say have it.
        details["same_answers"] = sum(
            a.removesuffix("\n") == b.removesuffix("\n")
            for mine, its in zip(ours, other, strict=True)
            for a, b in zip(mine.texts, its.texts, strict=True)
        )
    if kind.model == "lora":
        details["lora_adapter"] = adapter
    return figure(AREA, f"{kind.name}, {in_flight} in flight", wall, n=len(ours[0].texts), cpu=cpu, other_name=OTHER, details=details)


def _ours(host: Host, kind: Kind, asked: Asked, prompts: Prompts, in_flight: int) -> Round:
    model = host.base_model if kind.model == "base" else LORA
    found = host.ask(model, prompts, in_flight, asked.grammar if kind.constrained else None)
    return Round(len(prompts) / found.seconds, found.cpu_seconds / len(prompts), found.texts)


def _stock(stock: Side, kind: Kind, asked: Asked, prompts: Prompts) -> Round:
    timed = stock.timed(prompts=prompts, model=kind.model, answers=asked.answers if kind.constrained else None)
    return Round(len(prompts) / timed.seconds, timed.cpu_seconds / len(prompts), timed.reply["texts"])
