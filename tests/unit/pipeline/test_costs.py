"""What a rollout cost: known prices add up, an unknown one is unknown and never nothing."""

from typing import Any

from distill.pipeline.costs import Asked, priced, saved


def usage(prompt: int, completion: int, cached: int = 0, **more: Any) -> dict[str, Any]:
    return {"calls": 1, "prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached, **more}


def trace(**lms: dict[str, Any]) -> dict[str, Any]:
    calls = [{"predictor": "a", "lm": slot, "usage": used, "seconds": 0.5} for slot, used in lms.items()]
    lost = {"predictor": "b", "lm": None, "usage": usage(0, 0), "seconds": 0.0}
    return {"status": "ok", "calls": [*calls, lost], "usage": {**usage(9, 9), "lms": lms}}


BIG = Asked("openai/big", lambda used: used["prompt_tokens"] * 2.0 + used["completion_tokens"])
FREE = Asked("house/small", None)


class TestPriced:
    def test_calls_name_their_model_and_their_price(self) -> None:
        made = priced(trace(s0=usage(3, 1), s1=usage(1, 1)), {"s0": BIG, "s1": Asked("openai/small", lambda used: 0.25)})
        assert [(call["model"], call["usage"]["usd"]) for call in made["calls"]] == [
            ("openai/big", 7.0),
            ("openai/small", 0.25),
            (None, 0.0),
        ]
        assert made["usage"]["usd"] == 7.25
        assert made["usage"]["models"]["openai/big"] == {**usage(3, 1), "usd": 7.0}
        assert all("lm" not in call for call in made["calls"])
        assert "lms" not in made["usage"]

    def test_one_unknown_price_makes_the_sum_unknown(self) -> None:
        made = priced(trace(s0=usage(3, 1), s1=usage(1, 1)), {"s0": BIG, "s1": FREE})
        assert made["usage"]["usd"] is None
        assert made["usage"]["models"]["openai/big"]["usd"] == 7.0

    def test_a_program_that_asked_no_lm_cost_nothing(self) -> None:
        assert priced(trace(), {})["usage"]["usd"] == 0


class TestSaved:
    def test_stored_prices_add_up_by_model(self) -> None:
        stored = priced(trace(s0=usage(3, 1)), {"s0": BIG})
        found = saved([stored, stored], [])
        assert (found["openai/big"].calls, found["openai/big"].prompt_tokens, found["openai/big"].usd) == (2, 6, 14.0)

    def test_a_price_that_is_known_by_now_is_used(self) -> None:
        stored = priced(trace(s0=usage(3, 1)), {"s0": Asked("openai/big", None)})
        assert saved([stored], [])["openai/big"].usd is None
        assert saved([stored], [BIG])["openai/big"].usd == 7.0
