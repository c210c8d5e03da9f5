"""A real runner process on a real relay and a scripted LM host."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from distill.relay import Grant, Relay, RelayLimits, Target
from distill.rollouts import ProgramHost, Runner, RunnerDied, RunnerError, RunnerPool, RunnerSilent
from distill.rollouts.host import HostedProgram
from tests.support.scripted_lm import Answer, Ask, Fail, Hang, ScriptedLM

Json = dict[str, Any]
LMS = {"teacher": {"slot": "teacher", "options": {"temperature": 0.7, "max_tokens": None}}}
ROUTER: Json = {
    "spec_version": 1,
    "predictors": [
        {
            "name": "self",
            "lm": "teacher",
            "signature": {
                "instructions": "Route a message.",
                "fields": [
                    {"name": "message", "role": "input"},
                    {"name": "team", "role": "output", "schema": {"type": "string", "enum": ["billing", "other"]}},
                ],
            },
        }
    ],
}


def route(ask: Ask) -> Answer:
    """The team is in the message."""
    return {"team": "billing" if "invoice" in ask.inputs["message"] else "other"}


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    relay = Relay(RelayLimits(attempt_seconds=0.3, total_seconds=0.5, first_pause_seconds=0.01))
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture
def patient() -> Iterator[Relay]:
    relay = Relay()
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture(scope="module")
def pool(relay: Relay) -> Iterator[RunnerPool]:
    with RunnerPool(relay.socket_path, {"default": sys.executable}) as pool:
        yield pool


@pytest.fixture
def runner(pool: RunnerPool) -> Iterator[Runner]:
    with pool.runner("project", "job") as runner:
        runner.ensure_open("router", program=ROUTER, lms=LMS)
        yield runner


def grant(relay: Relay, lm: ScriptedLM, max_calls: int | None = None) -> Grant:
    target = Target("scripted", lm.url, "upstream", max_in_flight=1000)
    return relay.grant({"teacher": target}, max_calls)


def example(index: int, message: str, team: str, *rollouts: Json) -> Json:
    return {
        "index": index,
        "inputs": {"message": message},
        "labels": {"team": team},
        "rollouts": list(rollouts) or [{"n": 0, "seed": index}],
    }


def run(runner: Runner, token: str, examples: list[Json], **changes: Any) -> list[Json]:
    body = {
        "program_key": "router",
        "token": token,
        "width": 8,
        "time_limit_seconds": 10,
        "metric": {"type": "exact_match"},
        "min_score": 1.0,
    }
    return list(runner.request("rollouts", silence_seconds=30, **{**body, "examples": examples, **changes}))


def of(events: list[Json], kind: str) -> list[Json]:
    return sorted((event for event in events if event["event"] == kind), key=lambda event: (event["index"], event.get("n", 0)))


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
        answers = {"bad": "no headers", "refused": Fail(400), "good": {"team": "other"}}
        examples = [example(at, message, "other") for at, message in enumerate(["good 1", "bad", "refused", "good 2"])]
        with ScriptedLM(answer={**answers}) as lm:
            events = run(runner, grant(relay, lm).token, examples)
        assert [(event["index"], event["trace"]["status"]) for event in of(events, "trace")] == [(0, "ok"), (1, "unparsable"), (3, "ok")]
        assert [(event["index"], event["code"]) for event in of(events, "infra")] == [(2, "bad_request")]
        assert of(events, "trace")[1]["trace"]["calls"][0]["raw"] == "no headers"
        assert [event["index"] for event in of(events, "example_done")] == [0, 1, 3]

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

    def test_width_is_what_the_server_sees_in_flight(self, patient: Relay) -> None:
        with fresh(patient) as runner, ScriptedLM(answer=route, hold_until=256) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            examples = [example(at, "x", "other") for at in range(256)]
            events = run(runner, grant(patient, lm).token, examples, width=256, time_limit_seconds=20)
        assert lm.peak_in_flight == 256
        assert events[-1]["counts"]["passed"] == 256

    def test_rate_limit_is_waited_out(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=lambda ask: Fail(429, retry_after=0.05) if ask.n == 0 else route(ask)) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "x", "other")])
        assert (len(lm.calls), events[-1]["counts"]["ok"]) == (2, 1)

    def test_hanging_host_is_infrastructure(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=lambda ask: Hang()) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "x", "other")])
        assert [(event["event"], event.get("code")) for event in events[:-1]] == [("infra", "timeout")]

    def test_time_limit_of_an_example_is_infrastructure(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route, latency=5) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "x", "other")], time_limit_seconds=0.1)
        assert of(events, "infra")[0]["code"] == "time_limit"

    def test_spent_budget_stops_the_slice(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route) as lm:
            token = grant(relay, lm, max_calls=3).token
            events = run(runner, token, [example(at, "x", "other") for at in range(10)], width=1)
        assert (len(lm.calls), len(of(events, "trace"))) == (3, 3)
        assert [event["code"] for event in of(events, "infra")] == ["budget_exhausted"]
        assert (events[-1]["stopped"], events[-1]["counts"]["not_started"]) == ("budget_exhausted", 6)

    def test_wrong_token_is_infrastructure(self, runner: Runner) -> None:
        events = run(runner, "wrong", [example(0, "x", "other")])
        assert of(events, "infra")[0]["code"] == "unauthorized"

    def test_leaving_early_cancels(self, relay: Relay, runner: Runner) -> None:
        with ScriptedLM(answer=route, latency=0.02) as lm:
            examples = [example(at, "x", "other") for at in range(500)]
            body = {"program_key": "router", "token": grant(relay, lm).token, "width": 2, "examples": examples}
            for event in runner.request("rollouts", **body):
                assert event["event"] == "trace"
                break
            assert runner.ask("hello")["event"] == "done"
            asked = len(lm.calls)
        assert asked < 100

    def test_two_requests_at_once(self, relay: Relay, runner: Runner) -> None:
        results: dict[str, list[Json]] = {}

        def work(name: str) -> None:
            results[name] = run(runner, token, [example(0, name, "other")])

        with ScriptedLM(answer=route, latency=0.05) as lm:
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


class TestOtherOps:
    def test_validate_hashes_prompts_without_a_call(self, runner: Runner) -> None:
        body = {
            "program": ROUTER,
            "lms": LMS,
            "samples": [{"message": "hi"}],
            "metric": {"type": "exact_match"},
            "program_digest": "v1:router",
        }
        reply = runner.ask("validate", **body, teachers=[{"program": ROUTER, "lms": LMS, "program_digest": "v1:teacher"}])
        assert reply["predictors"] == [{"name": "self", "lm": "teacher", "prompt_adapter": "chat"}]
        assert list(reply["prompt_hash"]) == ["v1:router", "v1:teacher"]
        assert reply["prompt_hash"]["v1:router"] == reply["prompt_hash"]["v1:teacher"]
        other = runner.ask("validate", **body, prompt_adapter={"type": "json"})
        assert other["prompt_hash"]["v1:router"] != reply["prompt_hash"]["v1:router"]

    @pytest.mark.parametrize(
        ("change", "code", "param"),
        [
            ({"lms": {}}, "missing_lm", "lms.teacher"),
            ({"program": {"predictors": []}}, "invalid_program", "predictors"),
            ({"samples": [{"massage": "hi"}]}, "invalid_inputs", "samples[0].message"),
            ({"metric": {"type": "exact"}}, "invalid_program", "metric.type"),
            ({"prompt_adapter": {"type": "toml"}}, "invalid_program", "prompt_adapter.type"),
            ({"program": 3}, "bad_request", "program"),
        ],
    )
    def test_validate_names_the_fault(self, runner: Runner, change: Json, code: str, param: str) -> None:
        with pytest.raises(RunnerError) as fault:
            runner.ask("validate", **{"program": ROUTER, "lms": LMS, "samples": [{"message": "hi"}], **change})
        assert (fault.value.code, fault.value.param) == (code, param)

    def test_render_rows(self, relay: Relay, runner: Runner) -> None:
        answers = {"bad": "no headers", "good": {"team": "other"}}
        with ScriptedLM(answer=answers) as lm:
            events = run(runner, grant(relay, lm).token, [example(0, "good", "other"), example(1, "bad", "other")])
        traces = [{"trace_digest": f"v1:{event['index']}", "trace": event["trace"]} for event in of(events, "trace")]
        rows = list(runner.request("render_rows", program_key="router", base_model="tiny", max_seq_length=512, demos="auto", traces=traces))
        assert [(row["event"], row.get("trace_digest"), row.get("reason")) for row in rows] == [
            ("row", "v1:0", None),
            ("rejected", "v1:1", "unparsable"),
            ("done", None, None),
        ]
        assert rows[0]["prompt"] == lm.calls[0].body["messages"]
        assert rows[0]["completion"] == [{"role": "assistant", "content": "[[ ## team ## ]]\nother\n\n[[ ## completed ## ]]\n"}]

    def test_program_that_is_not_open(self, runner: Runner) -> None:
        with pytest.raises(RunnerError, match="not_open"):
            runner.ask("render", program_key="other", inputs={})

    def test_close(self, runner: Runner) -> None:
        runner.ask("open", program_key="twin", program=ROUTER, lms=LMS)
        assert runner.ask("close", program_key="twin")["closed"] is True
        assert runner.ask("close", program_key="twin")["closed"] is False

    def test_unknown_op_leaves_the_runner_alive(self, runner: Runner) -> None:
        with pytest.raises(RunnerError, match="unknown_op"):
            runner.ask("dance", silence_seconds=5)
        assert runner.ask("hello")["protocol"] == 1


class TestProgramHost:
    def test_call_and_render(self, relay: Relay, pool: RunnerPool) -> None:
        host = ProgramHost(pool)
        hosted = HostedProgram("router", ROUTER, LMS)
        with ScriptedLM(answer=route) as lm:
            token = grant(relay, lm).token
            assert host.call("p", hosted, token, {"message": "my invoice"})["outputs"] == {"team": "billing"}
            messages = host.render("p", hosted, {"message": "my invoice"})
        assert messages["self"] == lm.calls[0].body["messages"]

    def test_missing_input_is_named(self, pool: RunnerPool) -> None:
        with pytest.raises(RunnerError) as fault:
            ProgramHost(pool).call("p", HostedProgram("router", ROUTER, LMS), "t", {})
        assert (fault.value.code, fault.value.param) == ("invalid_inputs", "inputs.message")

    def test_warm_runner_that_died_is_replaced(self, relay: Relay, pool: RunnerPool) -> None:
        host = ProgramHost(pool)
        hosted = HostedProgram("router", ROUTER, LMS)
        with ScriptedLM(answer=route) as lm:
            token = grant(relay, lm).token
            host.call("q", hosted, token, {"message": "x"})
            with pool.runner("q", "program-host") as runner:
                os.kill(runner.pid, 9)
            assert host.call("q", hosted, token, {"message": "x"})["outputs"] == {"team": "other"}


@contextmanager
def fresh(relay: Relay) -> Iterator[Runner]:
    runner = Runner(sys.executable, relay.socket_path)
    try:
        yield runner
    finally:
        runner.kill()


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestProcess:
    def test_killed_runner_is_reported_and_collected(self, relay: Relay) -> None:
        with fresh(relay) as runner, ScriptedLM(answer=lambda ask: Hang()) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            events = runner.request("rollouts", program_key="router", token=grant(relay, lm).token, examples=[example(0, "x", "other")])
            killer = threading.Thread(target=lambda: (lm.wait_for_calls(1), os.kill(runner.pid, 9)))
            killer.start()
            with pytest.raises(RunnerDied) as death:
                list(events)
            killer.join()
            assert death.value.signal == 9
            assert not exists(runner.pid), "neither running nor a zombie"
            with pytest.raises(RunnerDied):
                runner.ask("hello")

    def test_silent_runner_is_killed(self, relay: Relay) -> None:
        with fresh(relay) as runner, ScriptedLM(answer=lambda ask: Hang()) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            body = {"program_key": "router", "token": grant(relay, lm).token, "examples": [example(0, "x", "other")]}
            with pytest.raises(RunnerSilent):
                list(runner.request("rollouts", silence_seconds=0.1, **body))
            assert not exists(runner.pid)

    def test_end_of_a_job_kills_its_busy_runner(self, pool: RunnerPool) -> None:
        with pool.runner("project", "cancelled") as runner:
            pool.end_job("project", "cancelled")
            assert not runner.alive

    def test_warm_runner_serves_its_own_job_only(self, pool: RunnerPool) -> None:
        with pool.runner("project", "a") as first:
            pass
        with pool.runner("project", "a") as again, pool.runner("project", "b") as other:
            assert again is first
            assert other is not first

    def test_stdout_belongs_to_the_protocol_and_litellm_is_never_imported(self) -> None:
        noisy = """
import os, sys
from stillhouse_programs import ops, runner
build = ops.build_program
def build_loudly(spec):
    print("printed")
    os.write(1, b"written\\n")
    return build(spec)
ops.build_program = build_loudly
async def close(self, request, emit):
    return {"litellm": "litellm" in sys.modules}
ops.Ops.close = close
runner.main()
"""
        requests = [{"op": "open", "program_key": "router", "program": ROUTER, "lms": LMS}, {"op": "close", "program_key": "router"}]
        lines = [orjson.dumps({"v": 1, "id": at, **request}) for at, request in enumerate(requests)]
        with subprocess.Popen(
            [sys.executable, "-c", noisy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            replies = []
            for line in lines:
                process.stdin.write(line + b"\n")
                process.stdin.flush()
                replies.append(orjson.loads(process.stdout.readline()))
            process.stdin.close()
            log = process.stderr.read()
        assert [(reply["id"], reply["event"]) for reply in replies] == [(0, "done"), (1, "done")]
        assert replies[1]["litellm"] is False
        assert b"printed" in log
        assert b"written" in log
        assert process.returncode == 0

    def test_bad_lines_are_answered(self, relay: Relay) -> None:
        with fresh(relay) as runner:
            runner._write(b"no json\n[]\n")
            assert runner.ask("hello")["protocol"] == 1

    def test_home_is_removed(self, relay: Relay) -> None:
        with fresh(relay) as runner:
            home = runner._child.home
            assert home.is_dir()
        assert not home.exists()
