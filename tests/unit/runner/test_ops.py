"""The other ops of a runner, and the program host."""

import os
import re

import pytest

from distill.relay import Relay
from distill.rollouts import ProgramHost, Runner, RunnerError, RunnerPool
from distill.rollouts.host import HostedProgram
from tests.support.scripted_lm import Answer, ScriptedLM
from tests.unit.runner.routing import LMS, ROUTER, Json, example, fresh, grant, of, route, run


class TestOtherOps:
    def test_validate_hashes_prompts_without_a_call(self, runner: Runner) -> None:
        body = {
            "program": ROUTER,
            "lms": LMS,
            "samples": [{"message": "hi"}],
            "metric": {"type": "exact_match"},
            "program_digest": "v1:router",
        }
        reply = runner.ask(
            "validate", silence_seconds=60, **body, teachers=[{"program": ROUTER, "lms": LMS, "program_digest": "v1:teacher"}]
        )
        assert reply["predictors"] == [{"name": "self", "lm": "teacher", "prompt_adapter": "chat"}]
        assert list(reply["prompt_hash"]) == ["v1:router", "v1:teacher"]
        assert reply["prompt_hash"]["v1:router"] == reply["prompt_hash"]["v1:teacher"]
        other = runner.ask("validate", silence_seconds=60, **body, prompt_adapter={"type": "json"})
        assert other["prompt_hash"]["v1:router"] != reply["prompt_hash"]["v1:router"]

    def test_state_keeps_the_students_options_beside_a_teacher_with_the_same_program(self, runner: Runner) -> None:
        """The state goes into the artifact; by default teacher and student are one program under one digest."""
        warm = {"teacher": {"slot": "big", "options": {"temperature": 0.9}}}
        cold = {"teacher": {"slot": "small", "options": {"temperature": 0.1}}}
        teachers = [{"program": ROUTER, "lms": warm, "program_digest": "v1:router"}]
        reply = runner.ask("validate", program=ROUTER, lms=cold, samples=[{"message": "hi"}], program_digest="v1:router", teachers=teachers)
        assert reply["program_state"]["v1:router"]["lm"]["temperature"] == 0.1

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

    def test_answers_that_cannot_be_constrained_are_refused(self, runner: Runner) -> None:
        signature = ROUTER["predictors"][0]["signature"]
        anything = {"name": "team", "role": "output", "schema": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}
        loose = {"predictors": [{"name": "self", "lm": "teacher", "signature": {"fields": [signature["fields"][0], anything]}}]}
        with pytest.raises(RunnerError) as fault:
            runner.ask("validate", program=loose, lms={"teacher": {"slot": "teacher", "constrain": True}}, samples=[])
        assert (fault.value.code, fault.value.param) == ("cannot_constrain", "lms")

    def test_a_prompt_that_cannot_be_written_is_refused_before_any_call(self, runner: Runner) -> None:
        item = {"type": "object", "title": "Item", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        pair = {"properties": {"one": {"$ref": "#/$defs/Item"}, "two": {"$ref": "#/$defs/Item"}}, "required": ["one", "two"]}
        schema = {"$defs": {"Item": item}, "type": "object", "title": "Pair", **pair}
        fields = [{"name": "message", "role": "input"}, {"name": "pair", "role": "output", "schema": schema}]
        program = {"predictors": [{"name": "self", "lm": "teacher", "signature": {"fields": fields}}]}
        body: Json = {"program": program, "lms": LMS, "samples": [{"message": "hi"}]}
        assert runner.ask("validate", **body)["predictors"]
        with pytest.raises(RunnerError, match="predictor self: BAMLAdapter cannot write this prompt") as fault:
            runner.ask("validate", **body, prompt_adapter={"type": "baml"})
        assert (fault.value.code, fault.value.param) == ("cannot_render", "prompt_adapter")

    def test_constrained_lm_sends_the_grammar_of_the_predictor(self, relay: Relay, runner: Runner) -> None:
        runner.ensure_open("constrained", program=ROUTER, lms={"teacher": {"slot": "teacher", "constrain": True}})
        with ScriptedLM(answer=route) as lm:
            runner.ask("call", program_key="constrained", token=grant(relay, lm).token, inputs={"message": "x"})
        grammar = lm.calls[0].body["structured_outputs"]
        assert re.fullmatch(grammar["regex"], "[[ ## team ## ]]\nother\n\n[[ ## completed ## ]]\n")
        assert not re.fullmatch(grammar["regex"], "[[ ## team ## ]]\nelse\n\n[[ ## completed ## ]]\n")

    def test_render_rows(self, relay: Relay, runner: Runner) -> None:
        answers: dict[str, Answer] = {"bad": "no headers", "good": {"team": "other"}}
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

    def test_runner_keeps_the_last_programs_only(self, relay: Relay) -> None:
        with fresh(relay) as runner:
            for number in range(33):
                runner.ensure_open(str(number), program=ROUTER, lms=LMS)
            runner.ask("render", program_key="1", inputs={"message": "x"})
            with pytest.raises(RunnerError, match="not_open"):
                runner.ask("render", program_key="0", inputs={"message": "x"})

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
