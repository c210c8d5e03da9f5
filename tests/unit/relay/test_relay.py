"""The relay over its Unix socket, against a scripted LM host."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from distill.catalog.prices import Flat
from distill.relay import Amount, Block, Relay, RelayLimits, Shortage, Target
from tests.support.runner_connector import RunnerConnector
from tests.support.scripted_lm import Answer, Ask, CutShort, Fail, Hang, HangUp, Raw, ScriptedLM
from tests.unit.relay.support import BODY, LIMITS, target


async def post(
    relay: Relay, token: str, body: Any = None, raw: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any], str | None]:
    async with aiohttp.ClientSession(connector=RunnerConnector(relay.connections())) as session:
        data = raw if raw is not None else json.dumps(body or BODY).encode()
        sent = {**(headers or {}), "authorization": f"Bearer {token}"}
        async with session.post("http://relay/v1/chat/completions", data=data, headers=sent) as reply:
            return reply.status, await reply.json(), reply.headers.get("stillhouse-error")


def of_calls(calls: int) -> Block:
    return Block(Amount(calls, inf, inf))


def first(*answers: Answer) -> Callable[[Ask], Answer]:
    """These answers in turn, then `fine`."""
    return lambda ask: answers[ask.n] if ask.n < len(answers) else "fine"


def ten_seconds_each(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Callable[[Ask], Answer]:
    """The same answer to everything. By the relay's clock each request takes ten seconds, and nothing else takes any time."""
    now = [0.0]
    monkeypatch.setattr("distill.relay.upstream.time", SimpleNamespace(monotonic=lambda: now[0]))

    def slowly(_ask: Ask) -> Answer:
        now[0] += 10
        return answer

    return slowly


class TestForwardingForRunners:
    def test_slot_becomes_model_and_key(self, relay: Relay) -> None:
        with ScriptedLM(answer=lambda ask: "fine") as lm:
            grant = relay.grant({"student": target(lm)})
            status, reply, code = asyncio.run(post(relay, grant.token))
        assert (status, code, reply["choices"][0]["message"]["content"]) == (200, None, "fine")
        assert lm.calls[0].body == {**BODY, "model": "upstream-model"}
        assert lm.calls[0].headers["Authorization"] == "Bearer sk-upstream"

    @pytest.mark.parametrize(("background", "priority"), [(True, "u=7"), (False, None)])
    def test_a_host_is_told_of_calls_that_nobody_waits_for(self, relay: Relay, background: bool, priority: str | None) -> None:
        with ScriptedLM(answer=first()) as lm:
            grant = relay.grant({"student": target(lm)}, background=background)
            asyncio.run(post(relay, grant.token))
        assert lm.calls[0].headers.get("Priority") == priority

    def test_operators_body_wins_and_addresses_are_dropped(self, relay: Relay) -> None:
        with ScriptedLM(answer=first()) as lm:
            grant = relay.grant({"student": target(lm, extra_body={"temperature": 0.0})})
            asyncio.run(post(relay, grant.token, {**BODY, "base_url": "http://elsewhere", "api_key": "x", "stream": True}))
        assert lm.calls[0].body == {**BODY, "model": "upstream-model", "temperature": 0.0}

    def test_no_header_of_the_caller_goes_on(self, relay: Relay) -> None:
        with ScriptedLM(answer=first()) as lm:
            grant = relay.grant({"student": target(lm)})
            sent = {
                "x-canary": "7319",
                "cookie": "canary=7319",
                "openai-organization": "canary",
                "host": "canary.example",
                "api-key": "canary",
            }
            assert asyncio.run(post(relay, grant.token, headers=sent))[0] == 200
        received = {name.lower(): value for name, value in lm.calls[0].headers.items()}
        assert "canary" not in str(received)
        assert received["authorization"] == "Bearer sk-upstream"
        assert received.keys() <= {"authorization", "content-type", "content-length", "host", "user-agent", "accept", "accept-encoding"}

    @pytest.mark.parametrize("token", ["", "wrong"])
    def test_wrong_token_is_401(self, relay: Relay, token: str) -> None:
        assert asyncio.run(post(relay, token))[::2] == (401, "unauthorized")

    def test_unknown_slot_is_404_without_a_call(self, relay: Relay) -> None:
        with ScriptedLM() as lm:
            grant = relay.grant({"student": target(lm)})
            assert asyncio.run(post(relay, grant.token, {**BODY, "model": "gpt-9"}))[::2] == (404, "unknown_slot")
        assert lm.calls == []

    def test_body_that_is_no_json_is_400(self, relay: Relay) -> None:
        grant = relay.grant({})
        assert asyncio.run(post(relay, grant.token, raw=b"{"))[::2] == (400, "bad_request")

    def test_body_over_the_limit_is_413(self, relay: Relay) -> None:
        grant = relay.grant({})
        assert asyncio.run(post(relay, grant.token, raw=b" " * 200_000))[::2] == (413, "too_large")

    def test_answer_over_the_limit_is_refused_and_not_kept_in_memory(self) -> None:
        relay = Relay(replace(LIMITS, max_reply_bytes=1000))
        relay.start()
        with ScriptedLM(answer=lambda ask: "x" * 2000) as lm:
            assert asyncio.run(post(relay, relay.grant({"student": target(lm)}).token))[::2] == (502, "too_large")
        relay.stop()


class TestLease:
    def test_nothing_is_asked_for_work_that_may_be_anothers(self, relay: Relay) -> None:
        with ScriptedLM(answer=first(Fail(503))) as lm:
            grant = relay.grant({"student": target(lm)}, is_held=lambda: False)
            assert asyncio.run(post(relay, grant.token))[::2] == (401, "unauthorized")
            assert lm.calls == []

    def test_not_even_a_second_time(self, relay: Relay) -> None:
        with ScriptedLM(answer=first(Fail(503))) as lm:
            grant = relay.grant({"student": target(lm)}, is_held=lambda: not lm.calls)
            assert asyncio.run(post(relay, grant.token))[::2] == (401, "unauthorized")
            assert len(lm.calls) == 1


class TestRetries:
    @pytest.mark.parametrize(
        "trouble", [Fail(429), Fail(500), Fail(503), HangUp(), CutShort(), Raw(b"{"), Raw(b"[]"), Raw(b'{"id": 1}'), Raw(b"")]
    )
    def test_passing_trouble_is_retried(self, relay: Relay, trouble: Answer) -> None:
        with ScriptedLM(answer=first(trouble, trouble)) as lm:
            grant = relay.grant({"student": target(lm)})
            assert asyncio.run(post(relay, grant.token))[0] == 200
        assert len(lm.calls) == 3
        assert grant.usage()["student"].retries == 2

    def test_retry_after_is_obeyed(self, relay: Relay) -> None:
        with ScriptedLM(answer=first(Fail(503, retry_after=0.3))) as lm:
            grant = relay.grant({"student": target(lm)})
            asyncio.run(post(relay, grant.token))
        assert lm.calls[1].asked_at - lm.calls[0].replied_at >= 0.29

    def test_retry_after_beyond_the_budget_gives_up_at_once(self, relay: Relay) -> None:
        with ScriptedLM(answer=first(Fail(429, retry_after=60))) as lm:
            grant = relay.grant({"student": target(lm)})
            assert asyncio.run(post(relay, grant.token))[::2] == (429, "rate_limited")
        assert len(lm.calls) == 1

    def test_retry_after_may_be_a_date(self, relay: Relay) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        with ScriptedLM(answer=first(Fail(429, retry_after=date))) as lm:
            grant = relay.grant({"student": target(lm)})
            assert asyncio.run(post(relay, grant.token))[::2] == (429, "rate_limited")
        wait = relay.waits(["house"])["house"]
        assert wait.reason == "rate_limited"
        assert wait.seconds is not None
        assert 50 < wait.seconds <= 60

    @pytest.mark.parametrize("said", ["soon", "nan", "inf", "1e999", "-5", "", "Thu, 99 Foo 2026", "Fri, 27 Nov 2020 10:00:00 GMT"])
    def test_retry_after_that_says_nothing_is_no_trouble(self, relay: Relay, said: str) -> None:
        with ScriptedLM(answer=first(Fail(503, retry_after=said))) as lm:
            grant = relay.grant({"student": target(lm)})
            assert asyncio.run(post(relay, grant.token))[0] == 200
        assert len(lm.calls) == 2

    def test_a_host_that_never_answers_well_has_so_long_and_no_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        relay = Relay(RelayLimits(total_seconds=45, first_pause_seconds=0.01, longest_pause_seconds=0.02))
        relay.start()
        with ScriptedLM(answer=ten_seconds_each(Raw(b"<html>"), monkeypatch)) as lm:
            grant = relay.grant({"student": target(lm)})
            status, body, code = asyncio.run(post(relay, grant.token))
        relay.stop()
        assert (status, code) == (502, "unavailable")
        assert body["error"]["message"] == "connection house answered, but not as OpenAI's /chat/completions does"
        assert len(lm.calls) == 5, "the fourth had 5 s left"

    def test_callers_that_failed_together_do_not_come_back_together(self) -> None:
        relay = Relay(RelayLimits(total_seconds=60, first_pause_seconds=0.4, breaker_seconds=60))
        relay.start()

        async def many(token: str) -> None:
            await asyncio.gather(*(post(relay, token, {**BODY, "seed": seed}) for seed in range(12)))

        with ScriptedLM(answer=lambda ask: Fail(500) if ask.n < 12 else "fine", hold_until=12) as lm:
            asyncio.run(many(relay.grant({"student": target(lm)}).token))
        relay.stop()
        refused = {call.body["seed"]: call.replied_at for call in lm.calls if call.status == 500}
        pauses = sorted(call.asked_at - refused[call.body["seed"]] for call in lm.calls if call.status == 200)
        assert len(pauses) == 12
        assert pauses[0] >= 0.19
        assert pauses[-1] - pauses[0] > 0.02

    @pytest.mark.parametrize(
        ("trouble", "code"),
        [
            (Fail(400, "bad"), "bad_request"),
            (Fail(401), "connection_unauthorized"),
            (Fail(404), "model_not_found"),
            (Fail(429, "insufficient_quota"), "quota_exhausted"),
        ],
    )
    def test_lasting_trouble_is_passed_on_in_its_words(self, relay: Relay, trouble: Fail, code: str) -> None:
        with ScriptedLM(answer=first(trouble)) as lm:
            grant = relay.grant({"student": target(lm)})
            status, body, header = asyncio.run(post(relay, grant.token))
        assert (status, body["error"]["code"], header, len(lm.calls)) == (trouble.status, trouble.code, code, 1)

    def test_hanging_host_is_a_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        relay = Relay(RelayLimits(attempt_seconds=1, total_seconds=25, first_pause_seconds=0.01))
        relay.start()
        with ScriptedLM(answer=ten_seconds_each(Hang(), monkeypatch)) as lm:
            grant = relay.grant({"student": target(lm)})
            assert asyncio.run(post(relay, grant.token))[::2] == (504, "timeout")
        relay.stop()
        assert len(lm.calls) == 3, "the second had 5 s left"

    def test_nobody_listening_is_unavailable(self) -> None:
        relay = Relay(RelayLimits(total_seconds=0.2, first_pause_seconds=0.01))
        relay.start()
        with ScriptedLM() as lm:
            gone = target(lm)
        grant = relay.grant({"student": gone})
        assert asyncio.run(post(relay, grant.token))[::2] == (503, "unavailable")
        relay.stop()


class TestGrants:
    def test_each_token_opens_its_own_slots_and_budget_and_no_others(self, relay: Relay) -> None:
        with ScriptedLM(answer=first()) as lm:
            one = relay.grant({"one": target(lm, model="model-one")}, of_calls(1))
            two = relay.grant({"two": target(lm, model="model-two")}, of_calls(1))
            asked = [(one, "two"), (two, "one"), (one, "one"), (one, "one"), (two, "two")]
            codes = [asyncio.run(post(relay, grant.token, {**BODY, "model": slot}))[2] for grant, slot in asked]
        assert one.token != two.token
        assert codes == ["unknown_slot", "unknown_slot", None, "budget_exhausted", None]
        assert [call.body["model"] for call in lm.calls] == ["model-one", "model-two"]

    def test_budget_counts_answered_calls_only(self, relay: Relay) -> None:
        async def calls(token: str, count: int) -> list[int]:
            return [(await post(relay, token))[0] for _ in range(count)]

        with ScriptedLM(answer=first(Fail(400))) as lm:
            grant = relay.grant({"student": target(lm)}, of_calls(2))
            assert asyncio.run(calls(grant.token, 4)) == [400, 200, 200, 402]
        assert len(lm.calls) == 3

    @pytest.mark.parametrize(
        "usage",
        [
            {"prompt_tokens": -5_000_000, "completion_tokens": 10},
            {"prompt_tokens": 10, "completion_tokens": -5_000_000},
            {"prompt_tokens": 10, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": -5_000_000}},
            {"prompt_tokens": "10", "completion_tokens": 0},
            {"prompt_tokens": 10, "completion_tokens": 0, "prompt_tokens_details": [5]},
            {"prompt_tokens": 10, "completion_tokens": 10**30},
            {"prompt_tokens": 10, "completion_tokens": True},
            [10],
        ],
    )
    def test_an_answer_that_counts_nonsense_is_paid_and_gives_nothing_back(self, relay: Relay, usage: Any) -> None:
        """A user's own host may say what it likes: less than nothing would pay for calls of the operator's hosts."""
        body = {"choices": [{"message": {"role": "assistant", "content": "fine"}}], "usage": usage}
        price = Flat(1.0, 2.0, 0.5)
        with ScriptedLM(answer=lambda ask: Raw(json.dumps(body).encode())) as lm:
            grant = relay.grant({"student": target(lm, price=price)}, of_calls(2))
            assert [asyncio.run(post(relay, grant.token))[::2] for _ in range(3)] == [(200, None), (200, None), (402, "budget_exhausted")]
        used = grant.usage()["student"]
        counted = (used.calls, used.prompt_tokens, used.completion_tokens, used.cached_tokens, used.usd)
        assert counted in [(2, 0, 0, 0, None), (2, 20, 0, 0, pytest.approx(0.00002))], "not told, or what of it can be"

    def test_a_grant_that_has_run_dry_is_refilled_by_one_call_for_all_that_wait(self, relay: Relay) -> None:
        async def calls(token: str) -> list[int]:
            return sorted([reply[0] for reply in await asyncio.gather(*(post(relay, token) for _ in range(6)))])

        blocks = [None, of_calls(5), of_calls(4)]
        with ScriptedLM(answer=first()) as lm:
            grant = relay.grant({"student": target(lm)}, of_calls(0), lambda lacking: blocks.pop())
            assert asyncio.run(calls(grant.token)) == [200] * 5 + [402]
        assert (len(lm.calls), blocks) == (5, [])

    def test_a_refill_that_fails_is_passing_trouble(self, relay: Relay) -> None:
        def refill(lacking: Shortage) -> Block:
            raise OSError("the database is away")

        with ScriptedLM() as lm:
            grant = relay.grant({"student": target(lm)}, of_calls(0), refill)
            assert asyncio.run(post(relay, grant.token))[::2] == (503, "unavailable")
        assert lm.calls == []

    def test_usage_by_slot(self, relay: Relay) -> None:
        async def calls() -> None:
            await asyncio.gather(*(post(relay, grant.token, {**BODY, "model": slot}) for slot in ("a", "a", "b")))

        with ScriptedLM(answer=lambda ask: "two words") as lm:
            grant = relay.grant({"a": target(lm), "b": target(lm)})
            asyncio.run(calls())
        usage = grant.usage()
        assert (usage["a"].calls, usage["a"].completion_tokens, usage["a"].prompt_tokens, usage["b"].calls) == (2, 4, 2, 1)

    def test_revoked_token_cuts_off_calls_in_flight(self, relay: Relay) -> None:
        async def call_and_revoke() -> None:
            call = asyncio.create_task(post(relay, grant.token))
            await asyncio.to_thread(lm.wait_for_calls, 1)
            grant.revoke()
            with pytest.raises(aiohttp.ClientError):
                await call
            assert (await post(relay, grant.token))[::2] == (401, "unauthorized")

        with ScriptedLM(answer=lambda ask: Hang()) as lm:
            grant = relay.grant({"student": target(lm)}, of_calls(1))
            asyncio.run(call_and_revoke())
        assert asyncio.run(grant.take("")), "a call that was cut off is not counted"

    def test_a_connection_never_has_more_in_flight_than_it_allows(self, relay: Relay) -> None:
        async def many(tokens: list[str]) -> list[int]:
            return [reply[0] for reply in await asyncio.gather(*(post(relay, tokens[at % 2]) for at in range(24)))]

        with ScriptedLM(answer=first(), latency=0.02, hold_until=5) as lm:
            grants = [relay.grant({"student": target(lm, max_in_flight=5)}) for _ in range(2)]
            assert asyncio.run(many([grant.token for grant in grants])) == [200] * 24
        assert lm.peak_in_flight == 5

    def test_raising_the_limit_lets_in_those_that_wait(self, relay: Relay) -> None:
        async def raise_it() -> None:
            calls = [asyncio.create_task(post(relay, narrow.token)) for _ in range(4)]
            await asyncio.to_thread(lm.wait_for_calls, 1)
            relay.grant({"student": target(lm, max_in_flight=3)})
            await asyncio.to_thread(lm.wait_for_calls, 3)
            narrow.revoke()
            await asyncio.gather(*calls, return_exceptions=True)

        with ScriptedLM(answer=lambda ask: Hang()) as lm:
            narrow = relay.grant({"student": target(lm, max_in_flight=1)})
            asyncio.run(raise_it())
        assert lm.peak_in_flight == 3

    def test_the_newest_grant_says_how_many_may_be_in_flight(self, relay: Relay) -> None:
        async def many() -> None:
            await asyncio.gather(*(post(relay, old.token) for _ in range(12)))

        with ScriptedLM(answer=first(), latency=0.02) as lm:
            old = relay.grant({"student": target(lm, max_in_flight=6)})
            relay.grant({"student": target(lm, max_in_flight=2)})
            asyncio.run(many())
        assert lm.peak_in_flight == 2

    def test_key_is_not_in_reprs(self) -> None:
        assert "sk-secret" not in repr(Target("house", "http://x", "m", api_key="sk-secret"))
