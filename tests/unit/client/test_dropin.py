"""The drop-in without a server: what it asks for, what it runs here, and what it sends."""

from __future__ import annotations

import json
from typing import Any

import dspy
import httpx
import pytest
from dspy.utils.dummies import DummyLM

import stillhouse
from stillhouse.dropin.lms import NoConnection
from stillhouse.dropin.runner import ItemRun, Refused
from stillhouse_programs.pinning import pin
from tests.support.scripted_lm import Fail, ScriptedLM
from tests.unit.client.dropin_server import Classify, Server, asked_for, desk, example, item_of, look_up


class TestRequest:
    def test_a_branch_makes_it_a_program_of_the_client(self, server: Server, client: stillhouse.Stillhouse) -> None:
        body = asked_for(server, client, metric=lambda *_: True, multitask=False, train_kwargs={"num_train_epochs": 2})
        assert body["program"]["client"]["inputs"] == [{"name": "message", "required": True}]
        assert [predictor["name"] for predictor in body["program"]["predictors"]] == ["classify", "reply"]
        assert body["metric"]["type"] == "client"
        assert body["lms"] == {"student": {"connection": "house", "model": "tiny"}}
        assert body["teacher"][0]["lms"] == {"student": {"connection": "openai", "model": "big"}}
        assert (body["multitask"], body["train_options"], body["trainset"][0]) == (
            False,
            {"n_epochs": 2},
            {"message": "Message 0 about billing", "category": "billing"},
        )
        assert "the-users-own" not in json.dumps(body)

    def test_without_a_metric_everything_is_kept(self, server: Server, client: stillhouse.Stillhouse) -> None:
        body = asked_for(server, client)
        assert body["metric"]["type"] == "client"

    def test_adapter_is_of_the_rows_and_the_teacher_answers_under_its_own(self, server: Server, client: stillhouse.Stillhouse) -> None:
        def asked_under(teacher: Any, **options: Any) -> tuple[str, str | None]:
            with pytest.raises(stillhouse.StillhouseError, match="over"):
                stillhouse.BootstrapFinetune(client=client, **options).compile(desk("house/tiny"), [example(0)], teacher=teacher)
            body = server.bodies("POST /v1/compile_jobs")[-1]
            named = body["teacher"][0]["lms"]["student"].get("prompt_adapter")
            return body["prompt_adapter"]["type"], named and named["type"]

        teacher = desk("openai/big")
        assert asked_under(teacher) == ("chat", None)
        assert asked_under(teacher, adapter=dspy.XMLAdapter()) == ("xml", "chat")
        assert asked_under(teacher, adapter=stillhouse.CompactAdapter()) == ("compact", "chat")
        with dspy.context(adapter=dspy.JSONAdapter()):
            assert asked_under(teacher, adapter=dspy.XMLAdapter()) == ("xml", "json")
            assert asked_under(pin(teacher, dspy.ChatAdapter())) == ("json", "chat")

    def test_prompt_is_the_jobs(self, server: Server, client: stillhouse.Stillhouse) -> None:
        assert "prompt" not in asked_for(server, client)
        assert asked_for(server, client, prompt="compact")["prompt"] == "compact"

    def test_an_empty_valset_holds_nothing_out(self, server: Server, client: stillhouse.Stillhouse) -> None:
        """dspy.BetterTogether splits off a tenth of the examples, which is nothing below ten."""
        bodies = []
        for valset in (None, list[Any]()):
            with pytest.raises(stillhouse.StillhouseError, match="over"):
                stillhouse.BootstrapFinetune(client=client).compile(desk("house/tiny"), [example(0)], valset=valset)
            bodies.append(server.bodies("POST /v1/compile_jobs")[-1])
        changed = {name: value for name, value in bodies[1].items() if bodies[0].get(name) != value and name != "metadata"}
        assert changed == {"holdout": {"n": 0}}
        assert "valset" not in bodies[1]

    def test_no_teacher_in_a_list_is_the_student(self, server: Server, client: stillhouse.Stillhouse) -> None:
        def asked(teacher: Any) -> Any:
            with pytest.raises(stillhouse.StillhouseError, match="over"):
                stillhouse.BootstrapFinetune(client=client).compile(desk("house/tiny"), [example(0)], teacher=teacher)
            return server.bodies("POST /v1/compile_jobs")[-1]

        assert asked([None]) == asked(None)
        models = [teacher["lms"]["student"]["model"] for teacher in asked([None, desk("openai/big")])["teacher"]]
        assert models == ["tiny", "big"]

    def test_a_wrapper_that_could_not_ask_several_models_is_refused(self, server: Server, client: stillhouse.Stillhouse) -> None:
        best = dspy.BestOfN(desk("house/tiny"), N=2, reward_fn=lambda args, made: 1.0, threshold=1.0)
        with pytest.raises(ValueError, match="multitask=False: BestOfN asks one LM for all predictors that it wraps"):
            stillhouse.BootstrapFinetune(client=client, multitask=False).compile(best, [example(0)])
        assert not server.bodies("POST /v1/compile_jobs")

    def test_a_straight_line_travels_as_a_spec(self, server: Server, client: stillhouse.Stillhouse) -> None:
        line = dspy.Predict(Classify)
        line.set_lm(dspy.LM("house/tiny"))
        with pytest.raises(stillhouse.StillhouseError):
            stillhouse.BootstrapFinetune(metric="exact_match", client=client).compile(line, trainset=[example(0), example(1)])
        (body,) = server.bodies("POST /v1/compile_jobs")
        assert "client" not in body["program"]
        assert "steps" in body["program"]
        assert body["metric"] == "exact_match"

    def test_the_same_call_goes_on_with_its_job(self, server: Server, client: stillhouse.Stillhouse) -> None:
        first = asked_for(server, client, metric="exact_match")
        server.jobs = [{"id": "cjob-1", "status": "succeeded", "created_at": 1, "metadata": first["metadata"]}]
        asked = len(server.bodies("POST /v1/compile_jobs"))
        with pytest.raises(stillhouse.StillhouseError):
            stillhouse.BootstrapFinetune(metric="exact_match", client=client).compile(
                desk("house/tiny"), [example(number) for number in range(6)], teacher=desk("openai/big")
            )
        assert len(server.bodies("POST /v1/compile_jobs")) == asked
        server.jobs = []
        other = asked_for(server, client, metric="exact_match", multitask=False)
        assert other["metadata"] != first["metadata"]

    def test_a_job_whose_artifact_was_deleted_is_made_again(self, server: Server, client: stillhouse.Stillhouse) -> None:
        server.jobs = [{"id": "cjob-gone", "status": "succeeded", "created_at": 1}]
        server.succeeded["cjob-gone"] = None
        asked_for(server, client)
        assert len(server.bodies("POST /v1/compile_jobs")) == 1

    @pytest.mark.parametrize("status", ["running", "paused"])
    def test_a_job_that_is_being_cancelled_is_made_again(self, server: Server, client: stillhouse.Stillhouse, status: str) -> None:
        """It is not cancelled before what is worked on ends."""
        server.jobs = [{"id": "cjob-going", "status": status, "created_at": 1, "cancel_requested_at": 2}]
        asked_for(server, client)
        assert len(server.bodies("POST /v1/compile_jobs")) == 1
        assert not server.bodies("POST /v1/compile_jobs/cjob-going/resume")

    def test_options_by_lm_find_its_predictors(self, server: Server, client: stillhouse.Stillhouse) -> None:
        tiny, small = dspy.LM("house/tiny"), dspy.LM("openai/small")
        student = desk("house/tiny")
        student.classify.lm, student.reply.lm = tiny, small
        kwargs = {tiny: {"n_epochs": 7}, small: {"n_epochs": 2}}
        for adapters, said in (
            ({tiny: dspy.JSONAdapter(), small: dspy.JSONAdapter()}, pytest.raises(stillhouse.StillhouseError, match="over")),
            ({small: dspy.JSONAdapter()}, pytest.raises(ValueError, match=r"adapter: a program has one prompt adapter, .* chat and json")),
        ):
            with said:
                stillhouse.BootstrapFinetune(client=client, train_kwargs=kwargs, adapter=adapters).compile(student, [example(0)])
        (body,) = server.bodies("POST /v1/compile_jobs")
        assert [(lm["model"], lm["train_options"]["n_epochs"]) for lm in body["lms"].values()] == [("tiny", 7), ("small", 2)]
        assert (body["prompt_adapter"]["type"], body.get("train_options")) == ("json", None)

    @pytest.mark.parametrize("option", ["train_kwargs", "adapter"])
    def test_options_of_an_lm_that_nothing_asks_are_an_error(self, server: Server, client: stillhouse.Stillhouse, option: str) -> None:
        given: Any = {dspy.LM("house/other"): {"n_epochs": 7} if option == "train_kwargs" else dspy.JSONAdapter()}
        with pytest.raises(ValueError, match=rf"{option}: no predictor of the student asks house/other; they ask house/tiny"):
            stillhouse.BootstrapFinetune(client=client, **{option: given}).compile(desk("house/tiny"), [example(0)])
        assert not server.bodies("POST /v1/compile_jobs")

    def test_an_lm_without_a_connection_is_a_table_before_any_work(self, server: Server, client: stillhouse.Stillhouse) -> None:
        optimizer = stillhouse.BootstrapFinetune(metric="exact_match", client=client)
        with pytest.raises(NoConnection, match=r"classify +mistral/large +-\n +reply +mistral/large +-\n.*house/tiny, openai/…"):
            optimizer.compile(desk("mistral/large"), [example(0)])
        with pytest.raises(ValueError, match=r"trainset: row 1: Inputs have not been set"):
            optimizer.compile(desk("house/tiny"), [dspy.Example(message="m", category="billing")])
        assert not server.bodies("POST /v1/compile_jobs")

    @pytest.mark.parametrize(
        ("options", "inputs", "message"),
        [
            ({}, "mesage", r"trainset: row 2: forward of Desk needs `message`, which is not among the inputs `mesage`\. Name the inputs"),
            ({}, "message, urgent", r"trainset: row 2: forward of Desk takes no `urgent`; it takes `message`\. Name the inputs"),
            (
                {"metric": lambda example, prediction: 1.0},
                "message",
                r"metric: it takes \(example, prediction\) and is called with \(example, prediction, trace\)",
            ),
        ],
    )
    def test_inputs_and_metrics_that_cannot_be_called_are_refused_before_a_job(
        self, server: Server, client: stillhouse.Stillhouse, options: Any, inputs: str, message: str
    ) -> None:
        names = inputs.split(", ")
        rows = [example(0), dspy.Example(**dict.fromkeys(names, "m"), category="billing").with_inputs(*names)]
        with pytest.raises(ValueError, match=message):
            stillhouse.BootstrapFinetune(client=client, **options).compile(desk("house/tiny"), rows)
        assert not server.sent

    def test_advice_on_inputs_speaks_of_the_method_that_is_run(self, client: stillhouse.Stillhouse) -> None:
        class Both(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.ask = dspy.Predict("message -> answer")

            def forward(self, text: str) -> Any:
                return self.ask(message=text)

            async def aforward(self, message: str) -> Any:
                return await self.ask.acall(message=message)

        student = Both()
        student.set_lm(dspy.LM("house/tiny"))
        with pytest.raises(ValueError, match="row 1: aforward of Both needs `message`") as refusal:
            stillhouse.BootstrapFinetune(client=client).compile(student, [dspy.Example(text="Hi").with_inputs("text")])
        assert "`forward`" not in str(refusal.value)

    @pytest.mark.parametrize(
        ("asked", "found"),
        [("house/house/tiny", ("house", "tiny")), ("house/openai/big", ("openai", "big")), ("house/tiny", ("house", "tiny"))],
    )
    @pytest.mark.parametrize("models", [["tiny"], None])
    def test_an_lm_of_the_gateway_is_that_of_its_connection(
        self, server: Server, client: stillhouse.Stillhouse, asked: str, found: tuple[str, str], models: list[str] | None
    ) -> None:
        server.models = models
        with pytest.raises(stillhouse.StillhouseError, match="is failed"):
            stillhouse.BootstrapFinetune(metric="exact_match", client=client).compile(desk(asked), [example(0), example(1)])
        (body,) = server.bodies("POST /v1/compile_jobs")
        assert body["lms"] == {"student": {"connection": found[0], "model": found[1]}}

    def test_lms_may_be_named(self, server: Server, client: stillhouse.Stillhouse) -> None:
        optimizer = stillhouse.BootstrapFinetune(
            metric="exact_match", client=client, lms={"classify": "house/tiny", "mistral/large": "openai/small"}
        )
        with pytest.raises(stillhouse.StillhouseError):
            optimizer.compile(desk("mistral/large"), [example(0)])
        (body,) = server.bodies("POST /v1/compile_jobs")
        assert body["lms"] == {
            "student": {"connection": "house", "model": "tiny"},
            "student2": {"connection": "openai", "model": "small"},
        }


class TestItem:
    def test_rollouts_are_made_here_and_sent(self, server: Server, client: stillhouse.Stillhouse, lm: ScriptedLM) -> None:
        examples = [example(number) for number in range(6)]
        body = asked_for(server, client, metric=lambda *_: True)
        before = len(lm.calls)
        run = ItemRun(
            client, item_of(body, examples), desk("openai/big"), lambda ex, pred, trace: ex.category == pred.category and len(trace)
        )
        run.run()

        traces = [trace for sent in server.bodies("POST /v1/compile_jobs/cjob-1/traces") for trace in sent["traces"]]
        assert sorted((trace["row"], trace["status"], len(trace["calls"])) for trace in traces) == [
            (1, "ok", 2), (2, "ok", 2), (3, "ok", 1), (4, "ok", 2), (5, "ok", 2), (6, "ok", 1),
        ]  # fmt: skip
        account = next(trace for trace in traces if trace["row"] == 3)
        assert account["outputs"] == {"category": "account", "answer": look_up("Message 2 about account")}
        assert account["calls"][0]["predictor"] == "classify"
        assert (account["calls"][0]["lm"], account["usage"]["lms"]["openai/big"]["calls"]) == ("openai/big", 1)
        scores = [score for sent in server.bodies("POST /v1/compile_jobs/cjob-1/scores") for score in sent["scores"]]
        assert sorted((score["row"], score["value"]) for score in scores) == [(1, 2.0), (2, 2.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 1.0)]
        assert {score["row"]: score["outputs"] for score in scores} == {trace["row"]: trace["outputs"] for trace in traces}
        assert server.bodies("POST /v1/work_items/publish") == [{"id": "work-1", "fence": 1, "undecided": []}]
        assert not server.bodies("POST /v1/work_items/release")

        calls = lm.calls[before:]
        assert len(calls) == 4 * 2 + 2
        assert {call.headers["Authorization"] for call in calls} == {"Bearer sh_a_b"}, "the user's own key is not sent"
        assert {(call.body["model"], call.body["temperature"]) for call in calls} == {("openai/big", 0.5)}

    @pytest.mark.parametrize("wrapper", [dspy.BestOfN, dspy.Refine])
    def test_its_wrapper_finds_one_lm(self, server: Server, client: stillhouse.Stillhouse, lm: ScriptedLM, wrapper: Any) -> None:
        """`get_lm` wants one object for all predictors of a program: those of one role have the same."""

        def wrapped(model: str) -> Any:
            return wrapper(desk(model), N=2, reward_fn=lambda args, made: 1.0, threshold=1.0)

        with pytest.raises(stillhouse.StillhouseError, match="over"):
            stillhouse.BootstrapFinetune(client=client).compile(wrapped("house/tiny"), [example(0)], teacher=wrapped("openai/big"))
        item = item_of(server.bodies("POST /v1/compile_jobs")[-1], [example(0), example(1)])
        ItemRun(client, item, wrapped("openai/big"), lambda *_: True).run()
        traces = [trace for sent in server.bodies("POST /v1/compile_jobs/cjob-1/traces") for trace in sent["traces"]]
        assert [(trace["status"], [call["predictor"] for call in trace["calls"]]) for trace in traces] == [
            ("ok", ["module.classify", "module.reply"])
        ] * 2

    def test_a_gateway_that_refuses_ends_it_and_gives_the_item_back(self, server: Server, lm: ScriptedLM) -> None:
        with stillhouse.Stillhouse(lm.url.removesuffix("/v1"), "sh_a_b", transport=httpx.MockTransport(server)) as client:
            body = asked_for(server, client, metric=lambda *_: True)
            lm.fault = Fail(404, "model_not_found", "no model openai/big")
            try:
                with pytest.raises(Refused, match="no model openai/big"):
                    ItemRun(client, item_of(body, [example(0)]), desk("openai/big"), lambda *_: True).run()
            finally:
                lm.fault = None
        assert server.bodies("POST /v1/work_items/release") == [{"id": "work-1", "fence": 1}]
        assert not server.bodies("POST /v1/work_items/publish")

    def test_a_compiled_program_asks_as_its_job_says(self, server: Server, client: stillhouse.Stillhouse, lm: ScriptedLM) -> None:
        """Not under the prompt adapter that it is pinned to."""
        item, before = item_of(asked_for(server, client), [example(0)]), len(lm.calls)
        ItemRun(client, item, pin(desk("openai/big"), dspy.JSONAdapter()), lambda *_: True).run()
        prompts = [call.body["messages"][-1]["content"] for call in lm.calls[before:]]
        assert len(prompts) == 2
        assert all("[[ ## completed ## ]]" in prompt for prompt in prompts)

    def test_what_is_stored_is_not_made_again(self, server: Server, client: stillhouse.Stillhouse, lm: ScriptedLM) -> None:
        body = asked_for(server, client, metric=lambda *_: True)
        first = item_of(body, [example(0)])
        ItemRun(client, first, desk("openai/big"), lambda *_: True).run()
        trace, before = first.examples[0].rollouts[0]["trace"], len(lm.calls)
        server.sent.clear()
        again = item_of(body, [example(0)])
        again.examples[0].rollouts[0]["trace"] = trace
        ItemRun(client, again, desk("openai/big"), lambda *_: False).run()
        assert len(lm.calls) == before
        assert not server.bodies("POST /v1/compile_jobs/cjob-1/traces")
        ((score,),) = [sent["scores"] for sent in server.bodies("POST /v1/compile_jobs/cjob-1/scores")]
        assert score["value"] == 0.0


class Identity(dspy.ChatAdapter):
    def format_finetune_data(self, signature: Any, demos: Any, inputs: Any, outputs: Any) -> Any:
        return {"inputs": inputs, "outputs": outputs}


class TestUpstreamsClass:
    """Code that was written for dspy.BootstrapFinetune finds its class and its members."""

    def test_is_a_subclass(self) -> None:
        optimizer = stillhouse.BootstrapFinetune(train_kwargs={"n_epochs": 2}, adapter=dspy.XMLAdapter(), num_threads=3)
        assert isinstance(optimizer, dspy.BootstrapFinetune)
        lm = dspy.LM("house/tiny")
        assert optimizer.train_kwargs[lm] == {"n_epochs": 2}
        assert isinstance(optimizer.adapter[lm], dspy.XMLAdapter)
        given = {lm: {"n_epochs": 1}}
        assert stillhouse.BootstrapFinetune(train_kwargs=given).train_kwargs == given

    def test_options_set_after_it_was_made_count(self, server: Server, client: stillhouse.Stillhouse) -> None:
        optimizer = stillhouse.BootstrapFinetune(metric=lambda *_: True, train_kwargs={"n_epochs": 1}, client=client)
        optimizer.train_kwargs, optimizer.adapter = {"n_epochs": 9}, dspy.JSONAdapter()
        with pytest.raises(stillhouse.StillhouseError, match="over"):
            optimizer.compile(desk("house/tiny"), [example(0)])
        (body,) = server.bodies("POST /v1/compile_jobs")
        assert (body["train_options"]["n_epochs"], body["prompt_adapter"]) == (9, {"type": "json"})

    @pytest.mark.parametrize(("number", "kept"), [(None, {"0", "1"}), (1, {"1"})])
    def test_renders_traces_that_it_is_given(self, number: int | None, kept: set[str]) -> None:
        predictor = dspy.Predict("q -> answer")
        trace = [(predictor, {"q": step}, {"answer": step}) for step in ("0", "1")]
        optimizer = stillhouse.BootstrapFinetune(metric=lambda *_: True, adapter=Identity())
        scored = [{"trace": trace, "score": 1.0}, {"trace": trace, "score": 0.0}]
        rows, _ = optimizer._prepare_finetune_data(trace_data=scored, lm=DummyLM([]), pred_ind=number)
        assert sorted(row["inputs"]["q"] for row in rows) == sorted(kept)


class TestFinetuneLms:
    """The members that code around dspy.BootstrapFinetune patches and calls."""

    @pytest.mark.parametrize("multitask", [True, False])
    def test_compile_goes_through_it(self, monkeypatch: pytest.MonkeyPatch, multitask: bool) -> None:
        """Patched, it replaces the job: no server is needed."""
        lm, tuned = DummyLM([{"answer": "a"}]), DummyLM([{"answer": "b"}])
        student, teacher, given = dspy.ChainOfThought("q -> answer"), dspy.ChainOfThought("q -> answer"), list[Any]()
        student.set_lm(lm)
        teacher.set_lm(lm)
        key = lm, None if multitask else 0
        optimizer = stillhouse.BootstrapFinetune(metric=lambda *_: True, multitask=multitask, train_kwargs={"n_epochs": 2})

        def trained(trainings: Any) -> Any:
            given.append(dict(trainings))
            return {key: tuned}

        monkeypatch.setattr(optimizer, "finetune_lms", trained)
        compiled = optimizer.compile(student, teacher=teacher, trainset=[dspy.Example(q="q", answer="a").with_inputs("q")])
        assert given == [{key: {"lm": lm, "train_kwargs": {"n_epochs": 2}}}]
        assert (compiled.get_lm(), compiled._compiled, student.get_lm()) == (tuned, True, lm)
        monkeypatch.setattr(optimizer, "finetune_lms", lambda trainings: {key: OSError("no disk")})
        with pytest.raises(RuntimeError, match=r"Finetuned LM for predictor 0 failed\."):
            optimizer.compile(student, [dspy.Example(q="q", answer="a").with_inputs("q")])

    def test_it_takes_nothing_but_what_compile_gives_it(self) -> None:
        with pytest.raises(TypeError, match="make a fine-tuning job of their file"):
            stillhouse.BootstrapFinetune.finetune_lms({})

    def test_one_value_is_that_of_every_lm(self) -> None:
        one, other = dspy.LM("house/tiny"), dspy.LM("openai/big")
        by_lm = {one: {"n_epochs": 1}}
        assert stillhouse.BootstrapFinetune.convert_to_lm_dict(by_lm) is by_lm
        assert stillhouse.BootstrapFinetune.convert_to_lm_dict({"n_epochs": 2})[other] == {"n_epochs": 2}
        assert stillhouse.BootstrapFinetune.convert_to_lm_dict(None)[one] is None
