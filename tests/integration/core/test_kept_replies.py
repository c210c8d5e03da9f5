"""Replies that are paid for and not yet traces: found again by whoever makes the same call, and by nobody else. Over a real Valkey."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Any

import aiohttp
import pytest
import redis
from redis.asyncio.client import Pipeline

from distill import sealing
from distill.relay import Amount, Block, Grant, Relay, RelayLimits, Replies, Target
from distill.relay.replies import MOST_BYTES
from tests.support import databases
from tests.support.runner_connector import RunnerConnector
from tests.support.scripted_lm import Answer, Ask, Fail, Raw, ScriptedLM

LIMITS = RelayLimits(total_seconds=30, first_pause_seconds=60, longest_pause_seconds=60)
"""Each call is made once: the first pause would be longer than it may take."""
BODY = {"model": "teacher", "messages": [{"role": "user", "content": "who is canary-7319?"}], "seed": 7}
CALL = "7/classify.7.1"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is there, however long the machine takes over it."""
    monkeypatch.setattr("distill.relay.replies.PATIENCE_SECONDS", 60.0)


@contextmanager
def relay_with(replies: Replies) -> Iterator[Relay]:
    """One process's relay."""
    relay = Relay(LIMITS, replies=replies)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()


@pytest.fixture
def relay(redis_url: str) -> Iterator[Relay]:
    with relay_with(Replies(redis_url, 60, 1_000_000)) as opened:
        yield opened


@pytest.fixture
def kept(redis_url: str) -> Iterator[Callable[[], dict[bytes, bytes]]]:
    """What is in Valkey of them."""
    with redis.Redis.from_url(redis_url) as client:
        yield lambda: {name: client.get(name) for name in client.keys("sh:reply:*")}


def target(lm: ScriptedLM, **changes: Any) -> Target:
    return replace(Target("conn-1", lm.url, "big", price=lambda usage: 0.5, revision=1), **changes)


def ask(relay: Relay, grant: Grant, call: str = CALL, **body: Any) -> str:
    """The text of the answer, or the code of the refusal."""

    async def post() -> str:
        headers = {"authorization": f"Bearer {grant.token}", "stillhouse-rollout": f"run of {call}", "stillhouse-call": call}
        async with (
            aiohttp.ClientSession(connector=RunnerConnector(relay.connections()), timeout=aiohttp.ClientTimeout(60)) as session,
            session.post("http://relay/v1/chat/completions", json={**BODY, **body}, headers=headers) as reply,
        ):
            answer = await reply.json()
            return reply.headers.get("stillhouse-error") or str(answer["choices"][0]["message"]["content"])

    return asyncio.run(post())


def counts(ask: Ask) -> str:
    return f"answer {ask.n}"


class TestTheSameCall:
    def test_is_paid_once_and_told_as_reused(self, redis_url: str) -> None:
        """By another process, under another grant, as after a worker died."""
        with ScriptedLM(answer=counts) as lm:
            with relay_with(Replies(redis_url, 60, 1_000_000)) as first:
                died = first.grant({"teacher": target(lm)}, project_id="one")
                assert ask(first, died) == "answer 0"
            with relay_with(Replies(redis_url, 60, 1_000_000)) as second:
                again = second.grant({"teacher": target(lm)}, project_id="one")
                assert ask(second, again) == "answer 0"
        assert len(lm.calls) == 1
        assert again.usage() == {}
        assert again.spent() == Amount()
        paid = died.usage()["teacher"]
        assert again.reused()["teacher"] == replace(paid, seconds=0.0)
        assert (paid.calls, paid.usd) == (1, 0.5)

    def test_needs_no_budget(self, relay: Relay) -> None:
        """One call is left: enough for a rollout of two of which one was paid before, and for no other."""
        with ScriptedLM(answer=counts) as lm:
            ask(relay, relay.grant({"teacher": target(lm)}, project_id="one"))
            grant = relay.grant({"teacher": target(lm)}, Block(Amount(1, inf, inf), Amount(2)), project_id="one")
            assert [ask(relay, grant), ask(relay, grant, temperature=0.5)] == ["answer 0", "answer 1"]
            assert ask(relay, grant, "8/classify.8.1") == "budget_exhausted"
        assert len(lm.calls) == 2

    def test_under_another_key_of_its_connection_is_the_same(self, relay: Relay) -> None:
        with ScriptedLM(answer=counts) as lm:
            for key in ("sk-old", "sk-new"):
                assert ask(relay, relay.grant({"teacher": target(lm, api_key=key)}, project_id="one")) == "answer 0"


class TestAnotherCall:
    @pytest.mark.parametrize(
        ("project", "changes", "call", "body"),
        [
            ("two", {}, CALL, {}),
            ("one", {"connection": "conn-2"}, CALL, {}),
            ("one", {"revision": 2}, CALL, {}),
            ("one", {"model": "bigger"}, CALL, {}),
            ("one", {"extra_body": {"top_p": 0.5}}, CALL, {}),
            ("one", {}, "8/classify.8.1", {}),
            ("one", {}, "7/classify.8.1", {}),
            ("one", {}, "7/reply.7.1", {}),
            ("one", {}, "7/classify.7.2", {}),
            ("one", {}, CALL, {"temperature": 1.0}),
            ("one", {}, CALL, {"messages": [{"role": "user", "content": "who?"}]}),
            ("one", {}, "", {}),
            (None, {}, CALL, {}),
        ],
        ids=[
            "project",
            "connection",
            "revision",
            "model",
            "operators-body",
            "rollout",
            "seed",
            "predictor",
            "second-ask",
            "option",
            "message",
            "nameless",
            "no-project",
        ],
    )
    def test_is_asked(self, relay: Relay, project: str | None, changes: dict[str, Any], call: str, body: dict[str, Any]) -> None:
        with ScriptedLM(answer=counts) as lm:
            ask(relay, relay.grant({"teacher": target(lm)}, project_id="one"))
            assert ask(relay, relay.grant({"teacher": target(lm, **changes)}, project_id=project), call, **body) == "answer 1"

    def test_of_another_project_leaves_the_first_ones_reply(self, relay: Relay) -> None:
        with ScriptedLM(answer=counts) as lm:
            one, two = (relay.grant({"teacher": target(lm)}, project_id=project) for project in ("one", "two"))
            assert [ask(relay, grant) for grant in (one, two, one, two)] == ["answer 0", "answer 1", "answer 0", "answer 1"]


class TestWhatIsNotKept:
    @pytest.mark.parametrize(
        "answer",
        [
            Fail(400),
            Fail(429),
            Fail(503),
            Raw(b'{"choices": []}'),
            Raw(b'{"choices": ["text"]}'),
            Raw(b'{"choices": [{"message": {"content": 7}}]}'),
            "x" * (MOST_BYTES + 1),
        ],
        ids=["bad-request", "rate-limited", "unavailable", "no-choice", "no-message", "no-text", "too-long"],
    )
    def test_errors_what_cannot_be_read_and_what_is_too_long(
        self, relay: Relay, kept: Callable[[], dict[bytes, bytes]], answer: Answer
    ) -> None:
        with ScriptedLM(answer=lambda ask: answer) as lm, relay_of(relay, lm) as grant:
            with suppress(LookupError, TypeError):  # it may have no text
                ask(relay, grant)
            assert lm.calls
        assert kept() == {}


@contextmanager
def relay_of(relay: Relay, lm: ScriptedLM) -> Iterator[Grant]:
    grant = relay.grant({"teacher": target(lm)}, project_id="one")
    yield grant
    grant.revoke()


def connections(server: socket.socket) -> int:
    """How many wait to be accepted."""
    server.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


class TestRedis:
    def test_holds_nothing_that_can_be_read_or_taken_for_another(self, relay: Relay, redis_url: str) -> None:
        """What somebody in Redis has changed, or moved to another call, is asked for again."""
        said = ScriptedLM(answer=lambda ask: f"canary-7319 {ask.n}")
        with said as lm, redis.Redis.from_url(redis_url) as client, relay_of(relay, lm) as grant:
            ask(relay, grant)
            ask(relay, grant, "8/classify.8.1")
            one, two = client.keys("sh:reply:*")
            first, second = client.get(one), client.get(two)
            assert b"canary-7319" not in one + two + first + second
            client.mset({one: second, two: first})
            assert ask(relay, grant) == "canary-7319 2"
            client.mset(dict.fromkeys((one, two), b"x" + first[1:]))
            assert ask(relay, grant) == "canary-7319 3"

    def test_lets_go_of_a_rollout_once_its_trace_is_committed_and_of_all_in_time(
        self, relay: Relay, redis_url: str, kept: Callable[[], dict[bytes, bytes]]
    ) -> None:
        with ScriptedLM(answer=counts) as lm, redis.Redis.from_url(redis_url) as client, relay_of(relay, lm) as grant:
            ask(relay, grant)
            ask(relay, grant, "7/reply.7.1")
            (gone, also_gone), before = kept(), time.monotonic()
            ask(relay, grant, "8/classify.8.1")
            assert 0 < client.pttl(gone) <= 60_000
            relay.forget_replies("two", ["7", "8"])
            relay.forget_replies("one", ["7"])
            while len(kept()) > 1 and time.monotonic() < before + 60:
                ask(relay, grant, "8/classify.8.1")
            assert len(kept()) == 1
            assert not {gone, also_gone} & set(kept())

    def test_holds_no_more_than_its_bound_the_newest_rollouts(self, redis_url: str, kept: Callable[[], dict[bytes, bytes]]) -> None:
        with (
            ScriptedLM(answer=lambda ask: "x" * 1000) as lm,
            relay_with(Replies(redis_url, 60, 5000)) as relay,
            relay_of(relay, lm) as grant,
        ):
            for rollout in range(10):
                ask(relay, grant, f"{rollout}/classify.1.1")
            assert 3 <= len(kept()) <= 4
            assert sum(len(value) for value in kept().values()) <= 5000
            ask(relay, grant, "9/classify.1.1")
            assert len(lm.calls) == 10

    def test_that_hangs_costs_no_call_and_is_not_waited_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("distill.relay.replies.PATIENCE_SECONDS", 0.25)
        monkeypatch.setattr("distill.relay.replies.AWAY_SECONDS", 3600.0)
        with socket.create_server(("127.0.0.1", 0)) as deaf, ScriptedLM(answer=counts) as lm:
            url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
            with relay_with(Replies(url, 60, 1_000_000)) as relay, relay_of(relay, lm) as grant:
                assert [ask(relay, grant) for _ in range(5)] == [f"answer {n}" for n in range(5)]
            assert connections(deaf) == 1

    @pytest.mark.parametrize("fault", [RuntimeError("the handler is closed"), ValueError("not what it expected")])
    def test_whose_client_fails_in_words_of_its_own_costs_no_call(
        self, relay: Relay, monkeypatch: pytest.MonkeyPatch, fault: Exception
    ) -> None:
        """uvloop raises RuntimeError where a connection went away: who waits for that answer would wait for ever."""

        async def fails(self: Any, **_: Any) -> None:
            raise fault

        monkeypatch.setattr(Pipeline, "execute", fails)
        with ScriptedLM(answer=counts) as lm, relay_of(relay, lm) as grant:
            assert [ask(relay, grant), ask(relay, grant)] == ["answer 0", "answer 1"]

    def test_is_told_nothing_without_a_sealing_key(
        self, relay: Relay, kept: Callable[[], dict[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(sealing.VARIABLE, "no key")
        databases.forget_settings()
        with ScriptedLM(answer=counts) as lm, relay_of(relay, lm) as grant:
            assert [ask(relay, grant), ask(relay, grant)] == ["answer 0", "answer 1"]
        assert kept() == {}
