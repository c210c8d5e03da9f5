"""Programs and metrics that are code: what a runner imports, what it says of them, and what it refuses."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distill.relay import Relay, Target
from distill.rollouts import Runner, RunnerError, RunnerPool
from stillhouse_programs.spec import parse_spec
from tests.support.installed import PACKAGE, make_runtime, module_file
from tests.support.scripted_lm import Ask, Says, ScriptedLM

Json = dict[str, Any]

DESK = f"{PACKAGE}.programs:make_desk"
LMS = {"student": {"slot": "student", "options": {}}, "router": {"slot": "student", "options": {"temperature": 0}}}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runtime")
    return folder, make_runtime(folder)


@pytest.fixture(scope="module")
def code(relay: Relay, runtime: tuple[Path, str]) -> Iterator[Runner]:
    """One runner that may import the tests' package."""
    with RunnerPool(relay, {"default": runtime[1]}, references=[PACKAGE]) as pool, pool.runner("project", "job") as runner:
        yield runner


def describe(runner: Runner, name: str, **more: Any) -> Json:
    program: Json = runner.ask("describe", reference=f"{PACKAGE}.{name}", **more)["program"]
    return program


def refused(runner: Runner, op: str, **body: Any) -> tuple[str, str]:
    with pytest.raises(RunnerError) as refusal:
        runner.ask(op, **body)
    return refusal.value.code, refusal.value.message


def answers(ask: Ask) -> Any:
    """Every program of the package: billing for what was charged, counted drafts, an agent that looks once."""
    if "team" in ask.outputs:
        return {"team": "billing" if "charged" in ask.inputs["message"] else "account"}
    if "next_tool_name" in ask.outputs:
        looked = "observation_0" in ask.text
        tool, arguments = ("finish", "{}") if looked else ("on_duty", '{"team": "billing"}')
        return {"next_thought": "Who is there?", "next_tool_name": tool, "next_tool_args": arguments}
    if "opinion" in ask.outputs:
        return {"opinion": "Fine."}
    if "draft" in ask.inputs:
        return {"answer": ask.inputs["draft"] + "!"}
    return {"reasoning": "It says so.", "answer": "The billing desk."}


@contextmanager
def rolled(relay: Relay, runner: Runner, program: Json, inputs: Json, **more: Any) -> Iterator[Json]:
    """The trace of one rollout, and its score where `more` has a metric."""
    with ScriptedLM(answer=answers) as lm:
        runner.ensure_open(str(program), program=program, lms=LMS)
        body = {"index": 0, "inputs": inputs, "labels": {"team": "billing"}, "rollouts": [{"n": 0, "seed": 1}]}
        token = relay.grant({"student": Target("scripted", lm.url, "upstream", max_in_flight=8)}).token
        events = list(runner.request("rollouts", program_key=str(program), token=token, examples=[body], **more))
        yield {**next(each for each in events if each["event"] == "trace")["trace"], "events": events}


class TestDescribe:
    def test_names_predictors_types_inputs_and_source(self, code: Runner) -> None:
        spec = parse_spec(describe(code, "programs:make_desk", kwargs={"rounds": 3}, lms={"classify": "router"}))
        assert [(each.name, each.lm) for each in spec.predictors] == [
            ("classify", "router"),
            ("writers['first']", "student"),
            ("writers['again']", "student"),
        ]
        assert spec.predictors[0].signature.fields[1].json_schema["enum"] == ["billing", "technical", "account"]
        assert spec.reference is not None
        assert spec.reference.kwargs == {"rounds": 3}
        assert [(each.name, each.json_schema.get("type"), each.required) for each in spec.reference.inputs] == [
            ("message", "string", True),
            ("urgent", "boolean", False),
        ]
        assert list(spec.reference.source) == [PACKAGE, f"{PACKAGE}.programs", f"{PACKAGE}.teams"]

    def test_inputs_behind_keyword_arguments_are_those_of_the_signature(self, code: Runner) -> None:
        spec = parse_spec(describe(code, "programs:make_agent"))
        assert spec.reference is not None
        assert [each.name for each in spec.reference.inputs] == ["message"]
        assert [each.name for each in spec.predictors] == ["react", "extract.predict"]

    def test_inputs_that_nothing_tells_are_asked_for(self, code: Runner) -> None:
        panel = {"reference": f"{PACKAGE}.programs:Panel"}
        assert refused(code, "describe", **panel) == (
            "invalid_program",
            "forward of Panel takes any name: say which inputs it wants in `inputs`",
        )
        reference = parse_spec(describe(code, "programs:Panel", inputs=["message"])).reference
        assert reference is not None
        assert [each.name for each in reference.inputs] == ["message"]

    def test_metric_has_the_source_of_its_package(self, code: Runner) -> None:
        source = code.ask("describe", reference=f"{PACKAGE}.metrics:right_team", metric=True)["source"]
        assert list(source) == [PACKAGE, f"{PACKAGE}.metrics", f"{PACKAGE}.teams"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "code_", "message"),
        [
            ("os:system", "reference_not_allowed", "os:system is in no package"),
            ("support_desks.x:make", "reference_not_allowed", f"allowed are {PACKAGE}"),
            (f"{PACKAGE}.programs:dspy", "reference_failed", "is a module, not a class or function"),
            (f"{PACKAGE}.programs:dspy.Predict", "reference_not_allowed", "comes from dspy.predict.predict"),
            (f"{PACKAGE}.programs:nobody", "reference_not_found", f"module {PACKAGE}.programs has no `nobody`"),
            (f"{PACKAGE}.nowhere:make", "reference_not_found", f"{PACKAGE}.nowhere is not installed where programs run"),
            (f"{PACKAGE}.programs:make_nothing", "reference_failed", "made a str, not a dspy.Module"),
            ("no target", "invalid_program", "expected `package.module:name`"),
        ],
    )
    def test_says_what_is_wrong(self, code: Runner, name: str, code_: str, message: str) -> None:
        found = refused(code, "describe", reference=name)
        assert found[0] == code_
        assert message in found[1]

    def test_errors_of_the_code_have_type_and_message_but_no_folder(self, code: Runner) -> None:
        failed = refused(code, "describe", reference=f"{PACKAGE}.programs:make_fault")
        assert failed == (
            "reference_failed",
            f"{PACKAGE}.programs:make_fault raised FileNotFoundError: [Errno 2] No such file or directory: 'weights.bin'",
        )
        broken = refused(code, "describe", reference=f"{PACKAGE}.broken:make")[1]
        assert broken == f"importing {PACKAGE}.broken raised RuntimeError: the licence in licence.key has run out"

    def test_keyword_arguments_that_it_does_not_take(self, code: Runner) -> None:
        assert "unexpected keyword argument 'round'" in refused(code, "describe", reference=DESK, kwargs={"round": 3})[1]
        metric = {"reference": f"{PACKAGE}.metrics:right_team", "kwargs": {"ignored": "x"}, "metric": True}
        assert "unexpected keyword argument 'ignored'" in refused(code, "describe", **metric)[1]

    def test_role_of_a_predictor_that_is_not_there(self, code: Runner) -> None:
        message = refused(code, "describe", reference=DESK, lms={"clasify": "router"})[1]
        assert message == "lms.clasify: the program has no predictor `clasify`; did you mean `classify`?"

    def test_factory_that_gives_the_same_program_again(self, code: Runner) -> None:
        program = describe(code, "programs:make_same")
        assert "the same predictors twice" in refused(code, "open", program_key="same", program=program, lms=LMS)[1]

    def test_no_function_of_an_example_and_a_prediction(self, code: Runner) -> None:
        metric = {"reference": f"{PACKAGE}.metrics:nonsense", "metric": True}
        assert "is no function of (example, prediction, trace), and makes none" in refused(code, "describe", **metric)[1]

    def test_a_metric_that_does_not_take_the_trace(self, code: Runner) -> None:
        metric = {"reference": f"{PACKAGE}.metrics:without_trace", "metric": True}
        message = refused(code, "describe", **metric)[1]
        assert message.startswith(f"{PACKAGE}.metrics:without_trace: it takes (example: Any, prediction: Any) -> bool and is called with")

    def test_nothing_is_imported_where_nothing_is_allowed(self, relay: Relay, runtime: tuple[Path, str]) -> None:
        with RunnerPool(relay, {"default": runtime[1]}) as pool, pool.runner("project", "job") as runner:
            assert "none is allowed" in refused(runner, "describe", reference=f"{PACKAGE}.broken:make")[1]


class TestRuns:
    def test_branch_and_loop(self, relay: Relay, code: Runner) -> None:
        program = describe(code, "programs:make_desk", kwargs={"rounds": 3})
        metric = {"type": "reference", "reference": f"{PACKAGE}.metrics:right_team"}
        with rolled(relay, code, program, {"message": "charged twice"}, metric=metric) as trace:
            assert [call["predictor"] for call in trace["calls"]] == ["classify", "writers['first']", *["writers['again']"] * 2]
            assert trace["outputs"] == {"team": "billing", "answer": "!!!", "urgent": False}
            score = next(each for each in trace["events"] if each["event"] == "score")["score"]
            assert score == {"value": 1.0, "passed": True, "status": "ok", "feedback": None, "error": None}
        with rolled(relay, code, program, {"message": "my name"}) as trace:
            assert [call["predictor"] for call in trace["calls"]] == ["classify", "writers['first']"]

    def test_agent_with_a_tool(self, relay: Relay, code: Runner) -> None:
        with rolled(relay, code, describe(code, "programs:make_agent"), {"message": "Who is there?"}) as trace:
            assert [call["predictor"] for call in trace["calls"]] == ["react", "react", "extract.predict"]
            assert "billing desk" in trace["calls"][1]["inputs"]["trajectory"]
            assert trace["outputs"]["answer"] == "The billing desk."

    def test_attempts_that_were_thrown_away(self, relay: Relay, code: Runner) -> None:
        with rolled(relay, code, describe(code, "programs:make_picky"), {"message": "Who is there?"}) as trace:
            assert [call.get("discarded", False) for call in trace["calls"]] == [False, True]

    def test_threads(self, relay: Relay, code: Runner) -> None:
        with rolled(relay, code, describe(code, "programs:Panel", inputs=["message"]), {"message": "Well?"}) as trace:
            assert sorted(call["predictor"] for call in trace["calls"]) == ["opinions[0]", "opinions[1]"]

    def test_metric_made_by_a_call(self, relay: Relay, code: Runner) -> None:
        program = describe(code, "programs:make_desk")
        for calls, passed in ((3, True), (2, False)):
            metric = {"type": "reference", "reference": f"{PACKAGE}.metrics:at_most", "kwargs": {"calls": calls}}
            with rolled(relay, code, program, {"message": "charged twice"}, metric=metric) as trace:
                assert next(each for each in trace["events"] if each["event"] == "score")["score"]["passed"] is passed

    def test_preview_names_what_only_a_run_can_say(self, code: Runner) -> None:
        program = describe(code, "programs:make_desk")
        code.ask("open", program_key="desk", program=program, lms=LMS)
        messages = code.ask("render", program_key="desk", inputs={"message": "Help me"})["messages"]
        assert list(messages) == ["classify", "writers['first']", "writers['again']"]
        assert "Help me" in messages["classify"][-1]["content"]
        assert "{writers['first'].draft}" in messages["writers['first']"][-1]["content"]

    def test_demos_of_the_spec_are_the_ones_that_count(self, code: Runner) -> None:
        program = describe(code, "programs:make_desk")
        program["predictors"][0]["demos"] = [{"message": "Pay me back", "team": "billing"}]
        code.ask("open", program_key="demos", program=program, lms=LMS)
        messages = code.ask("render", program_key="demos", inputs={"message": "Help me"})["messages"]
        assert "Pay me back" in messages["classify"][1]["content"]

    def test_hash_of_the_prompts_takes_no_run(self, code: Runner) -> None:
        """Two processes of the same code agree, although no sample was given that `forward` could take."""
        program = describe(code, "programs:make_agent")
        found = [code.ask("validate", program=program, lms=LMS, samples=[{"message": "x"}])["prompt_hash"] for _ in range(2)]
        assert found[0] == found[1]
        assert next(iter(found[0].values())).startswith("v1:")


class TestNativeTools:
    def calls(self, ask: Ask) -> Says:
        turn = sum(message["role"] == "tool" for message in ask.messages)
        name, arguments = (("on_duty", {"team": "billing"}), ("submit", {"answer": "The desk."}))[turn]
        call = {"id": f"random-{turn}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        return Says({"content": "[[ ## next_thought ## ]]\nHm.\n\n[[ ## completed ## ]]\n", "tool_calls": [call]})

    def test_an_agents_turns_become_rows_with_tools(self, relay: Relay, code: Runner) -> None:
        asked: Json = {"program": describe(code, "programs:make_caller"), "prompt_adapter": {"type": "chat", "native_tools": True}}
        asked["lms"] = {"student": {**LMS["student"], "native": ["tools"]}}
        assert code.ask("validate", **asked, samples=[{"message": "x"}])["predictors"][0]["name"] == "react"
        code.ask("open", program_key="caller", **asked)
        with ScriptedLM(answer=self.calls) as lm:
            token = relay.grant({"student": Target("scripted", lm.url, "upstream", max_in_flight=8)}).token
            body = {"index": 0, "inputs": {"message": "Who is there?"}, "labels": {}, "rollouts": [{"n": 0, "seed": 1}]}
            events = list(code.request("rollouts", program_key="caller", token=token, examples=[body]))
        trace = next(each for each in events if each["event"] == "trace")["trace"]
        assert trace["outputs"]["answer"] == "The desk."
        found = list(code.request("render_rows", program_key="caller", demos="auto", traces=[{"trace_digest": "v1:0", "trace": trace}]))
        rows = [row for row in found if row["event"] == "row"]
        assert [row["completion"][0]["tool_calls"][0]["function"]["name"] for row in rows] == ["on_duty", "submit"]
        assert [[tool["function"]["name"] for tool in row["tools"]] for row in rows] == [["on_duty", "submit"]] * 2
        assert [message["role"] for message in rows[1]["prompt"]] == ["system", "user", "assistant", "tool", "user"]
        assert [message["content"] for message in rows[1]["prompt"]] == [message["content"] for message in lm.calls[1].body["messages"]]


class TestChangedSource:
    def test_is_refused_until_the_program_is_described_anew(self, relay: Relay, tmp_path: Path) -> None:
        python = make_runtime(tmp_path)
        with RunnerPool(relay, {"default": python}, references=[PACKAGE]) as pool, pool.runner("project", "job") as runner:
            before = describe(runner, "programs:make_desk")
            runner.ask("open", program_key="before", program=before, lms=LMS)
            teams = module_file(tmp_path, "teams")
            teams.write_text(teams.read_text() + "\nHOURS = (9, 17)\n")
            code, message = refused(runner, "open", program_key="now", program=before, lms=LMS)
            assert code == "source_changed"
            assert message == (
                f"{DESK}: the source of {PACKAGE}.teams is not the one that was described; "
                "store the program again (POST /v1/programs) and use the new one"
            )
            after = describe(runner, "programs:make_desk")
            assert after["reference"]["source"] != before["reference"]["source"]
            runner.ask("open", program_key="after", program=after, lms=LMS)

    def test_other_predictors_than_described(self, code: Runner) -> None:
        program = describe(code, "programs:make_desk")
        program["predictors"].pop()
        found = refused(code, "open", program_key="fewer", program=program, lms=LMS)
        assert found[0] == "reference_differs"
