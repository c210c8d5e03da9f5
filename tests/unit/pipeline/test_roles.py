from typing import Any

from distill.pipeline.roles import (
    Cast,
    baseline_cast,
    compiled_cast,
    compiled_program,
    rendering_cast,
    same_prompts,
    teacher_cast,
    teacher_rendering_cast,
)
from distill.spec import CompileSpec, Rollouts, program_digest, read_spec
from stillhouse_programs.spec import parse_spec


def predictor(name: str, lm: str) -> dict[str, Any]:
    fields = [{"name": "message", "role": "input"}, {"name": "answer", "role": "output"}]
    demos = [{"message": "m", "answer": "a"}]
    return {"name": name, "lm": lm, "signature": {"instructions": "Answer.", "fields": fields}, "demos": demos}


STUDENT = parse_spec(
    {
        "predictors": [predictor("first", "small"), predictor("second", "big")],
        "steps": [
            {"id": "a", "predictor": "first", "args": {"message": {"from": "input.message"}}},
            {"id": "b", "predictor": "second", "args": {"message": {"from": "a.answer"}}},
        ],
        "outputs": {"answer": {"from": "b.answer"}},
    }
)
INSTRUCTED = STUDENT.model_copy(
    update={
        "predictors": [
            p.model_copy(update={"signature": p.signature.model_copy(update={"instructions": "Be exact."})}) for p in STUDENT.predictors
        ]
    }
)
LMS = {
    "small": {"connection_id": "conn-1", "model": "smol", "temperature": 0.0, "constrain": True},
    "big": {"connection_id": "conn-1", "model": "smol", "temperature": 0.0, "constrain": True},
}
TEACHER = {"small": {"connection_id": "conn-2", "model": "gpt"}, "big": {"connection_id": "conn-2", "model": "gpt-big"}}


def spec(**more: Any) -> CompileSpec:
    return read_spec({"program_id": "prog-1", "trainset": "ds-1", "lms": LMS, "teacher": ({"lms": TEACHER},), **more})


def digest(cast: Cast, n: int = 0) -> str:
    return cast.trace_digest("v1:i", n, "v1:h")


def asked(cast: Cast) -> list[str]:
    """The slot that each predictor's calls go to."""
    body = cast.runner_body()
    return [body["lms"][predictor["lm"]]["slot"] for predictor in body["program"]["predictors"]]


class TestSlots:
    def test_equal_lms_share_a_slot_whatever_their_names(self) -> None:
        cast = baseline_cast(spec(), STUDENT, constrained=False)
        assert list(cast.slots) == ["slot0"]
        assert list(cast.runner_body()["lms"]) == ["lm0"]
        assert asked(cast) == ["slot0", "slot0"]

    def test_two_fine_tuned_models_of_one_lm_have_two_slots(self) -> None:
        cast = compiled_cast(spec(), STUDENT, {"first": "sh-1", "second": "sh-2"})
        assert {slot: lm.model for slot, lm in cast.slots.items()} == {"slot0": "sh-1", "slot1": "sh-2"}
        assert asked(cast) == ["slot0", "slot1"]

    def test_one_model_with_two_options_has_one_slot(self) -> None:
        warm = {**LMS, "big": {**LMS["big"], "temperature": 0.7}}
        cast = baseline_cast(spec(lms=warm), STUDENT, constrained=False)
        assert len(cast.runner_body()["lms"]) == 2
        assert asked(cast) == ["slot0", "slot0"]
        assert asked(cast.for_rollout(1, Rollouts(n=2, temperature=1.0))) == ["slot0", "slot0"]

    def test_what_the_runner_gets_names_no_connection(self) -> None:
        assert "conn-2" not in str(teacher_cast(0, spec(), STUDENT).runner_body())


class TestCompactPrompts:
    def of(self, **more: Any) -> CompileSpec:
        return spec(prompt_adapter={"type": "json"}, lms={name: {**lm, "prompt": "compact", **more} for name, lm in LMS.items()})

    def test_rows_and_the_compiled_program_have_them_and_tools_stay_beside_the_text(self) -> None:
        casts = [rendering_cast(self.of(), STUDENT), compiled_cast(self.of(), STUDENT, {"first": "sh-1", "second": "sh-2"})]
        assert [cast.prompt_adapter.model_dump(mode="json") for cast in casts] == [{"type": "compact", "native_tools": True}] * 2

    def test_the_baseline_has_them_only_where_its_models_were_tuned_before(self) -> None:
        kinds = [baseline_cast(made, STUDENT, constrained=False).prompt_adapter.type for made in (self.of(), self.of(model="sh-1"))]
        assert kinds == ["json", "compact"]

    def test_the_teacher_has_its_own(self) -> None:
        assert teacher_cast(0, self.of(), STUDENT).prompt_adapter.type == "json"


class TestTraceDigest:
    def test_names_of_lms_are_no_part_of_it(self) -> None:
        renamed = STUDENT.model_copy(update={"predictors": [p.model_copy(update={"lm": "small"}) for p in STUDENT.predictors]})
        same = Cast("baseline", STUDENT, baseline_cast(spec(), STUDENT, constrained=False).prompt_adapter, {})
        assert same.program_digest != Cast("baseline", renamed, same.prompt_adapter, {}).program_digest
        assert baseline_cast(spec(), STUDENT, constrained=False).lms_digest == baseline_cast(spec(), renamed, constrained=False).lms_digest

    def test_constrain_the_model_and_the_rollout_are(self) -> None:
        plain, held = (baseline_cast(spec(), STUDENT, constrained=value) for value in (False, True))
        tuned = compiled_cast(spec(), STUDENT, {"first": "sh-1", "second": "sh-2"})
        assert len({digest(plain), digest(held), digest(tuned), digest(plain, 1)}) == 4


class TestForRollout:
    def test_only_samples_after_the_first_take_the_rollouts_temperature(self) -> None:
        cast = teacher_cast(0, spec(), STUDENT)
        rollouts = Rollouts(n=4, temperature=1.0)
        assert cast.for_rollout(0, rollouts) is cast
        assert {lm.temperature for lm in cast.for_rollout(1, rollouts).lms.values()} == {1.0}
        assert cast.for_rollout(1, Rollouts(n=4)) is cast


class TestDemos:
    def test_dropped_from_the_compiled_program_alone(self) -> None:
        dropping = spec(demos="drop")
        compiled = compiled_cast(dropping, STUDENT, {"first": "a", "second": "b"})
        assert [p.demos for p in compiled.program.predictors] == [[], []]
        assert baseline_cast(dropping, STUDENT, constrained=False).program is STUDENT

    def test_auto_leaves_out_those_that_lack_a_field(self) -> None:
        demos = [{"message": "m", "answer": "a"}, {"message": "only this"}]
        student = STUDENT.model_copy(update={"predictors": [p.model_copy(update={"demos": demos}) for p in STUDENT.predictors]})
        assert compiled_program(spec(demos="auto"), student).predictors[0].demos == demos[:1]
        assert compiled_program(spec(demos="keep"), student).predictors[0].demos == demos

    def test_complete_demos_leave_the_program_as_it_was(self) -> None:
        assert compiled_cast(spec(), STUDENT, {"first": "a", "second": "b"}).program_digest == program_digest(STUDENT)


class TestRenderingAsTheTeacher:
    def taught(self, **more: Any) -> Cast:
        return teacher_rendering_cast(0, spec(render="teacher", **more), STUDENT, INSTRUCTED)

    def test_has_the_teachers_program_on_the_students_lms(self) -> None:
        cast = self.taught()
        assert cast.program == INSTRUCTED
        assert cast.lms == rendering_cast(spec(), STUDENT).lms

    def test_demos_are_the_teachers_unless_they_are_dropped(self) -> None:
        assert self.taught().program.predictors[0].demos
        assert not self.taught(demos="drop").program.predictors[0].demos

    def test_has_the_teachers_prompt_adapter(self) -> None:
        asked = {name: {**lm, "prompt_adapter": {"type": "xml"}} for name, lm in TEACHER.items()}
        assert self.taught(teacher=({"lms": asked},)).prompt_adapter.type == "xml"

    def test_other_instructions_or_another_prompt_adapter_are_other_prompts(self) -> None:
        student = rendering_cast(spec(), STUDENT)
        assert not same_prompts(student, self.taught())
        assert same_prompts(student, teacher_rendering_cast(0, spec(), STUDENT, STUDENT))
        assert not same_prompts(student, rendering_cast(spec(prompt_adapter={"type": "json"}), STUDENT))

    def test_options_of_the_prompt_adapter_tell_prompts_apart(self) -> None:
        chosen: list[dict[str, Any]] = [{}, {"reasoning": False}, {"instructions": False}, {"native_tools": True}]
        casts = [rendering_cast(spec(prompt_adapter={"type": "compact", **options}), STUDENT) for options in chosen]
        assert len({cast.prompts for cast in casts}) == len(chosen)


class TestSeed:
    """What decides a rollout's samples."""

    def cast(self, **changes: Any) -> Cast:
        lms = {name: {**lm, **changes} for name, lm in TEACHER.items()}
        return teacher_cast(0, spec(teacher=({"lms": lms},)), STUDENT)

    def test_is_the_same_on_every_server(self) -> None:
        here, there = self.cast(), self.cast(connection_id="conn-9", connection_revision=3)
        assert here.seed("v1:i", 1) == there.seed("v1:i", 1)
        assert digest(here) != digest(there), "and yet the traces are not taken for each other's"

    def test_is_another_for_whatever_is_asked(self) -> None:
        casts = [self.cast(), self.cast(temperature=0.5), self.cast(model="other"), self.cast(constrain=True)]
        seeds = [cast.seed("v1:i", 0) for cast in casts] + [casts[0].seed("v1:j", 0), *(casts[0].seed("v1:i", n) for n in range(1, 8))]
        assert len(set(seeds)) == len(seeds)
        assert all(0 <= seed < 2**31 for seed in seeds)
