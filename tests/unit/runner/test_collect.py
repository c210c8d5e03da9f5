"""One rollout of a program: whose call was whose, how it ended, and its score."""

import asyncio
import enum
from typing import Any, Literal

import dspy
import orjson
import pydantic
import pytest

from stillhouse_programs.collect import score_trace, within
from stillhouse_programs.protocol import InfrastructureError
from stillhouse_programs.relay_http import Caller, Reply
from tests.support.scripted_lm import Answerer, Fail
from tests.unit.runner.support import Json, ScriptedRelay, Steps, called, prepared, rollout


class InThreads(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = dspy.Predict("q -> a")

    def forward(self, q: str) -> dspy.Prediction:
        return self.act(q=q)


class TestWhatIsKept:
    def test_usage_raw_text_and_token(self) -> None:
        relay = ScriptedRelay(lambda ask: {"a": "two words"})
        trace = rollout(prepared(dspy.Predict("q -> a"), relay), q="x")
        call = trace["calls"][0]
        assert call["raw"] == "[[ ## a ## ]]\ntwo words\n\n[[ ## completed ## ]]\n"
        assert call["usage"]["completion_tokens"] == 12
        spent = {"calls": 1, **call["usage"]}
        assert trace["usage"] == {**spent, "lms": {"student": spent}}
        assert call["lm"] == "student"
        assert relay.tokens == ["t"]

    @pytest.mark.parametrize("usage", [{"prompt_tokens": "7"}, {"prompt_tokens": -7}, {"prompt_tokens_details": [7]}, [7], "7"])
    @pytest.mark.parametrize("in_threads", [False, True])
    def test_an_answer_that_counts_nonsense_is_an_answer(self, usage: Any, in_threads: bool) -> None:
        class Counts(ScriptedRelay):
            def reply(self, caller: Caller, data: bytes) -> Reply:
                body = orjson.loads(super().reply(caller, data).body)
                return Reply(200, None, orjson.dumps({**body, "usage": usage}))

        program = InThreads() if in_threads else dspy.Predict("q -> a")
        trace = rollout(prepared(program, Counts(lambda ask: {"a": "fine"})), q="x")
        assert trace["outputs"] == {"a": "fine"}, trace["error"]
        assert trace["usage"]["prompt_tokens"] == 0
        assert trace["usage"]["calls"] == 1

    def test_messages_are_those_of_the_prompt_adapter(self) -> None:
        relay = ScriptedRelay()
        ready = prepared(dspy.Predict("q -> a"), relay)
        rollout(ready, q="x")
        assert relay.bodies[0]["messages"] == dspy.ChatAdapter().format(ready.program.signature, [], {"q": "x"})
        assert relay.bodies[0]["model"] == "student"

    @pytest.mark.parametrize(
        ("override", "given"),
        [("demos", {"demos": []}), ("signature", {"signature": "q -> b"}), ("config", {"config": {"temperature": 0.9}})],
    )
    def test_overrides_given_at_the_call(self, override: str, given: Json) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            return await self.answer.acall(q=q, **given)

        trace = rollout(prepared(Steps(body, answer=dspy.Predict("q -> a")), ScriptedRelay()), q="x")
        assert trace["calls"][0]["overrides"] == [override]

    def test_another_prompt_adapter_or_instructions_count_as_overrides(self) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            self.answer.signature = self.answer.signature.with_instructions("Changed.")
            with dspy.context(adapter=dspy.JSONAdapter()):
                return await self.answer.acall(q=q)

        trace = rollout(prepared(Steps(body, answer=dspy.Predict("q -> a")), ScriptedRelay()), q="x")
        assert trace["calls"][0]["overrides"] == ["signature", "prompt_adapter"]

    def test_defaults_of_inputs_are_filled_in(self) -> None:
        class Ask(dspy.Signature):
            q: str = dspy.InputField()
            tone: str = dspy.InputField(default="kind")
            a: str = dspy.OutputField()

        assert rollout(prepared(dspy.Predict(Ask), ScriptedRelay()), q="x")["calls"][0]["inputs"] == {"q": "x", "tone": "kind"}

    def test_input_that_is_no_json_is_marked(self) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            return await self.answer.acall(q=object())

        call = rollout(prepared(Steps(body, answer=dspy.Predict("q -> a")), ScriptedRelay()), q="x")["calls"][0]
        assert call["overrides"] == ["not_json:q"]

    def test_option_of_the_user_wins_over_the_seed(self) -> None:
        relay = ScriptedRelay()
        rollout(prepared(dspy.Predict("q -> a", seed=99, temperature=0.3), relay), seed=1, q="x")
        assert (relay.bodies[0]["seed"], relay.bodies[0]["temperature"]) == (99, 0.3)

    def test_several_completions_take_dspys_own_way(self) -> None:
        relay = ScriptedRelay(lambda ask: {"a": f"answer {ask.n}"})
        trace = rollout(prepared(dspy.Predict("q -> a", n=2), relay), q="x")
        assert (trace["outputs"], len(relay.bodies), trace["usage"]["calls"]) == ({"a": "answer 0"}, 2, 2)


class TestHowItEnds:
    def test_unparsable_keeps_the_raw_answer(self) -> None:
        trace = rollout(prepared(dspy.Predict("q -> a"), ScriptedRelay(lambda ask: "no headers")), q="x")
        assert (trace["status"], trace["outputs"], trace["error"]["type"]) == ("unparsable", None, "AdapterParseError")
        assert (trace["calls"][0]["raw"], trace["calls"][0]["outputs"]) == ("no headers", None)

    def test_unparsable_asks_once(self) -> None:
        relay = ScriptedRelay(lambda ask: "no headers")
        rollout(prepared(dspy.Predict("q -> a"), relay), q="x")
        assert len(relay.bodies) == 1

    @pytest.mark.parametrize("fault", [ValueError("boom"), SystemExit(3), KeyboardInterrupt()])
    def test_exception_of_the_program_is_a_fact(self, fault: BaseException) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            await self.answer.acall(q=q)
            raise fault

        trace = rollout(prepared(Steps(body, answer=dspy.Predict("q -> a")), ScriptedRelay()), q="x")
        assert (trace["status"], trace["error"]["type"], called(trace)) == ("failed", type(fault).__name__, ["answer"])
        assert "test_collect.py:" in trace["error"]["traceback"]
        assert "/" not in trace["error"]["traceback"]

    def test_result_must_be_a_prediction(self) -> None:
        async def body(self: Any, q: str) -> str:
            return "text"

        trace = rollout(prepared(Steps(body), ScriptedRelay()), q="x")
        assert (trace["status"], trace["error"]["message"]) == ("failed", "the program returned str, not a dspy.Prediction")

    @pytest.mark.parametrize("swallow", [Exception, BaseException])
    def test_program_cannot_swallow_infrastructure(self, swallow: type[BaseException]) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            try:
                return await self.answer.acall(q=q)
            except swallow:
                return dspy.Prediction(a="made up")

        relay = ScriptedRelay(refuse=Fail(402), code="budget_exhausted")
        with pytest.raises(InfrastructureError) as trouble:
            rollout(prepared(Steps(body, answer=dspy.Predict("q -> a")), relay), q="x")
        assert trouble.value.code == "budget_exhausted"

    def test_program_may_handle_a_prompt_that_is_too_long(self) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            try:
                return await self.answer.acall(q=q)
            except dspy.ContextWindowExceededError:
                return dspy.Prediction(a="shortened")

        relay = ScriptedRelay(refuse=Fail(400, "context_length_exceeded"), code="bad_request")
        trace = rollout(prepared(Steps(body, answer=dspy.Predict("q -> a")), relay), q="x")
        assert (trace["status"], trace["outputs"]) == ("ok", {"a": "shortened"})

    @pytest.mark.parametrize("in_threads", [False, True])
    def test_a_prompt_that_leaves_no_room_for_the_default_bound_is_asked_without_it(self, in_threads: bool) -> None:
        class Full(ScriptedRelay):
            def reply(self, caller: Caller, data: bytes) -> Reply:
                self.refuse = Fail(400, "context_length_exceeded") if b'"max_tokens":500' in data else None
                return super().reply(caller, data)

        relay = Full()
        ready = prepared(InThreads() if in_threads else dspy.Predict("q -> a"), relay, answer_tokens=500)
        assert rollout(ready, q="x")["outputs"] == {"a": "a"}
        assert [body.get("max_tokens") for body in relay.bodies] == [500, None]

    def test_what_a_program_says_of_one_call_is_before_the_default_bound(self) -> None:
        relay = ScriptedRelay()
        rollout(prepared(dspy.Predict("q -> a", max_tokens=9), relay, answer_tokens=500), q="x")
        assert [body["max_tokens"] for body in relay.bodies] == [9]

    @pytest.mark.parametrize("stubborn", [False, True])
    def test_time_limit_is_no_fact(self, stubborn: bool) -> None:
        async def body(self: Any, q: str) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise

        with pytest.raises(InfrastructureError) as trouble:
            rollout(prepared(Steps(body), ScriptedRelay()), limit=0.05, q="x")
        assert trouble.value.code == "time_limit"


class Certain(ScriptedRelay):
    """A host that gives log-probabilities, and says of each answer what `logprobs` say; or has none."""

    def __init__(self, answer: Answerer, logprobs: Any = None, refuses: int | None = None) -> None:
        super().__init__(answer)
        self.logprobs, self.refuses = logprobs, refuses

    def reply(self, caller: Caller, data: bytes) -> Reply:
        reply = super().reply(caller, data)
        if "logprobs" not in self.bodies[-1]:
            return reply
        if self.refuses:
            return Reply(self.refuses, None, orjson.dumps({"error": {"message": "unexpected keyword: logprobs", "code": None}}))
        body = orjson.loads(reply.body)
        body["choices"][0]["logprobs"] = self.logprobs
        return Reply(200, None, orjson.dumps(body))


SURE = {"content": [{"token": "y", "logprob": -0.25}, {"token": "es", "logprob": -0.5}]}
Closed = dspy.Signature("q -> a").with_updated_fields("a", type_=Literal["yes", "no"])


class TestLogProbabilities:
    """Of closed answers: one of a few values, to which the LM host holds the LM."""

    def test_are_kept_in_the_trace_and_told_to_the_metric(self) -> None:
        ready = prepared(dspy.Predict(Closed), Certain(lambda ask: {"a": "yes"}, SURE), constrain=True)
        trace = rollout(ready, q="x")
        assert trace["calls"][0]["logprob"] == -0.75

        def metric(example: dspy.Example, prediction: dspy.Prediction, calls: Any = None) -> float:
            assert prediction.keys() == ["a"]
            return float(-(prediction.logprob + calls[0][2].logprob))

        assert asyncio.run(score_trace(ready, trace, {}, metric, 1.0))["value"] == 1.5

    def test_of_several_calls_add_up(self) -> None:
        async def body(self: Any, q: str) -> Any:
            await self.one.acall(q=q)
            return await self.two.acall(q=q)

        ready = prepared(
            Steps(body, one=dspy.Predict(Closed), two=dspy.Predict(Closed)), Certain(lambda ask: {"a": "no"}, SURE), constrain=True
        )
        trace = rollout(ready, q="x")
        found = asyncio.run(score_trace(ready, trace, {}, lambda example, prediction, calls: -prediction.logprob / 2, 0.5))
        assert found["value"] == 0.75

    @pytest.mark.parametrize("nonsense", [None, [], {"content": None}, {"content": []}, {"content": [{"logprob": "x"}]}, {"content": [7]}])
    def test_that_are_none_cost_no_answer(self, nonsense: Any) -> None:
        ready = prepared(dspy.Predict(Closed), Certain(lambda ask: {"a": "yes"}, nonsense), constrain=True)
        trace = rollout(ready, q="x")
        assert (trace["outputs"], "logprob" in trace["calls"][0]) == ({"a": "yes"}, False)
        found = asyncio.run(score_trace(ready, trace, {}, lambda example, prediction, calls: prediction.logprob is None, 1.0))
        assert found["value"] == 1.0

    @pytest.mark.parametrize("status", [400, 422])
    def test_a_host_without_them_is_asked_once(self, status: int) -> None:
        relay = Certain(lambda ask: {"a": "yes"}, refuses=status)
        ready = prepared(dspy.Predict(Closed), relay, constrain=True)
        assert [rollout(ready, q="x")["outputs"] for _ in range(2)] == [{"a": "yes"}] * 2
        assert ["logprobs" in body for body in relay.bodies] == [True, False, False]

    @pytest.mark.parametrize(("signature", "constrain"), [("q -> a", True), (Closed, False)])
    def test_are_not_asked_for_otherwise(self, signature: Any, constrain: bool) -> None:
        relay = Certain(lambda ask: {"a": "yes"}, SURE)
        rollout(prepared(dspy.Predict(signature), relay, constrain=constrain), q="x")
        assert "logprobs" not in relay.bodies[0]


class TestTimeLimit:
    def test_what_does_not_count_is_added_to_the_limit(self) -> None:
        async def scenario() -> str:
            release = asyncio.Event()

            async def work() -> str:
                await release.wait()
                return "done"

            async def uncounted() -> float:
                release.set()
                return 60.0

            return await within(0.01, work(), uncounted)

        assert asyncio.run(scenario()) == "done"

    def test_it_is_over_when_nothing_is_left_of_both(self) -> None:
        asked: list[float] = []

        async def uncounted() -> float:
            asked.append(0.02)
            return 0.02

        with pytest.raises(InfrastructureError, match=r"not done within 0\.01 s"):
            asyncio.run(within(0.01, asyncio.sleep(60), uncounted))
        assert len(asked) in (1, 2)


class Color(enum.Enum):
    RED = "red"


class Order(pydantic.BaseModel):
    item: str
    count: int


class TestScores:
    def score(self, trace: Json, metric: Any, ready: Any, min_score: float = 1.0, **labels: Any) -> Json:
        return asyncio.run(score_trace(ready, trace, labels, metric, min_score))

    def test_metric_sees_typed_outputs_and_the_trace(self) -> None:
        signature = dspy.Signature(
            {"q": (str, dspy.InputField()), "order": (Order, dspy.OutputField()), "color": (Color, dspy.OutputField())}
        )
        relay = ScriptedRelay(lambda ask: {"order": {"item": "pen", "count": 2}, "color": "red"})
        ready = prepared(dspy.Predict(signature), relay, order=Order, color=Color)
        trace = rollout(ready, q="x")
        seen: list[Any] = []

        def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any) -> bool:
            seen.append((example.q, example.label, prediction.order, prediction.color, trace))
            return True

        assert self.score(trace, metric, ready, label="L")["passed"] is True
        q, label, order, color, calls = seen[0]
        assert (q, label, order, color) == ("x", "L", Order(item="pen", count=2), Color.RED)
        predictor, inputs, prediction = calls[0]
        assert (predictor is ready.program, inputs, prediction.order.count) == (True, {"q": "x"}, 2)

    @pytest.mark.parametrize(
        ("value", "passed", "status"), [(0.7, True, "ok"), (0.2, False, "ok"), (None, False, "inconclusive"), ("1", False, "failed")]
    )
    def test_answers_of_a_metric(self, value: Any, passed: bool, status: Literal["ok"]) -> None:
        ready = prepared(dspy.Predict("q -> a"), ScriptedRelay())
        score = self.score(rollout(ready, q="x"), lambda *_: value, ready, min_score=0.5)
        assert (score["passed"], score["status"]) == (passed, status)

    def test_metric_that_raises_fails_the_row(self) -> None:
        ready = prepared(dspy.Predict("q -> a"), ScriptedRelay())
        score = self.score(rollout(ready, q="x"), lambda *_: 1 / 0, ready)
        assert (score["status"], score["value"], score["error"]) == ("failed", None, "ZeroDivisionError: division by zero")

    def test_rollout_without_an_answer_scores_zero_unasked(self) -> None:
        ready = prepared(dspy.Predict("q -> a"), ScriptedRelay(lambda ask: "no headers"))
        score = self.score(rollout(ready, q="x"), lambda *_: 1 / 0, ready)
        assert score == {"value": 0.0, "passed": False, "status": "ok", "feedback": None, "error": "the rollout ended unparsable"}
