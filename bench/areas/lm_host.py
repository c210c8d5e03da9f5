"""LM host requests a second against transformers' generate, which answers one prompt after another: base and LoRA, free and constrained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.areas.training import ADAPTER
from bench.figures import interleave
from bench.host import Host, lm_host
from bench.report import Detail, Figure, figure, measured
from bench.session import BASE_MODEL, Session
from bench.side import Side
from bench.task import trec
from examples.trec.data import CATEGORIES

AREA = "lm_host"
OTHER = "transformers generate"
IN_FLIGHT = (1, 16, 32)
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
    """The prompts of each side, the constraint as the host takes it, and as `generate` takes it."""

    prompts: Prompts
    few: Prompts
    grammar: dict[str, Any]
    answers: list[str]


KINDS = [Kind(model, constrained) for model in ("base", "lora") for constrained in (False, True)]


def measure(session: Session) -> list[Figure]:
    rounds = session.size(1, 3)
    session.expect(1 + rounds * len(KINDS) * (1 + len(IN_FLIGHT)))
    session.tick("loading the models")
    adapter = session.folder(ADAPTER)
    trained = (adapter / "adapter_config.json").is_file()
    asked = _asked(session)
    arguments = (BASE_MODEL, str(adapter), str(session.threads))
    with Side("generate", session.environment(), session.folder(AREA) / "generate.log", arguments) as stock, lm_host(session) as host:
        host.load(LORA, adapter)
        _warm_up(host, stock, asked)
        made = []
        for kind in KINDS:
            made += _compare(session, kind, host, stock, asked, rounds, "trained" if trained else "random")
        return made


def _asked(session: Session) -> Asked:
    count = session.size(8, 64)
    _, held_out = trec(session.home / "downloads", 0, count, session.seed)
    environment = session.environment(DSPY_CACHEDIR=str(session.folder("dspy-cache")))
    with Side("render_rows", environment, session.folder(AREA) / "rows.log") as side:
        prompts = [row["prompt"] for row in side.ask(op="rows", rows=held_out)["rows"]]
        found = side.ask(op="grammar", labels=sorted(CATEGORIES.values()))
    return Asked(prompts, prompts[: session.size(2, 6)], found["grammar"], found["answers"])


def _warm_up(host: Host, stock: Side, asked: Asked) -> None:
    """One prompt each, so that neither side's first pass counts; the host then has the prompts' shared beginning in its cache."""
    for kind in KINDS:
        _ours(host, kind, asked, asked.few[:1], 1)
        _stock(stock, kind, asked, asked.few[:1])


def _compare(session: Session, kind: Kind, host: Host, stock: Side, asked: Asked, rounds: int, adapter: str) -> list[Figure]:
    def ours(in_flight: int) -> Round:
        session.tick(f"{kind.name}, {in_flight} in flight")
        return _ours(host, kind, asked, asked.few if in_flight == 1 else asked.prompts, in_flight)

    def other() -> Round:
        session.tick(f"{kind.name}, one by one")
        return _stock(stock, kind, asked, asked.few)

    sides: list[Callable[[], Round]] = [other, *(partial(ours, width) for width in IN_FLIGHT)]
    theirs, *mine = interleave(rounds, sides)
    return [_figure(kind, width, found, theirs, adapter) for width, found in zip(IN_FLIGHT, mine, strict=True)]


def _figure(kind: Kind, in_flight: int, ours: Sequence[Round], other: Sequence[Round], adapter: str) -> Figure:
    wall = measured("requests/s", "higher", [each.rate for each in ours], [each.rate for each in other])
    cpu = measured("CPU s/request", "lower", [each.cpu for each in ours], [each.cpu for each in other])
    same = sum(a == b for a, b in zip(ours[0].texts, other[0].texts, strict=False))
    details: dict[str, Detail] = {"n_other": len(other[0].texts), "same_answers": same, "dtype": "float32"}
    if kind.model == "lora":
        details["lora_adapter"] = adapter
    return figure(AREA, f"{kind.name}, {in_flight} in flight", wall, n=len(ours[0].texts), cpu=cpu, other_name=OTHER, details=details)


def _ours(host: Host, kind: Kind, asked: Asked, prompts: Prompts, in_flight: int) -> Round:
    model = BASE_MODEL if kind.model == "base" else LORA
    found = host.ask(model, prompts, in_flight, asked.grammar if kind.constrained else None)
    return Round(len(prompts) / found.seconds, found.cpu_seconds / len(prompts), found.texts)


def _stock(stock: Side, kind: Kind, asked: Asked, prompts: Prompts) -> Round:
    timed = stock.timed(prompts=prompts, model=kind.model, answers=asked.answers if kind.constrained else None)
    return Round(len(prompts) / timed.seconds, timed.cpu_seconds / len(prompts), timed.reply["texts"])
