"""The drop-in when something breaks on the way: nothing is lost, nothing goes on behind a call that has returned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import dspy
import httpx
import pytest

import stillhouse
from stillhouse import _progress, _wait
from stillhouse.dropin import following, gateway, runner
from stillhouse.dropin.runner import Interrupted, ItemRun
from stillhouse.dropin.sending import Outbox
from tests.support.scripted_lm import Fail, HangUp, ScriptedLM
from tests.unit.client.dropin_server import Server, asked_for, desk, example, item_of, knows, rows_sent, worked_off


class TestTrouble:
    @pytest.fixture
    def broken(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ScriptedLM, list[int], stillhouse.Stillhouse]]:
        """An LM, the numbers of the calls that it hangs up on, and a client whose gateway it is."""
        monkeypatch.setattr(gateway, "LONGEST_PAUSE_SECONDS", 0.0)
        monkeypatch.setattr(runner, "PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(_wait, "PAUSE_SECONDS", 0.01)
        numbers, hung_up = count(), list[int]()
        with ScriptedLM(answer=lambda ask: HangUp() if next(numbers) in hung_up else knows(ask)) as lm:
            url = lm.url.removesuffix("/v1")
            with stillhouse.Stillhouse(url, "sh_a_b", transport=httpx.MockTransport(server), sleep=lambda _: None) as client:
                yield lm, hung_up, client

    def run(self, server: Server, client: stillhouse.Stillhouse, n: int, metric: Any = lambda *_: True, **of_item: Any) -> None:
        examples = [example(number) for number in range(n)]
        item = item_of(asked_for(server, client), examples).model_copy(update=of_item)
        ItemRun(client, item, desk("openai/big"), metric).run()

    def test_a_broken_connection_costs_another_call(self, server: Server, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner, "ROUNDS", 1)
        _, hung_up, client = broken
        hung_up[:] = [2, 5, 9]
        self.run(server, client, 6)
        assert rows_sent(server) == list(range(1, 7))
        assert server.bodies("POST /v1/work_items/publish")[0]["undecided"] == []

    def test_all_tries_of_a_call_have_its_key(self, server: Server, broken: Any) -> None:
        """So that an answer which the connection lost is not paid again."""
        lm, hung_up, client = broken
        hung_up[:] = [0, 1]
        self.run(server, client, 1)
        keys = [call.headers["Idempotency-Key"] for call in lm.calls]
        assert [keys.count(key) for key in dict.fromkeys(keys)] == [3, 1]

    def test_an_answer_that_is_still_made_is_waited_for(self, server: Server, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """However often the server says so."""
        monkeypatch.setattr(runner, "ROUNDS", 1)
        lm, _, client = broken
        held, numbers = Fail(409, "idempotency_in_progress", "still running", retry_after=1), count()
        lm.answer = lambda ask: held if next(numbers) <= gateway.TRIES else knows(ask)
        self.run(server, client, 1)
        assert server.bodies("POST /v1/work_items/publish")[0]["undecided"] == []
        assert len({call.headers["Idempotency-Key"] for call in lm.calls[: gateway.TRIES + 2]}) == 1

    def test_connections_that_stay_broken_give_the_item_back(self, server: Server, broken: Any) -> None:
        """Examples that were never begun are no undecided ones."""
        _, hung_up, client = broken
        hung_up[:] = range(8, 1000)
        with pytest.raises(Interrupted, match=r"examples of teacher:0 could not be run \(relay_lost: no answer from the server: "):
            self.run(server, client, 20)
        assert 0 < len(rows_sent(server)) < 20
        assert not server.bodies("POST /v1/work_items/publish")
        assert server.bodies("POST /v1/work_items/release") == [{"id": "work-1", "fence": 1}]

    @pytest.mark.parametrize("code", ["model_loading", "connection_waiting"])
    def test_a_host_that_is_away_is_told_of_at_once(self, server: Server, broken: Any, code: str) -> None:
        """The server then has the item wait: its calls are not repeated here, and its other examples not begun."""
        lm, _, client = broken
        lm.answer = lambda ask: Fail(503, code, "The LM host cannot answer now.", retry_after=5)
        self.run(server, client, 20)
        (published,) = server.bodies("POST /v1/work_items/publish")
        assert {(each["row"], each["code"]) for each in published["undecided"]} == {(row, code) for row in range(1, 21)}
        assert len(lm.calls) <= 4, "one call for each thread"

    @pytest.mark.parametrize("code", ["work_item_incomplete", "cancel_requested"])
    def test_an_item_that_cannot_be_published_is_given_back(self, server: Server, client: stillhouse.Stillhouse, code: str) -> None:
        """With the reason where it is the item's own: the server ends the job with it when another claim mends nothing."""
        server.refused["publish"] = code
        self.run(server, client, 1)
        why = {"error": {"code": code, "message": f"no (409 {code})"}} if code == "work_item_incomplete" else {}
        assert server.bodies("POST /v1/work_items/release") == [{"id": "work-1", "fence": 1, **why}]

    def test_what_is_not_sent_is_sent_again(self, server: Server, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        _, _, client = broken
        monkeypatch.setattr(runner, "FLUSH", 2)
        server.cut.update(traces=7, scores=7, publish=7)
        self.run(server, client, 6)
        assert rows_sent(server) == list(range(1, 7))
        assert len(server.bodies("POST /v1/work_items/publish")) == 1

    def test_a_refused_trace_leaves_out_its_example_alone(self, server: Server, client: stillhouse.Stillhouse) -> None:
        """The other traces of its batch are stored, and what was refused is named."""
        server.refused_rows = {
            3: httpx.Response(422, json={"error": {"code": "invalid_value", "message": "traces[2].outputs: too long"}}),
            4: httpx.Response(413, json={"error": {"code": "body_too_large", "message": "more than 4 MiB"}}),
        }
        self.run(server, client, 6)
        assert rows_sent(server) == [1, 2, 5, 6]
        scores = [score for sent in server.bodies("POST /v1/compile_jobs/cjob-1/scores") for score in sent["scores"]]
        assert sorted(score["row"] for score in scores) == [1, 2, 5, 6]
        (published,) = server.bodies("POST /v1/work_items/publish")
        assert published["undecided"] == [
            {"row": 3, "code": "invalid_value", "message": "traces[2].outputs: too long (422 invalid_value)"},
            {"row": 4, "code": "body_too_large", "message": "more than 4 MiB (413 body_too_large)"},
        ]

    def test_traces_that_are_not_sent_yet_keep_an_item(
        self, server: Server, client: stillhouse.Stillhouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A beat has sent the first three, which are refused; the others wait for the end."""
        answer = httpx.Response(413, json={"error": {"code": "body_too_large", "message": "more than 4 MiB"}})
        server.refused_rows = dict.fromkeys((1, 2, 3), answer)
        scored, keep = count(1), Outbox.add_score

        def add_score(outbox: Outbox, score: Any) -> None:
            keep(outbox, score)
            if next(scored) == 3:
                outbox.send()

        monkeypatch.setattr(Outbox, "add_score", add_score)
        self.run(server, client, 20, width=1)
        (published,) = server.bodies("POST /v1/work_items/publish")
        assert [each["row"] for each in published["undecided"]] == [1, 2, 3]
        assert rows_sent(server) == list(range(4, 21))

    def test_an_item_whose_traces_are_all_refused_is_given_back(self, server: Server, client: stillhouse.Stillhouse) -> None:
        answer = httpx.Response(422, json={"error": {"code": "unknown_lm", "message": "there is no such LM"}})
        server.refused_rows = dict.fromkeys(range(1, 7), answer)
        self.run(server, client, 6)
        error = {"code": "unknown_lm", "message": "there is no such LM (422 unknown_lm)"}
        assert server.bodies("POST /v1/work_items/release") == [{"id": "work-1", "fence": 1, "error": error}]

    def test_no_further_example_is_asked_once_the_first_batch_is_refused(self, server: Server, broken: Any) -> None:
        lm, _, client = broken
        answer = httpx.Response(422, json={"error": {"code": "unknown_lm", "message": "there is no such LM"}})
        server.refused_rows = dict.fromkeys(range(1, 151), answer)
        self.run(server, client, 150)
        assert runner.FLUSH <= len(lm.calls) <= 2 * (runner.FLUSH + 2 * 4), "2 calls each, 4 examples at once"
        error = {"code": "unknown_lm", "message": "there is no such LM (422 unknown_lm)"}
        assert server.bodies("POST /v1/work_items/release") == [{"id": "work-1", "fence": 1, "error": error}]

    def test_each_beat_sends_what_there_is(self, server: Server, client: stillhouse.Stillhouse) -> None:
        arrived: list[bool] = []
        self.run(server, client, 1, lambda *_: arrived.append(server.told.wait(30)), beat_seconds=0.05)
        assert arrived == [True]


class TestCall:
    """A whole call of `compile`, whose job has one item to work off here."""

    def test_scores_are_taken_in_its_context(self, server: Server, client: stillhouse.Stillhouse) -> None:
        """`with dspy.context(lm=judge): optimizer.compile(…)`."""
        seen: list[Any] = []
        judge = dspy.LM("openai/judge", api_key="k")

        def metric(*_: Any) -> bool:
            seen.append(dspy.settings.lm)
            return True

        with dspy.context(lm=judge):
            worked_off(server, client, 1, metric=metric)
        assert seen == [judge]

    def test_a_server_that_is_away_ends_nothing(
        self, server: Server, client: stillhouse.Stillhouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "_LOOK_SECONDS", 0.01)
        monkeypatch.setattr(_wait, "PAUSE_SECONDS", 0.01)
        server.goes_away = 60
        worked_off(server, client, 8, metric=lambda *_: True)
        assert not server.away
        assert rows_sent(server) == list(range(1, 9))
        assert server.bodies("POST /v1/work_items/publish") == [{"id": "work-1", "fence": 1, "undecided": []}]

    def test_its_trouble_ends_the_item_before_it_returns(
        self, server: Server, client: stillhouse.Stillhouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("the notebook's bar broke")

        monkeypatch.setattr(following, "_LOOK_SECONDS", 0.01)
        monkeypatch.setattr(_progress.JobProgress, "update", broken)
        with pytest.raises(RuntimeError, match="bar broke"):
            worked_off(server, client, 8, metric=lambda *_: True)
        assert not [thread for thread in threading.enumerate() if thread.name == "item-work-1"]
        assert server.bodies("POST /v1/work_items/release") == [{"id": "work-1", "fence": 1}]
