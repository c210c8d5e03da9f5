"""What LM calls cost, in US dollars: the operator's own prices first, else the published ones of known providers. Never a guess.

A provider is known by its address alone: a proxy may serve a model of the same name at another price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from distill.catalog.models import Connection
from distill.relay import Price
from distill.spec import LmSpec

ANY_MODEL = "*"
_PER = 1_000_000
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", ""})


@dataclass(frozen=True)
class Flat:
    """Dollars per million tokens."""

    input: float
    output: float
    cached_input: float

    def __call__(self, usage: Mapping[str, Any]) -> float:
        prompt, completion, cached = counted(usage)
        return ((prompt - cached) * self.input + cached * self.cached_input + completion * self.output) / _PER


@dataclass(frozen=True)
class Tiered:
    """A published price that depends on how long the prompt is."""

    model_price: Any

    def __call__(self, usage: Mapping[str, Any]) -> float:
        from genai_prices import Usage

        prompt, completion, cached = counted(usage)
        found = self.model_price.calc_price(Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached))
        return float(found["total_price"])


def counted(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """(prompt tokens, completion tokens, those of the prompt that were cached), from OpenAI's usage or from a trace's."""
    details = usage.get("prompt_tokens_details") or {}
    prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    cached = int(usage.get("cached_tokens") or details.get("cached_tokens") or 0)
    return prompt, completion, min(cached, prompt)


def price_of(connection: Connection, model: str) -> Price | None:
    """What a call of a connection's model costs; None where nobody said."""
    own = connection.prices.get(model) or connection.prices.get(ANY_MODEL)
    if own is not None:
        cached = own.get("cached_input")
        return Flat(own["input"], own["output"], own["input"] if cached is None else cached)
    return _published(connection.base_url, model, datetime.now(UTC).strftime("%Y-%m-%d %H"))


def price_of_lm(connection: Connection, lm: LmSpec) -> Price | None:
    """Of an LM of a job: a fine-tuned model is asked at its base model's price, unless it has one of its own."""
    return price_of(connection, lm.model) or (price_of(connection, lm.base_model) if lm.base_model else None)


@lru_cache(maxsize=256)
def _published(base_url: str, model: str, hour: str) -> Price | None:
    """Looked up anew every hour: some providers have prices for the night. The table is part of the package; nothing is fetched."""
    if (urlsplit(base_url).hostname or "") in _LOCAL:
        return None
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, found = get_snapshot().find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    prices = found.get_prices(datetime.now(UTC))
    rates: list[Any] = [prices.input_mtok, prices.output_mtok, prices.cache_read_mtok]
    if any(rate is not None and not isinstance(rate, Decimal) for rate in rates):
        return Tiered(prices)
    if rates[0] is None or rates[1] is None:
        return None
    return Flat(float(rates[0]), float(rates[1]), float(rates[0] if rates[2] is None else rates[2]))
