"""Rollouts through a real runner process, a real relay and a scripted LM host."""

import threading
from concurrent.futures import ThreadPoolExecutor

from distill.relay import Relay, RelayLimits, Target
from distill.rollouts import Runner
from tests.support.scripted_lm import Answer, Fail, Hang, ScriptedLM
from tests.unit.runner.routing import LMS, ROUTER, Json, example, fresh, grant, of, route, run


class TestRollouts:
    def test_traces_and_scores(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "my invoice", "billing"), example(1, "hello", "billing")])
        assert [event["trace"]["outputs"] for event in of(events, "trace")] == [{"team": "billing"}, {"team": "other"}]
        assert [event["score"]["value"] for event in of(events, "score")] == [1.0, 0.0]
        assert [(event["passed"], event["rollouts_used"]) for event in of(events, "example_done")] == [(True, 1), (False, 1)]
        assert events[-1]["counts"]["ok"] == 2
        assert (lm.calls[0].body["temperature"], "max_tokens" in lm.calls[0].body) == (0.7, False)
        assert sorted(call.body["seed"] for call in lm.calls) == [0, 1]

    def test_one_bad_example_costs_one_example(self, relay: Relay, runner: Runner) -> None:
        answers: dict[str, Answer] = {"bad": "no headers", "refused": Fail(400), "good": {"team": "other"}}
        examples = [example(at, message, "other") for at, message in enumerate(["good 1", "bad", "refused", "good 2"])]
        with ScriptedLM(answer=answers) as lm:
            events = run(runner, grant(relay, lm).token, examples)
        assert [(event["index"], event["trace"]["status"]) for event in of(events, "trace")] == [(0, "ok"), (1, "unparsable"), (3, "ok")]
        assert [(event["index"], event["code"]) for event in of(events, "infra")] == [(2, "bad_request")]
        assert of(events, "trace")[1]["trace"]["calls"][0]["raw"] == "no headers"
        assert [event["index"] for event in of(events, "example_done")] == [0, 1, 3]

    def test_trace_that_no_line_can_hold_costs_one_example(self, relay: Relay, runner: Runner) -> None:
        answers: dict[str, Answer] = {"long": "x" * 9_000_000, "short": {"team": "other"}}
        with ScriptedLM(answer=answers) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "long", "other"), example(1, "short", "other")])
        assert [(event["index"], event["code"]) for event in of(events, "infra")] == [(0, "too_large")]
        assert [event["index"] for event in of(events, "example_done")] == [1]

    def test_answer_that_json_lines_cannot_hold_is_the_programs_failure(self, relay: Relay, runner: Runner) -> None:
        """A fact, so that it is neither asked for again nor stops the slice."""
        fields = [{"name": "message", "role": "input"}, {"name": "team", "role": "output", "schema": {"type": "integer"}}]
        counter = {"predictors": [{"name": "self", "lm": "teacher", "signature": {"instructions": "Count.", "fields": fields}}]}
        runner.ensure_open("counter", program=counter, lms=LMS)
        with ScriptedLM(answer={"many": {"team": "9" * 30}, "few": {"team": "3"}}) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "many", 3), example(1, "few", 3)], program_key="counter")
        statuses = {event["index"]: event["trace"]["status"] for event in of(events, "trace")}
        assert statuses == {0: "failed", 1: "ok"}
        assert of(events, "infra") == []

    def test_rollouts_stop_on_pass(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=lambda ask: {"team": "billing" if ask.n == 1 else "other"}) as lm:
            many = example(0, "x", "billing", *({"n": n, "seed": n} for n in range(5)))
            events = run(runner, grant(relay, lm).token, [many], stop_on_pass=True)
        assert [event["n"] for event in of(events, "trace")] == [0, 1]
        assert of(events, "example_done")[0]["rollouts_used"] == 2
        assert len(lm.calls) == 2

    def test_stored_trace_is_scored_not_run_and_stored_score_is_neither(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route) as lm:
            token = grant(relay, lm).token
            first = run(runner, token, [example(0, "my invoice", "billing")])
            trace, score = of(first, "trace")[0]["trace"], of(first, "score")[0]["score"]
            again = run(runner, token, [example(0, "my invoice", "other", {"n": 0, "trace": trace})])
            done = run(runner, token, [example(0, "my invoice", "billing", {"n": 0, "trace": trace, "score": score})])
        assert len(lm.calls) == 1
        assert [event["event"] for event in again] == ["score", "example_done", "done"]
        assert of(again, "score")[0]["score"]["passed"] is False, "scored against the new label"
        assert [event["event"] for event in done] == ["example_done", "done"]
        assert done[0]["passed"] is True

    def test_without_a_metric_there_are_traces_only(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "x", "other")], metric=None)
        assert [event["event"] for event in events] == ["trace", "example_done", "done"]

    def test_width_is_what_the_server_sees_in_flight(self, relay: Relay) -> None:
        with fresh(relay) as runner, ScriptedLM(answer=route, hold_until=256) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            examples = [example(at, "x", "other") for at in range(256)]
            events = run(runner, grant(relay, lm).token, examples, width=256, time_limit_seconds=20)
        assert lm.peak_in_flight == 256
        assert events[-1]["counts"]["passed"] == 256

    def test_rate_limit_is_waited_out(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=lambda ask: Fail(429, retry_after=0.05) if ask.n == 0 else route(ask)) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "x", "other")])
        assert (len(lm.calls), events[-1]["counts"]["ok"]) == (2, 1)

    def test_hanging_host_is_infrastructure(self) -> None:
        hasty = Relay(RelayLimits(attempt_seconds=0.2, total_seconds=0.4, first_pause_seconds=0.01))
        hasty.start()
        with fresh(hasty) as runner, ScriptedLM(answer=lambda ask: Hang()) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            events = run(runner, grant(hasty, lm).token, [example(0, "x", "other")])
        hasty.stop()
        assert [(event["event"], event.get("code")) for event in events[:-1]] == [("infra", "timeout")]

    def test_time_limit_of_an_example_is_infrastructure(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route, latency=5) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "x", "other")], time_limit_seconds=0.1)
        assert of(events, "infra")[0]["code"] == "time_limit"

    def test_time_in_the_queue_of_a_busy_host_does_not_count(self, relay: Relay, runner: Runner) -> None:
        """The host's one place is held by somebody else until the example's time would be up."""
        with ScriptedLM(answer=lambda ask: Hang() if ask.n == 0 else route(ask)) as lm:
            target = {"teacher": Target("busy", lm.url, "upstream", max_in_flight=1)}
            other, ours = relay.grant(target), relay.grant(target)
            with fresh(relay) as holder, ThreadPoolExecutor(1) as threads:
                holder.ensure_open("router", program=ROUTER, lms=LMS)
                holding = threads.submit(run, holder, other.token, [example(0, "x", "other")])
                lm.wait_for_calls(1)
                body: Json = {
                    "program_key": "router",
                    "token": ours.token,
                    "time_limit_seconds": 3,
                    "examples": [example(0, "x", "other")],
                }
                kinds = []
                for event in runner.request("rollouts", **body):
                    kinds.append(event["event"])
                    if event["event"] == "waiting":
                        other.revoke()
                holding.result()
        assert kinds == ["waiting", "trace", "example_done", "done"]

    def test_spent_budget_stops_the_slice(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route) as lm:
            token = grant(relay, lm, max_calls=3).token
            events = run(runner, token, [example(at, "x", "other") for at in range(10)], width=1)
        assert (len(lm.calls), len(of(events, "trace"))) == (3, 3)
        assert [event["code"] for event in of(events, "infra")] == ["budget_exhausted"]
        assert (events[-1]["stopped"], events[-1]["counts"]["not_started"]) == ("budget_exhausted", 6)

    def test_asked_to_finish_it_ends_what_has_begun_and_begins_nothing_else(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route, hold_from=2) as lm:
            body: Json = {"program_key": "router", "token": grant(relay, lm).token, "width": 2}
            kinds = []
            for event in runner.request("rollouts", **body, examples=[example(at, "x", "other") for at in range(10)]):
                kinds.append(event["event"])
                if len(kinds) == 1:
                    runner.finish()
                    assert runner.ask("hello")["event"] == "done", "it has read what came before"
                    lm.hold_from = None
        assert kinds.count("trace") == len(lm.calls)
        assert 1 <= len(lm.calls) < 10
        assert (event["stopped"], event["counts"]["not_started"]) == ("finished", 10 - len(lm.calls))

    def test_wrong_token_is_infrastructure(self, runner: Runner) -> None:
        events = run(runner, "wrong", [example(0, "x", "other")])
        assert of(events, "infra")[0]["code"] == "unauthorized"

    def test_leaving_early_cancels(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route, hold_from=10) as lm:
            examples = [example(at, "x", "other") for at in range(500)]
            body: Json = {"program_key": "router", "token": grant(relay, lm).token, "width": 2, "examples": examples}
            for event in runner.request("rollouts", **body):
                assert event["event"] == "trace"
                break
            assert runner.ask("hello")["event"] == "done"
            lm.catch_up()  # what was held is not waited for any more
            assert {call.status for call in lm.calls[10:]} <= {None}
            assert lm.asked <= 12

    def test_two_requests_at_once(self, relay: Relay, runner: Runner) -> None:
        results: dict[str, list[Json]] = {}

        def work(name: str) -> None:
            results[name] = run(runner, token, [example(0, name, "other")])

        with ScriptedLM(answer=route, hold_until=2) as lm:
            token = grant(relay, lm).token
            threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert lm.peak_in_flight == 2
        assert {name: of(events, "trace")[0]["trace"]["inputs"]["message"] for name, events in results.items()} == {
            "one": "one",
            "two": "two",
        }
