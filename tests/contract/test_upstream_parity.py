"""Training rows against stock `dspy.BootstrapFinetune`: the same bytes where it is right, the right ones where it is not.

`render: teacher` and `rows: all` ask for upstream's rows. B1 to B11 number the known defects of version 3.4.1; B3, B5, B6 and B9 are about
jobs and services, not about rows.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import dspy
import pytest

from stillhouse_programs import prompts
from stillhouse_programs.prove import ScriptedAdapter
from tests.contract.known_programs import OTHER, SAME, AsyncOnly, Overriding, Raw, Reasoner, Thinks, Two, Typed, bad_then_good, best
from tests.contract.random_programs import Chance
from tests.contract.rows_twice import PLAIN, examples, lm, ours, say, upstream, upstream_jobs
from tests.support.scripted_lm import Answer, Answerer, Ask

MANY = 200
BATCH = 20


TRAINSET = examples("easy 0", "hard 1", "easy 2")


def students(make: Callable[[], dspy.Module], **by_predictor: str) -> dspy.Module:
    student = make()
    student.set_lm(lm())
    for name, predictor in student.named_predictors():
        if name in by_predictor:
            predictor.lm = lm(by_predictor[name])
    return student


def teachers(make: Callable[[], dspy.Module], answer: Answerer = say) -> dspy.Module:
    teacher = make()
    teacher.set_lm(lm("fake/big", answer))
    return teacher


def in_order(program: dspy.Module, order: list[list[str]]) -> bool:
    """Whether the first call was always the first predictor's, the second the second's, and so on: what upstream takes for granted."""
    names = [name for name, _ in program.named_predictors()]
    return all(called == names[: len(called)] for called in order)


def answers(rows: list[str]) -> Counter[tuple[str, ...]]:
    """Which fields each row's answer has."""
    texts = [json.loads(row)[-1]["content"] for row in rows]
    return Counter(tuple(line[6:-6] for line in text.splitlines() if line.startswith("[[ ##"))[:-1] for text in texts)


class TestSame:
    @pytest.mark.parametrize(("adapter", "multitask"), [("chat", False), ("chat", True), ("xml", False)])
    @pytest.mark.parametrize("name", sorted(SAME))
    def test_where_call_order_is_predictor_order(self, name: str, adapter: str, multitask: bool) -> None:
        made = ours(students(SAME[name]), [SAME[name]()], TRAINSET, adapter=adapter, multitask=multitask)
        theirs = upstream(students(SAME[name]), [teachers(SAME[name])], TRAINSET, adapter=adapter, multitask=multitask)
        assert in_order(SAME[name](), made.order)
        assert made.rows == theirs
        assert all(made.rows.values())

    @pytest.mark.parametrize("demos", ["keep", "drop"])
    def test_with_another_instruction_and_demos_of_the_teacher(self, demos: Literal["keep", "drop"]) -> None:
        def taught() -> dspy.Module:
            program = Two()
            program.draft.signature = program.draft.signature.with_instructions("A long, optimised instruction.")
            program.answer.demos = [dspy.Example(q="demo q", draft="demo d", answer="demo a")]
            return program

        made = ours(students(Two), [taught()], TRAINSET, demos=demos)
        assert made.rows == upstream(students(Two), [teachers(taught)], TRAINSET, demos=demos)
        assert ("demo a" in "".join(made.rows["fake/small", "answer"])) == (demos == "keep")

    def test_of_several_teachers(self) -> None:
        made = ours(students(Two), [Two(), Two()], TRAINSET)
        assert made.rows == upstream(students(Two), [teachers(Two), teachers(Two)], TRAINSET)


class TestAnyProgram:
    @pytest.mark.parametrize("batch", range(MANY // BATCH))
    def test_the_same_where_upstream_is_right_and_right_where_it_is_not(self, batch: int) -> None:
        seen = Counter(self.compare(seed) for seed in range(batch * BATCH, (batch + 1) * BATCH))
        assert seen["same"] >= BATCH // 5
        assert seen["upstream wrong"] >= BATCH // 5

    def compare(self, seed: int) -> str:
        trainset, adapter, with_demos = examples("one", "four"), ("chat", "xml")[seed % 2], seed % 3 > 0
        teacher = Chance(seed, "teacher")
        options: dict[str, Any] = {"adapter": adapter, "demos": "keep" if with_demos else "drop"}
        made = ours(students(lambda: Chance(seed, "student")), [teacher], trainset, **options)
        theirs = upstream(students(lambda: Chance(seed, "student")), [teachers(lambda: Chance(seed, "teacher"))], trainset, **options)
        truth = teacher.truth.rows(PLAIN[adapter](), with_demos)
        assert made.rows == {key: truth.get(key[1], []) for key in made.rows}, f"seed {seed}: ours are not what was done"
        ordered = in_order(teacher, made.order)
        assert (theirs == made.rows) == ordered, f"seed {seed}: upstream's rows"
        return "same" if ordered else "upstream wrong"


class TestB1:
    """A predictor's number is not its place in the trace."""

    @pytest.mark.parametrize("name", sorted(OTHER))
    def test_upstream_takes_rows_of_other_predictors(self, name: str) -> None:
        make, answer = OTHER[name]
        student = students(make)
        signatures = {predictor: tuple(each.signature.output_fields) for predictor, each in student.named_predictors()}
        made = ours(student, [make()], TRAINSET[:2], answer=answer)
        theirs = upstream(students(make), [teachers(make, answer)], TRAINSET[:2])
        assert not in_order(student, made.order) or name == "raw threads"
        for (_, predictor), rows in made.rows.items():
            assert set(answers(rows)) == {signatures[predictor]}
            assert len(rows) == sum(called.count(predictor) for called in made.order)
        assert any(set(answers(rows)) != {signatures[predictor]} for (_, predictor), rows in theirs.items())


class TestB2:
    """One bad example ends upstream's run, and what should not pass does."""

    def fails_at_one(self, ask: Ask) -> Answer:
        return "no field here" if "hard" in ask.text else say(ask)

    def test_an_answer_that_cannot_be_read(self) -> None:
        make = SAME["predict"]
        with pytest.raises(AttributeError, match="FailedPrediction"):
            upstream(students(make), [teachers(make, self.fails_at_one)], TRAINSET)
        made = ours(students(make), [make()], TRAINSET, answer=self.fails_at_one)
        assert len(made.rows["fake/small", "self"]) == 2
        assert [trace["status"] for trace in made.traces] == ["ok", "unparsable", "ok"]

    def test_a_metric_that_raises(self) -> None:
        def metric(example: dspy.Example, made: Any, trace: Any = None) -> bool:
            if "hard" in example.q:
                raise KeyError("of the metric")
            return True

        with pytest.raises(ValueError, match="not enough values to unpack"):
            upstream(students(Two), [teachers(Two)], TRAINSET, metric=metric)
        made = ours(students(Two), [Two()], TRAINSET, metric=metric)
        assert len(made.rows["fake/small", "answer"]) == 2
        assert [score["status"] for score in made.scores] == ["ok", "failed", "ok"]

    @pytest.mark.parametrize("value", [0.01, -1.0, dspy.Prediction(score=0.0)])
    def test_a_score_under_the_bar(self, value: Any) -> None:
        make = SAME["predict"]
        theirs = upstream(students(make), [teachers(make)], TRAINSET, metric=lambda *_: value)
        assert len(theirs["fake/small", "self"]) == 3
        assert ours(students(make), [make()], TRAINSET, metric=lambda *_: value).rows == {("fake/small", "self"): []}

    def test_equal_rows(self) -> None:
        make, twice = SAME["predict"], [*TRAINSET, *TRAINSET]
        assert len(upstream(students(make), [teachers(make)], twice)["fake/small", "self"]) == 6
        assert len(ours(students(make), [make()], twice, dedup=True).rows["fake/small", "self"]) == 3


class TestB4:
    """With several LMs, upstream trains each on the rows of all predictors."""

    def test_rows_all_and_rows_own(self) -> None:
        theirs = upstream(students(Two, draft="fake/a", answer="fake/b"), [teachers(Two)], TRAINSET, multitask=True)
        made = {rows: ours(students(Two, draft="fake/a", answer="fake/b"), [Two()], TRAINSET, multitask=True, rows=rows).rows
                for rows in ("all", "own")}  # fmt: skip
        assert made["all"] == theirs
        assert [set(answers(rows)) for rows in theirs.values()] == [{("draft",), ("answer",)}] * 2
        assert {lm: set(answers(rows)) for (lm, _), rows in made["own"].items()} == {"fake/a": {("draft",)}, "fake/b": {("answer",)}}


class TestB7:
    """Upstream tells LMs apart by identity: two equal ones are trained twice, on the same rows."""

    def test_equal_lms_are_one_key(self) -> None:
        def loaded() -> dspy.Module:
            return students(Two, draft="fake/small", answer="fake/small")

        one, two = upstream_jobs(loaded(), [teachers(Two)], TRAINSET, multitask=True)
        assert one == two
        assert ours(loaded(), [Two()], TRAINSET, multitask=True).rows == {("fake/small", ""): one[2]}


class TestB8:
    """Upstream's trainer puts loss on every assistant turn: a demo's too."""

    def test_the_loss_is_on_one_turn(self) -> None:
        def taught() -> dspy.Module:
            program = dspy.Predict("q -> answer")
            program.demos = [dspy.Example(q="demo q", answer="demo a")]
            return program

        row = json.loads(upstream(students(taught), [teachers(taught)], TRAINSET[:1])["fake/small", "self"][0])
        assert [message["role"] for message in row].count("assistant") == 2
        made = ours(students(taught), [taught()], TRAINSET[:1])
        assert [len(row.completion) for row in made.rendered] == [1]
        assert made.rendered[0].prompt[2]["content"].startswith("[[ ## answer ## ]]\ndemo a")


class TestB10:
    """Upstream trains on prompts that the student is never asked with, and on answers that cannot be read back."""

    def taught(self) -> dspy.Module:
        program = dspy.Predict(dspy.Signature("q -> why, answer", "A long, optimised instruction."))
        program.demos = [dspy.Example(q="half", answer="only")]
        return program

    def plain(self) -> dspy.Module:
        return dspy.Predict("q -> why, answer")

    def test_the_prompt_of_a_row_is_the_students(self) -> None:
        student = students(self.plain)
        scripted = ScriptedAdapter(prompts.make_prompt_adapter("chat"), 0)
        with dspy.context(adapter=scripted):
            student(q="easy 0")
        asked = json.loads(scripted.sent[0])[0]
        theirs = upstream(students(self.plain), [teachers(self.taught)], TRAINSET[:1])
        assert json.loads(theirs["fake/small", "self"][0])[:-1] != asked
        made = ours(student, [self.taught()], TRAINSET[:1], render_as="student")
        assert made.rendered[0].prompt == asked

    def test_an_incomplete_demo_never_becomes_an_answer(self) -> None:
        theirs = upstream(students(self.plain), [teachers(self.taught)], TRAINSET[:1])
        assert "Not supplied for this particular example." in theirs["fake/small", "self"][0]
        kept = ours(students(self.plain), [self.taught()], TRAINSET[:1])
        assert kept.rejected == {"incomplete_demo": 1}
        left_out = ours(students(self.plain), [self.taught()], TRAINSET[:1], demos="auto")
        assert "Not supplied" not in left_out.rows["fake/small", "self"][0]

    def test_an_answer_that_is_read_back_as_another(self) -> None:
        make, padded = SAME["predict"], {"answer": "  padded"}
        options: dict[str, Any] = {"teacher_adapter": "json"}
        theirs = upstream(students(make), [teachers(make, lambda ask: padded)], TRAINSET[:1], **options)
        assert prompts.parse(PLAIN["chat"](), make().signature, json.loads(theirs["fake/small", "self"][0])[-1]["content"]) != padded
        made = ours(students(make), [make()], TRAINSET[:1], answer=lambda ask: padded, **options)
        assert made.rejected == {"not_round_trip": 1}

    def test_a_call_with_another_signature(self) -> None:
        theirs = upstream(students(Overriding), [teachers(Overriding)], TRAINSET[:1])
        assert "Another task." not in theirs["fake/small", "p"][0]
        made = ours(students(Overriding), [Overriding()], TRAINSET[:1])
        assert made.rejected == {"override": 1}

    def test_native_reasoning_stands_beside_the_text_as_it_will_be_asked_for(self) -> None:
        def student() -> dspy.Module:
            program = dspy.Predict(Thinks)
            program.lm = lm(kind=Reasoner)
            return program

        asked: list[str] = []

        def answer(ask: Ask) -> Answer:
            asked.append(str(ask.messages[0]["content"]))
            return say(ask)

        running = student()
        running.lm = lm(kind=Reasoner, answer=answer)
        running(q="easy 0")
        theirs = upstream(student(), [teachers(lambda: dspy.Predict(Thinks))], TRAINSET[:1])
        assert json.loads(theirs["fake/small", "self"][0])[0]["content"] != asked[0]
        (row,) = ours(student(), [dspy.Predict(Thinks)], TRAINSET[:1]).rendered
        assert row.prompt[0]["content"] == asked[0]
        assert row.completion[0]["reasoning_content"].startswith("reasoning ")
        assert "reasoning" not in row.completion[0]["content"]

    @pytest.mark.parametrize("adapter", ["json", "baml"])
    def test_prompt_adapters_that_upstream_has_no_rows_for(self, adapter: str) -> None:
        make = SAME["typed"]
        with pytest.raises(NotImplementedError):
            dspy.JSONAdapter().format_finetune_data(Typed, [], {"q": "x"}, {"l_parts": ["a"], "c_tone": "yes"})
        made = ours(students(make), [make()], TRAINSET, adapter=adapter)
        assert [json.loads(row.completion[0]["content"]).keys() for row in made.rendered] == [{"l_parts", "c_tone"}] * 3


class TestB11:
    """What upstream cannot run, does not see, or leaves behind."""

    def test_async_only_programs(self) -> None:
        with pytest.raises(AttributeError, match="forward"):
            upstream(students(AsyncOnly), [teachers(AsyncOnly)], TRAINSET)
        assert len(ours(students(AsyncOnly), [AsyncOnly()], TRAINSET).rows["fake/small", "a"]) == 3

    def test_calls_in_threads_of_the_program(self) -> None:
        theirs = upstream(students(Raw), [teachers(Raw)], TRAINSET, multitask=True)
        assert set(answers(theirs["fake/small", ""])) == {("b",)}
        made = ours(students(Raw), [Raw()], TRAINSET, multitask=True)
        assert answers(made.rows["fake/small", ""]) == {("a",): 3, ("b",): 3}

    def test_forward_is_left_as_it_was(self) -> None:
        theirs, mine = teachers(Two), Two()
        upstream(students(Two), [theirs], TRAINSET[:1])
        ours(students(Two), [mine], TRAINSET[:1])
        assert "forward" in vars(theirs)
        assert "forward" not in vars(mine)

    def test_attempts_that_the_program_threw_away_are_no_rows_of_either(self) -> None:
        made = ours(students(best), [best()], TRAINSET[:2], answer=bad_then_good())
        theirs = upstream(students(best), [teachers(best, bad_then_good())], TRAINSET[:2])
        assert made.rows == theirs
        assert made.rejected == {"discarded": 2}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """dspy warns of the very things that are looked at here."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
