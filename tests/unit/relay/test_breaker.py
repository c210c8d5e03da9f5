"""When a connection is not called any more, and when it is called again: against a scripted LM host, through the relay's own doors."""

import asyncio
import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from distill.relay import Relay, RelayLimits, RelayReply, Target, Wait
from tests.support.scripted_lm import Ask, Drip, Fail, Hang, HangUp, ScriptedLM, Trickle

_numbers = itertools.count()


ONCE: dict[str, Any] = {"first_pause_seconds": 60, "longest_pause_seconds": 60}
"""No call is repeated: the first pause alone would be longer than the call may take."""


def limits(**changes: Any) -> RelayLimits:
    """Short pauses, and a breaker that opens with the first failures that it counts."""
    short = {"attempt_seconds": 30, "total_seconds": 30, "first_pause_seconds": 0.01, "longest_pause_seconds": 0.05}
    return RelayLimits(**{**short, "breaker_seconds": 0.0, "breaker_requests": 3, **changes})


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=lambda ask: "fine") as lm:
        yield lm


def target(lm: ScriptedLM, **changes: Any) -> Target:
    return Target(**{"connection": "host", "base_url": lm.url, "model": "m", **changes})


def ask(relay: Relay, lm: ScriptedLM, *texts: str, at_once: bool = False, places: int = 16) -> list[RelayReply]:
    """Each text is one request; without any, one that was never asked before."""

    async def whole() -> list[RelayReply]:
        bodies = [{"messages": [{"role": "user", "content": each}]} for each in texts or (f"request {next(_numbers)}",)]
        try:
            if at_once:
                return await asyncio.gather(*(relay.forward(target(lm, max_in_flight=places), body) for body in bodies))
            return [await relay.forward(target(lm), body) for body in bodies]
        finally:
            await relay.close_here()

    return asyncio.run(whole())


def codes(replies: list[RelayReply]) -> list[str | None]:
    return [reply.code for reply in replies]


class TestOpens:
    @pytest.mark.parametrize(
        ("fault", "wait"),
        [
            (Fail(429, retry_after=60), Wait("rate_limited", 60.0)),
            (Fail(503, retry_after=60), Wait("unavailable", 60.0)),
            (Fail(429, "insufficient_quota"), Wait("quota_exhausted")),
            (Fail(402), Wait("quota_exhausted")),
            (Fail(429), Wait("rate_limited")),
        ],
    )
    def test_at_one_request_when_the_host_is_plain_about_it(self, lm: ScriptedLM, fault: Fail, wait: Wait) -> None:
        relay = Relay(limits())
        lm.fault = fault
        ask(relay, lm, "once")
        assert relay.waits(["host", "unknown"]) == {"host": wait}
        asked = len(lm.calls)
        refused = ask(relay, lm)[0]
        assert (refused.status, refused.code, len(lm.calls)) == (503, "connection_waiting", asked)
        assert 0 < int(refused.headers["retry-after"]) <= 60

    def test_for_no_longer_than_it_may_rest_whatever_the_host_asks(self, lm: ScriptedLM, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [100.0]
        monkeypatch.setattr("distill.relay.breaker.time", SimpleNamespace(monotonic=lambda: now[0]))
        relay = Relay(limits(longest_rest_seconds=5))
        lm.fault = Fail(429, retry_after=31_536_000)
        ask(relay, lm, "once")
        assert ask(relay, lm)[0].code == "connection_waiting"
        lm.fault = None
        now[0] += 5
        assert ask(relay, lm)[0].status == 200

    def test_when_nobody_listens(self) -> None:
        with ScriptedLM() as gone:
            pass
        relay = Relay(limits())
        assert codes(ask(relay, gone, "a", "b")) == ["unavailable", "connection_waiting"]
        assert relay.waits(["host"]) == {"host": Wait("unavailable")}

    @pytest.mark.parametrize("fault", [Fail(500), HangUp(), Hang()])
    def test_when_several_requests_fail_and_none_succeeds(self, lm: ScriptedLM, fault: Any) -> None:
        relay = Relay(limits(**ONCE, attempt_seconds=0.05))
        lm.fault = fault
        ask(relay, lm, "a", "b")
        assert relay.waits(["host"]) == {}
        ask(relay, lm, "c")
        assert relay.waits(["host"]) == {"host": Wait("unavailable")}

    def test_never_for_one_request_that_fails_by_itself(self, lm: ScriptedLM) -> None:
        relay = Relay(limits(**ONCE))
        lm.answer = lambda ask: Fail(500) if "odd" in ask.text else "fine"
        assert codes(ask(relay, lm, "odd", "odd", "odd", "odd")) == ["unavailable"] * 4
        assert codes(ask(relay, lm, "odd 1", "good", "odd 2", "good", "odd 3", "good")) == ["unavailable", None] * 3
        assert relay.waits(["host"]) == {}

    def test_not_before_its_time(self, lm: ScriptedLM) -> None:
        relay = Relay(limits(**ONCE, breaker_seconds=60))
        lm.fault = Fail(429)
        assert codes(ask(relay, lm, "a", "b", "c", "d")) == ["rate_limited"] * 4

    def test_requests_in_line_are_not_sent_any_more(self, lm: ScriptedLM) -> None:
        relay = Relay(limits())
        lm.fault = Fail(429, retry_after=60)
        narrow = [f"request {n}" for n in range(20)]
        found = codes(ask(relay, lm, *narrow, at_once=True))
        assert set(found) == {"rate_limited", "connection_waiting"}
        assert len(lm.calls) == found.count("rate_limited") <= 16


class TestClosesAgain:
    def open(self, lm: ScriptedLM, **changes: Any) -> Relay:
        relay = Relay(limits(**changes))
        lm.fault = Fail(429, retry_after=60)
        ask(relay, lm)
        assert relay.waits(["host"])
        return relay

    def test_when_the_time_is_over_and_a_call_is_answered(self, lm: ScriptedLM) -> None:
        relay = Relay(limits(**ONCE, rest_seconds=0.0))
        lm.fault = Fail(402)
        ask(relay, lm)
        lm.fault = None
        assert not relay.is_closed("host"), "the time of this wait is 0 s, but nobody has tried yet"
        assert codes(ask(relay, lm)) == [None]
        assert relay.is_closed("host")

    def test_a_probe_sends_one_call_at_a_time_until_one_is_answered(self, lm: ScriptedLM) -> None:
        relay = self.open(lm)
        lm.fault = None
        peaks: list[int] = []

        def answer(ask: Ask) -> str:
            peaks.append(lm.in_flight)
            return "fine"

        lm.answer = answer
        relay.begin([target(lm)], probing={"host"})
        assert not relay.is_closed("host")
        assert relay.waits(["host"]) == {}
        lm.latency = 0.02
        assert codes(ask(relay, lm, *map(str, range(8)), at_once=True)) == [None] * 8
        assert peaks[0] == 1
        assert relay.is_closed("host")
        assert max(peaks) > 1, "then as many as the connection allows"

    def test_a_probe_that_fails_opens_it_at_once(self, lm: ScriptedLM) -> None:
        relay = self.open(lm, breaker_seconds=30)
        relay.begin([target(lm)], probing={"host"})
        lm.fault = Fail(429)
        asked = len(lm.calls)
        found = codes(ask(relay, lm, *map(str, range(8)), at_once=True))
        assert len(lm.calls) == asked + 1
        assert found == ["rate_limited"] + ["connection_waiting"] * 7, "a try is not repeated"
        assert relay.waits(["host"]) == {"host": Wait("rate_limited")}

    def test_work_that_is_given_out_without_a_probe_calls_at_once(self, lm: ScriptedLM) -> None:
        relay = self.open(lm)
        lm.fault = None
        relay.begin([target(lm)])
        assert relay.is_closed("host")
        assert codes(ask(relay, lm)) == [None]

    def test_an_answer_to_an_earlier_call_says_nothing(self, lm: ScriptedLM) -> None:
        relay = Relay(limits())

        async def whole() -> None:
            slow = asyncio.create_task(relay.forward(target(lm), {"messages": [{"role": "user", "content": "slow"}]}))
            await asyncio.to_thread(lm.wait_for_calls, 1)
            await relay.forward(target(lm), {"messages": [{"role": "user", "content": "quick"}]})
            assert relay.waits(["host"])
            assert (await slow).code is None
            assert relay.waits(["host"]), "it was sent before the breaker opened"
            await relay.close_here()

        lm.answer = lambda ask: Fail(429, retry_after=60) if ask.text == "quick" else Drip("slow answer", 0.1)
        asyncio.run(whole())


class TestPauses:
    def test_one_retry_after_holds_all_callers_back(self, lm: ScriptedLM) -> None:
        relay = Relay(limits(longest_pause_seconds=1, breaker_seconds=60))
        lm.answer = lambda ask: Fail(429, retry_after=0.3) if ask.n == 0 else "fine"
        assert codes(ask(relay, lm, "a", "b", at_once=True, places=1)) == [None, None]
        refused, *others = lm.calls
        assert len(others) == 2
        assert min(call.asked_at for call in others) - refused.replied_at >= 0.29


class TestSlowAnswers:
    def call(self, lm: ScriptedLM, **changes: Any) -> RelayReply:
        relay = Relay(limits(**ONCE, breaker_seconds=60, **changes))
        return ask(relay, lm)[0]

    def test_bytes_that_stop_coming_are_a_timeout(self, lm: ScriptedLM) -> None:
        lm.answer = lambda ask: Trickle("never whole", 60)
        assert self.call(lm, idle_seconds=0.05).code == "timeout"

    def test_bytes_that_drip_for_ever_are_a_timeout(self, lm: ScriptedLM) -> None:
        lm.answer = lambda ask: Trickle("never whole", 0.03, pieces=200)
        assert self.call(lm, attempt_seconds=0.15, idle_seconds=1.0).code == "timeout"

    def test_a_slow_answer_that_goes_on_is_whole(self, lm: ScriptedLM) -> None:
        lm.answer = lambda ask: Trickle("whole", 0.02, pieces=4)
        assert self.call(lm, idle_seconds=30).code is None

    @pytest.mark.parametrize("limit", [{"idle_seconds": 0.05}, {"stream_seconds": 0.3, "idle_seconds": 5.0}])
    def test_a_stream_ends_when_it_stops_or_never_ends(self, lm: ScriptedLM, limit: dict[str, float]) -> None:
        lm.answer = lambda ask: Drip("word " * 1000, 0.1)
        relay = Relay(limits(**limit))

        async def read() -> None:
            reply = await relay.forward(target(lm), {"messages": [{"role": "user", "content": "x"}]}, stream=True)
            assert reply.stream is not None
            try:
                with pytest.raises(TimeoutError):
                    async for _ in reply.stream:
                        pass
            finally:
                await relay.close_here()

        asyncio.run(read())
