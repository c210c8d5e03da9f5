"""Specs derived from live programs: what tracing takes, what it refuses at a line, and what only the proof catches."""

import datetime
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from stillhouse_programs.build import build_program
from stillhouse_programs.derive import derive
from stillhouse_programs.not_a_spec import NotASpec
from stillhouse_programs.pinning import pin
from stillhouse_programs.prompts import make_prompt_adapter, stand_in_lm
from stillhouse_programs.prove import prove
from stillhouse_programs.spec import PROMPT_ADAPTERS, PromptAdapterSpec, canonical_json, parse_spec
from tests.unit.programs.samples import ROUTER, SAMPLES, SUPPORT, Order, Route, Support


class Parts(dspy.Module):
    """Predictors to try a `forward` with; those it does not use are taken away."""

    def __init__(self, uses: str) -> None:
        super().__init__()
        order = {"message": (str, dspy.InputField()), "order": (Order, dspy.OutputField())}
        parts = {
            "sort": dspy.Predict(Route),
            "write": dspy.Predict("context, message -> answer"),
            "hops": [dspy.ChainOfThought("message, notes -> notes2") for _ in range(2)],
            "read": dspy.Predict(dspy.Signature(order, "Read the order.")),
        }
        for name in uses.split():
            setattr(self, name, parts[name])


def program_of(forward: Callable[..., Any], uses: str) -> dspy.Module:
    return type("Program", (Parts,), {"forward": forward})(uses)


# ---- taken


def f_string(self: Any, message: str) -> Any:
    found = self.sort(message=message)
    return self.write(context=f"Team: {found.category}.\n", message=message)


def plus(self: Any, message: str) -> Any:
    return self.write(context="Team: " + self.sort(message=message).category + "!", message="> " + message)


def join(self: Any, message: str) -> Any:
    first = self.write(context="a", message=message)
    return self.write(context="\n".join(["Known:", first.answer, message]), message=message)


def percent(self: Any, message: str) -> Any:
    return self.write(context="Re: %s" % self.write(context="", message=message).answer, message=message)  # noqa: UP031 - users write so


def loop(self: Any, message: str) -> Any:
    notes = ""
    for hop in self.hops:
        notes = hop(message=message, notes=notes).notes2
    return dspy.Prediction(notes=notes)


def nested(self: Any, message: str) -> Any:
    order = self.read(message=message).order
    return self.write(context=order.note, message=f"{order.items} {order.kind}")


def constant(self: Any, message: str) -> Any:
    return dspy.Prediction(answer=self.write(context="You are Bob", message=message).answer, source="v2")


def twice(self: Any, message: str) -> Any:
    first = self.write(context="a", message=message)
    return self.write(context=first.answer, message=message)


def default(self: Any, message: str, context: str = "none") -> Any:
    return self.write(context=context, message=message)


TAKEN: list[tuple[Callable[..., Any], str]] = [
    (f_string, "sort write"), (plus, "sort write"), (join, "write"), (percent, "write"), (loop, "hops"), (nested, "read write"),
    (constant, "write"), (twice, "write"), (default, "write"),
]  # fmt: skip

# ---- refused at a line


def branch(self: Any, message: str) -> Any:
    found = self.sort(message=message)
    if found.category == "billing":
        return self.write(context="money", message=message)
    return self.write(context="other", message=message)


def length(self: Any, message: str) -> Any:
    return self.write(context="long" if len(message) > 3 else "short", message=message)


def iteration(self: Any, message: str) -> Any:
    return self.write(context="; ".join(item.name for item in self.read(message=message).order.items), message=message)


def lower(self: Any, message: str) -> Any:
    return self.write(context=message.lower(), message=message)


def lookup(self: Any, message: str) -> Any:
    return self.write(context=str({"a": 1}.get(message, [])), message=message)


def shown(self: Any, message: str) -> Any:
    return self.write(context=f"{message!r}", message=message)


def swallowed(self: Any, message: str) -> Any:
    try:
        return self.write(context="x" if len(message) > 3 else "y", message=message)
    except Exception:
        return self.write(context="fallback", message=message)


def switched(self: Any, message: str) -> Any:
    with dspy.context(lm=dspy.LM("openai/other")):
        return self.write(context="", message=message)


def reconfigured(self: Any, message: str) -> Any:
    return self.write(context="", message=message, config={"temperature": 1.0})


def changed_text(self: Any, message: str) -> Any:
    return self.write(context=f"Team {self.sort(message=message).category}".upper(), message=message)


def bare(self: Any, message: str) -> Any:
    return self.write(context="", message=message).answer


def unknown_field(self: Any, message: str) -> Any:
    return self.write(context="", message=message, mood="good")


def broken(self: Any, message: str) -> Any:
    return self.write(context=self.missing, message=message)


def objects(self: Any, message: str) -> Any:
    return self.write(context=datetime.timedelta(1), message=message)


REFUSED: list[tuple[Callable[..., Any], str, str]] = [
    (branch, "sort write", "'if found.category == \"billing\":' compares s1.category, known only at run time"),
    (length, "write", "takes len() of input.message"),
    (iteration, "read write", "loops over s1.order.items"),
    (lower, "write", "calls .lower on input.message"),
    (lookup, "write", "looks up by input.message"),
    (shown, "write", "takes repr() of input.message"),
    (swallowed, "write", "takes len() of input.message"),
    (switched, "write", "the LM or prompt adapter is switched inside forward()"),
    (reconfigured, "write", "write is called with config= inside forward()"),
    (changed_text, "sort write", "the text around a run-time value is changed"),
    (bare, "write", "forward() returns a bare value, not a dspy.Prediction"),
    (unknown_field, "write", "write is called with mood=, which is not an input field"),
    (broken, "write", "AttributeError while tracing"),
    (objects, "write", "gets a timedelta, which is neither an input, an output nor a JSON constant"),
]

# ---- traced, and caught by the proof


def none_check(self: Any, message: str) -> Any:
    order = self.read(message=message).order
    return self.write(context="empty" if order.note is None else "note", message=message)


def type_check(self: Any, message: str) -> Any:
    order = self.read(message=message).order
    return self.write(context="text" if isinstance(order.kind, str) else "other", message=f"{isinstance(order.items, list)}")


def clock(self: Any, message: str) -> Any:
    return self.write(context=datetime.datetime.now().isoformat(), message=message)


class TestTaken:
    @pytest.mark.parametrize(("forward", "uses"), TAKEN, ids=lambda value: getattr(value, "__name__", ""))
    def test_traced_and_proved(self, forward: Callable[..., Any], uses: str) -> None:
        program = program_of(forward, uses)
        assert set(prove(program, derive(program, SAMPLES[0]), SAMPLES)) == set(PROMPT_ADAPTERS)

    def test_the_class_gives_the_worked_spec(self) -> None:
        derived = derive(Support(), SAMPLES[0])
        assert prove(Support(), derived, SAMPLES) == prove(Support(), parse_spec(SUPPORT), SAMPLES)
        assert [predictor.name for predictor in derived.predictors] == ["classify.predict", "reply"]

    def test_written_by_hand_it_is_the_same_program(self) -> None:
        by_hand = parse_spec({**SUPPORT, "prompt_adapter": None})
        assert canonical_json(derive(Support(), SAMPLES[0])) == canonical_json(by_hand)

    def test_a_predict_gives_the_worked_spec_to_the_letter(self) -> None:
        assert canonical_json(derive(dspy.Predict(Route), SAMPLES[0])) == canonical_json(parse_spec(ROUTER))

    def test_roles_of_lms(self) -> None:
        derived = derive(Support(), SAMPLES[0], {"classify.predict": "small"})
        assert [predictor.lm for predictor in derived.predictors] == ["small", "student"]

    def test_an_async_program(self) -> None:
        class Async(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.sort = dspy.Predict(Route)

            async def aforward(self, message: str) -> Any:
                return await self.sort.acall(message=message)

        derived = derive(Async(), SAMPLES[0])
        assert [(step.predictor, list(step.args)) for step in derived.steps or []] == [("sort", ["message"])]

    def test_a_pinned_program(self) -> None:
        program = pin(Support(), make_prompt_adapter("chat"))
        assert canonical_json(derive(program, SAMPLES[0])) == canonical_json(derive(Support(), SAMPLES[0]))

    def test_the_prompt_adapter_is_the_one_it_runs_with(self) -> None:
        assert derive(Support(), SAMPLES[0]).prompt_adapter is None
        with dspy.context(adapter=dspy.JSONAdapter()):
            assert derive(Support(), SAMPLES[0]).prompt_adapter == PromptAdapterSpec(type="json")
            assert derive(pin(Support(), make_prompt_adapter("xml")), SAMPLES[0]).prompt_adapter == PromptAdapterSpec(type="xml")
        with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
            assert derive(Support(), SAMPLES[0]).prompt_adapter == PromptAdapterSpec(native_tools=True)

    def test_the_program_itself_is_left_alone(self) -> None:
        program = Support()
        before = dict(program.reply.__dict__)
        derive(program, SAMPLES[0])
        assert program.reply.__dict__ == before


class TestRefused:
    @pytest.mark.parametrize(("forward", "uses", "reason"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
    def test_with_the_reason_and_the_ways_out(self, forward: Callable[..., Any], uses: str, reason: str) -> None:
        with pytest.raises(NotASpec) as caught:
            derive(program_of(forward, uses), SAMPLES[0])
        assert reason in str(caught.value)
        assert "Otherwise write the spec by hand, " in str(caught.value)
        assert "or send its code (ship_code=True)" in str(caught.value)

    def test_names_file_and_line(self) -> None:
        with pytest.raises(NotASpec) as caught:
            derive(program_of(branch, "sort write"), SAMPLES[0])
        line = branch.__code__.co_firstlineno + 2
        assert str(caught.value).startswith(f"test_derive.py:{line} 'if found.category")

    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            (lambda: dspy.ReAct("q -> a", tools=[len]), "ReAct cannot travel"),
            (lambda: dspy.BestOfN(dspy.Predict("q -> a"), N=2, reward_fn=lambda a, p: 1.0, threshold=1.0), "BestOfN cannot travel"),
            (lambda: dspy.Module(), "has no predictors"),
        ],
    )
    def test_modules_that_are_no_straight_line(self, program: Callable[[], dspy.Module], reason: str) -> None:
        with pytest.raises(NotASpec, match=reason):
            derive(program(), {"q": "x"})

    @pytest.mark.parametrize("adapter", [dspy.TwoStepAdapter(stand_in_lm()), type("Mine", (dspy.ChatAdapter,), {})()])
    def test_prompt_adapters_that_no_rows_can_be_rendered_for(self, adapter: dspy.Adapter) -> None:
        with dspy.context(adapter=adapter), pytest.raises(NotASpec, match=f"{type(adapter).__name__}.*use one of chat, json, xml, baml"):
            derive(Support(), SAMPLES[0])

    def test_a_predictor_that_is_never_called(self) -> None:
        with pytest.raises(NotASpec, match="predictor sort is never called"):
            derive(program_of(twice, "write sort"), SAMPLES[0])

    def test_is_not_an_exception(self) -> None:
        assert not issubclass(NotASpec, Exception)


class TestCaughtByTheProof:
    @pytest.mark.parametrize(
        ("forward", "uses"),
        [(none_check, "read write"), (type_check, "read write"), (clock, "write")],
        ids=lambda v: getattr(v, "__name__", ""),
    )
    def test_traced_but_not_proved(self, forward: Callable[..., Any], uses: str) -> None:
        program = program_of(forward, uses)
        derived = derive(program, SAMPLES[0])
        with pytest.raises(NotASpec, match="the rebuilt program does something else on sample 1"):
            prove(program, derived, SAMPLES)

    def test_wrong_wiring(self) -> None:
        spec = parse_spec({**SUPPORT, "outputs": {**SUPPORT["outputs"], "answer": {"from": "c.category"}}})
        with pytest.raises(NotASpec, match="does something else"):
            prove(Support(), spec, SAMPLES)

    def test_other_names(self) -> None:
        with pytest.raises(NotASpec, match="has the predictors"):
            prove(Support(), parse_spec(ROUTER), SAMPLES)


def test_state_of_lms_does_not_matter_to_the_proof() -> None:
    program = Support()
    program.set_lm(stand_in_lm().copy(temperature=0.9))
    prove(program, parse_spec(SUPPORT), SAMPLES)
    assert isinstance(build_program(parse_spec(SUPPORT)), dspy.Module)
