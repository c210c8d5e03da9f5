"""What a rollout asked, and what it cost: the runner knows slots, the house knows models and prices."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Price = Callable[[Mapping[str, Any]], float]
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")


@dataclass(frozen=True)
class Asked:
    """The LM behind a slot: `connection/model`, and its price (None: nobody said)."""

    name: str
    price: Price | None

    def usd(self, usage: Mapping[str, Any]) -> float | None:
        return None if self.price is None else self.price(usage)


@dataclass
class Spent:
    """Calls and tokens of one LM. `usd` is None once a part of it has no known price."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    usd: float | None = 0.0

    def add(self, usage: Mapping[str, Any], usd: float | None) -> None:
        self.calls += int(usage.get("calls") or 0)
        self.prompt_tokens += int(usage.get("prompt_tokens") or 0)
        self.completion_tokens += int(usage.get("completion_tokens") or 0)
        self.cached_tokens += int(usage.get("cached_tokens") or 0)
        self.usd = total([self.usd, usd])


def total(parts: Iterable[float | None]) -> float | None:
    """The sum of prices; None when one of them is unknown."""
    known = list(parts)
    return None if any(part is None for part in known) else sum(part for part in known if part is not None)


def slots_of(trace: Mapping[str, Any]) -> set[str]:
    """All that a runner's trace names, by its calls and in its usage."""
    return {call["lm"] for call in trace["calls"] if call["lm"] is not None}.union(trace["usage"]["lms"])


def priced(trace: Mapping[str, Any], slots: Mapping[str, Asked]) -> Json:
    """A runner's trace as it is stored: slots become models, and every call has its price in `usage.usd`."""
    usage = trace["usage"]
    models = {slots[slot].name: {**used, "usd": slots[slot].usd(used)} for slot, used in usage["lms"].items()}
    counts = {name: value for name, value in usage.items() if name != "lms"}
    spent = {**counts, "usd": total(used["usd"] for used in models.values()), "models": models}
    return {**trace, "calls": [_priced_call(call, slots) for call in trace["calls"]], "usage": spent}


def _priced_call(call: Mapping[str, Any], slots: Mapping[str, Asked]) -> Json:
    """A call that asked no LM has no model, and cost nothing."""
    asked = slots[call["lm"]] if call["lm"] is not None else None
    usd = asked.usd(call["usage"]) if asked is not None else 0.0
    return {
        **{name: value for name, value in call.items() if name != "lm"},
        "model": asked.name if asked is not None else None,
        "usage": {**call["usage"], "usd": usd},
    }


def saved(traces: Iterable[Mapping[str, Any]], known: Iterable[Asked]) -> dict[str, Spent]:
    """What stored traces would have cost again, by model. A price that was unknown when they were made may be known by now."""
    now = {asked.name: asked for asked in known}
    found: dict[str, Spent] = defaultdict(Spent)
    for trace in traces:
        for name, used in (trace["usage"].get("models") or {}).items():
            usd = used["usd"] if used["usd"] is not None or name not in now else now[name].usd(used)
            found[name].add(used, usd)
    return dict(found)
