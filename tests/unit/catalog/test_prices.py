"""Prices of calls: the operator's, the published ones, and none at all."""

from typing import Any

import pytest

from distill.catalog.models import Connection
from distill.catalog.prices import price_of
from distill.settings import Settings

OPENAI = "https://api.openai.com/v1"


def cost(base_url: str, model: str, prices: dict[str, Any] | None = None, **used: Any) -> float | None:
    price = price_of(Connection(base_url=base_url, prices=prices or {}), model)
    return None if price is None else price(used)


class TestOwnPrices:
    def test_cached_tokens_are_part_of_the_prompt(self) -> None:
        own = {"big": {"input": 2.0, "output": 8.0, "cached_input": 0.5}}
        used = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
        assert cost("http://10.0.0.1/v1", "big", own, **used) == pytest.approx((600 * 2 + 400 * 0.5 + 100 * 8) / 1e6)

    def test_without_a_price_of_their_own_they_cost_what_the_others_do(self) -> None:
        assert cost("http://h/v1", "big", {"big": {"input": 2.0, "output": 8.0}}, prompt_tokens=10, cached_tokens=4) == pytest.approx(
            20 / 1e6
        )

    def test_a_star_stands_for_the_other_models(self) -> None:
        own = {"big": {"input": 2.0, "output": 8.0}, "*": {"input": 0.0, "output": 0.0}}
        assert (cost("http://h/v1", "big", own, prompt_tokens=10), cost("http://h/v1", "x", own, prompt_tokens=10)) == (20 / 1e6, 0.0)

    def test_they_win_over_published_ones(self) -> None:
        assert cost(OPENAI, "gpt-4.1-mini", {"gpt-4.1-mini": {"input": 1.0, "output": 1.0}}, prompt_tokens=1_000_000) == 1.0

    def test_settings_hold_them_by_connection(self) -> None:
        table = {"big": {"input": 2, "output": 8}}
        settings = Settings.model_validate({"connections": {"x": {"base_url": "http://h", "prices": table}}})
        assert settings.connections["x"].prices["big"].output == 8
        with pytest.raises(ValueError, match="greater than or equal to 0"):
            Settings.model_validate({"connections": {"x": {"base_url": "http://h", "prices": {"big": {"input": -1, "output": 8}}}}})


class TestPublishedPrices:
    def test_a_provider_is_known_by_its_address(self) -> None:
        whole = cost(OPENAI, "gpt-4.1-mini", prompt_tokens=1000, completion_tokens=100)
        cached = cost(OPENAI, "gpt-4.1-mini", prompt_tokens=1000, completion_tokens=100, cached_tokens=1000)
        assert whole is not None
        assert cached is not None
        assert whole > cached > 0

    def test_a_price_may_depend_on_the_length_of_the_prompt(self) -> None:
        google = "https://generativelanguage.googleapis.com/v1beta/openai"
        short, long = (cost(google, "gemini-2.5-pro", prompt_tokens=n, completion_tokens=0) for n in (100_000, 400_000))
        assert short is not None
        assert long is not None
        assert long > 4.1 * short

    @pytest.mark.parametrize(
        ("address", "model"),
        [("http://127.0.0.1:8000/v1", "gpt-4.1-mini"), ("https://llm.example/v1", "gpt-4.1-mini"), (OPENAI, "no-such-model")],
    )
    def test_what_nobody_knows_is_unknown(self, address: str, model: str) -> None:
        assert cost(address, model, prompt_tokens=1) is None
