"""The submit check: what is filled in, and each refusal with its code and param. A refusal stores nothing."""

import json
from typing import Any

import pytest
from sqlalchemy import func, select

from distill.catalog import connections, datasets, programs, projects
from distill.db import unit_of_work
from distill.errors import Detail, Invalid, StillhouseError
from distill.jobs import repository
from distill.jobs.models import Job
from distill.settings import ConnectionSettings
from distill.spec import CompileSpec
from tests.integration.core.world import PROGRAM, World, execute, items, job, settings

TWO: dict[str, Any] = {
    "spec_version": 1,
    "predictors": [
        {"name": name, "lm": "student", "signature": {"fields": [{"name": source, "role": "input"}, {"name": target, "role": "output"}]}}
        for name, source, target in (("classify", "message", "category"), ("reply", "category", "answer"))
    ],
    "steps": [
        {"id": "c", "predictor": "classify", "args": {"message": {"from": "input.message"}}},
        {"id": "r", "predictor": "reply", "args": {"category": {"from": "c.category"}}},
    ],
    "outputs": {"category": {"from": "c.category"}, "answer": {"from": "r.answer"}},
}


def spec_of(job_id: str) -> CompileSpec:
    return repository.spec_of(job(job_id))


class TestSubmit:
    def test_smallest_request_is_filled_in(self, world: World) -> None:
        spec = spec_of(world.submit())
        student = spec.lms["student"]
        assert (student.connection, student.model, student.base_model, student.trainer) == (
            "house",
            "smollm2-135m-instruct",
            "smollm2-135m-instruct",
            "local",
        )
        assert student.prompt_adapter == spec.prompt_adapter is not None
        assert student.train_options == spec.train_options
        teacher = spec.teachers[0]
        assert (teacher.program_id, teacher.lms["student"].connection, teacher.lms["student"].model) == (
            world.program_id,
            "teachers",
            "big",
        )
        assert teacher.lms["student"].connection_id.startswith("conn-")

    def test_row_item_event_and_hint_are_written_together(self, world: World) -> None:
        job_id = world.submit(name="weekly", program_name="router", metadata={"a": "b"}, num_threads=3, budget={"max_calls": 9})
        row = job(job_id)
        assert (row.status, row.step, row.name, row.program_name, row.num_threads, row.max_calls) == (
            "queued",
            "validate",
            "weekly",
            "router",
            3,
            9,
        )
        assert row.user_metadata == {"a": "b"}
        assert [(item.step, item.queue, item.status) for item in items(job_id)] == [("validate", "rollouts", "queued")]

    def test_same_work_has_the_same_digest(self, world: World) -> None:
        first, second = job(world.submit(name="a")), job(world.submit(name="b", metadata={"x": "y"}, num_threads=2))
        assert first.spec_digest == second.spec_digest
        assert job(world.submit(seed=1)).spec_digest != first.spec_digest

    def test_dataset_versions_are_pinned(self, world: World) -> None:
        with unit_of_work() as s:
            old = datasets.create(s, world.store, world.project_id, [{"message": "a", "category": "billing"}], name="train").id
        job_id = world.submit(trainset="train@latest")
        with unit_of_work() as s:
            datasets.create(s, world.store, world.project_id, [{"message": "b", "category": "billing"}], name="train")
        assert job(job_id).trainset_id == old
        assert job(world.submit(trainset="train@v1")).trainset_id == old
        assert job(world.submit(trainset="train@latest")).trainset_id != old

    def test_one_teacher_lm_serves_all_its_roles(self, world: World) -> None:
        roles = [{**predictor, "lm": name} for predictor, name in zip(TWO["predictors"], ("small", "large"), strict=True)]
        with unit_of_work() as s:
            program = world.program(s, {**TWO, "predictors": roles})
        lm = {"connection": "teachers", "model": "big", "temperature": 0.7}
        spec = spec_of(world.submit(program_id=program, teacher=[{"lms": {"small": lm}}]))
        assert {name: entry.temperature for name, entry in spec.teachers[0].lms.items()} == {"small": 0.7, "large": 0.7}

    def test_several_samples_get_a_temperature(self, world: World) -> None:
        assert spec_of(world.submit(rollouts={"n": 4})).rollouts.temperature == 1.0

    def test_with_nobody_else_to_teach_the_students_own_lm_does(self, world: World) -> None:
        execute("UPDATE connections SET default_teacher = false")
        job_id = world.submit(lms={"student": {"temperature": 0.5, "train_options": {"n_epochs": 2}}})
        spec = spec_of(job_id)
        (teacher,) = spec.teachers
        lm, own = teacher.lms["student"], spec.lms["student"]
        assert (lm.connection, lm.model, lm.options()) == ("house", own.model, {"temperature": 0.5})
        assert (lm.base_model, lm.trainer, lm.train_options) == ("", "", None), "it is only asked"


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "code", "param"),
        [
            ({"program_id": "prog-nothere"}, "program_not_found", "program"),
            ({"trainset": "ds-nothere"}, "dataset_not_found", "trainset"),
            ({"valset": "gold@latest"}, "dataset_not_found", "valset"),
            ({"teacher": "labels", "rollouts": {"n": 2}}, "labels_sampled", "rollouts.n"),
            ({"teacher": "labels", "render": "teacher"}, "labels_have_no_prompts", "render"),
            ({"render": "somebody"}, "invalid_value", "render"),
            ({"rows": "some"}, "invalid_value", "rows"),
            ({"valset": "SAME", "holdout": {"n": 3}}, "valset_and_holdout", "holdout"),
            ({"holdout": {"n": 3, "fraction": 0.1}}, "invalid_value", "holdout"),
            ({"evaluate": {"roles": ["teacher", "teacher"]}}, "duplicate_role", "evaluate.roles"),
            ({"lms": {"student": {"connection": "hous"}}}, "connection_not_found", "lms.student.connection"),
            ({"lms": {"student": {"model": "smollm"}}}, "unknown_model", "lms.student.model"),
            ({"lms": {"studnet": {}}}, "unknown_lm", "lms.studnet"),
            ({"lms": {"student": {"connection": "teachers"}}}, "not_trainable", "lms.student.connection"),
            ({"lms": {"student": {"trainer": "cloud"}}}, "unknown_trainer", "lms.student.trainer"),
            ({"teacher": [{"lms": {"student": {"constrain": True}}}]}, "constrain_unsupported", "teacher[0].lms.student.constrain"),
            ({"lms": {"student": {"native": ["tools"]}}}, "native_unsupported", "lms.student.native"),
            ({"teacher": [{"lms": {"other": {}}}]}, "unknown_lm", "teacher[0].lms.other"),
            ({"metric": {"type": "exact_match", "fields": ["team"]}}, "invalid_metric", "metric.fields[0]"),
            ({"filter": {"group_by": "talk"}}, "unknown_field", "filter.group_by"),
            ({"metric": "exact"}, "invalid_value", "metric.type"),
            ({"rollouts": {"n": 2, "temperature": 0.0}}, "samples_all_equal", "rollouts.temperature"),
            ({"train_options": {"epochs": 3}}, "unknown_option", "train_options.epochs"),
            ({"train_options": {"learning_rate": -1}}, "invalid_value", "train_options.learning_rate"),
            ({"num_threads": 0}, "invalid_value", "num_threads"),
            ({"suffix": "Not Good"}, "invalid_value", "suffix"),
        ],
    )
    def test_refusal(self, world: World, changes: dict[str, Any], code: str, param: str) -> None:
        if changes.get("valset") == "SAME":
            changes = {**changes, "valset": world.dataset_id}
        assert_refused(world, changes, code, param)

    def test_unknown_words_come_with_the_nearest_known_one(self, world: World) -> None:
        assert 'did you mean "n_epochs"' in assert_refused(
            world, {"train_options": {"epochs": 3}}, "unknown_option", "train_options.epochs"
        )
        assert 'did you mean "house"' in assert_refused(
            world, {"lms": {"student": {"connection": "hous"}}}, "connection_not_found", "lms.student.connection"
        )

    def test_demos_to_keep_have_all_fields(self, world: World) -> None:
        short, whole = {"message": "a"}, {"message": "a", "category": "billing"}
        changed = [{**TWO["predictors"][0], "demos": [whole, short]}, TWO["predictors"][1]]
        with unit_of_work() as s:
            program = world.program(s, {**TWO, "predictors": changed})
        message = assert_refused(world, {"program_id": program, "demos": "keep"}, "incomplete_demo", "demos")
        assert "program.predictors[0].demos[1]" in message
        assert "predictor classify has an incomplete demo" in message
        assert world.submit(program_id=program, demos="auto")

    def test_demos_of_a_chain_of_thought_have_its_reasoning(self, world: World) -> None:
        demo = {"message": "a", "category": "billing"}
        thinking = {**TWO["predictors"][0], "type": "ChainOfThought", "demos": [demo]}
        with unit_of_work() as s:
            short = world.program(s, {**TWO, "predictors": [thinking, TWO["predictors"][1]]})
            whole = world.program(s, {**TWO, "predictors": [{**thinking, "demos": [{**demo, "reasoning": "r"}]}, TWO["predictors"][1]]})
        assert_refused(world, {"program_id": short, "demos": "keep"}, "incomplete_demo", "demos")
        assert world.submit(program_id=whole, demos="keep")

    def test_empty_trainset(self, world: World) -> None:
        assert_refused(world, {"trainset": world.dataset([])}, "empty_dataset", "trainset")

    def test_rows_that_lack_an_input_are_named(self, world: World) -> None:
        rows = [{"message": "a", "category": "billing"}, {"category": "billing"}, {"message": "c", "category": "billing"}]
        message = assert_refused(world, {"trainset": world.dataset(rows)}, "invalid_rows", "trainset[1].message")
        assert "1 of 3 rows lack the input `message`; the first is row 2" in message

    def test_rows_with_another_name_for_the_input(self, world: World) -> None:
        message = assert_refused(
            world, {"trainset": world.dataset([{"mesage": "a", "category": "b"}])}, "invalid_rows", "trainset[0].message"
        )
        assert 'did you mean "mesage"' in message

    def test_rows_without_labels(self, world: World) -> None:
        assert_refused(world, {"trainset": world.dataset([{"message": "a"}])}, "missing_labels", "trainset")

    def test_values_that_do_not_fit_are_named_from_the_summary(self, world: World) -> None:
        rows: list[dict[str, Any]] = [
            {"message": "a", "category": "billing"},
            {"message": 7, "category": "Billing"},
            {"message": 8, "category": "billing"},
        ]
        with pytest.raises(Invalid) as refusal:
            world.submit(trainset=world.dataset(rows))
        assert (refusal.value.code, refusal.value.param) == ("invalid_rows", "trainset[1].category")
        assert [(each.row, each.field) for each in refusal.value.details] == [(2, "category"), (2, "message"), (3, "message")]
        assert "`message`: expected text (row 2)" in [each.message for each in refusal.value.details]

    def test_a_csv_is_checked_as_its_cells_will_be_read(self, world: World) -> None:
        number = {**PROGRAM["predictors"][0]["signature"]["fields"][0], "schema": {"type": "integer"}}
        signature = {**PROGRAM["predictors"][0]["signature"], "fields": [number, PROGRAM["predictors"][0]["signature"]["fields"][1]]}
        with unit_of_work() as s:
            program = world.program(s, {**PROGRAM, "predictors": [{**PROGRAM["predictors"][0], "signature": signature}]})
        bad = world.table("message,category\n" + "".join(f"{n},billing\n" for n in range(40)) + "x,billing\ny,billing\n")
        message = assert_refused(world, {"program_id": program, "trainset": bad}, "invalid_rows", "trainset[40].message")
        assert message == "trainset: `message`: expected a whole number (2 rows, the first is row 41)"
        assert world.submit(program_id=program, trainset=world.table("message,category\n1,billing\n02,billing\n"))

    def test_images_are_refused_before_the_teacher_is_paid(self, world: World) -> None:
        signature = PROGRAM["predictors"][0]["signature"]
        fields = [*signature["fields"], {"name": "scan", "role": "input", "schema": {"type": "array", "items": {"x-dspy-type": "Image"}}}]
        with unit_of_work() as s:
            program = world.program(s, {**PROGRAM, "predictors": [{**PROGRAM["predictors"][0], "signature": {"fields": fields}}]})
        message = assert_refused(world, {"program_id": program}, "images_not_trainable", "program.predictors[0].signature.fields[2]")
        assert "predictor self is shown an image (`scan`)" in message

    def test_labels_that_teach_are_in_the_rows(self, world: World) -> None:
        with unit_of_work() as s:
            program = world.program(s, TWO)
        rows = [{"message": "a", "answer": "b"}]
        message = assert_refused(
            world, {"program_id": program, "teacher": "labels", "trainset": world.dataset(rows)}, "missing_labels", "trainset"
        )
        assert message.endswith("they lack `category`")
        assert world.submit(program_id=program, teacher="labels", trainset=world.dataset([{**rows[0], "category": "c"}]))

    def test_teacher_with_other_predictors(self, world: World) -> None:
        with unit_of_work() as s:
            other = world.program(s, TWO)
        message = assert_refused(world, {"teacher": [{"program_id": other}]}, "predictors_differ", "teacher[0].program")
        assert message.splitlines()[1:] == ["  student  teacher", "! self     -", "! -        classify", "! -        reply"]

    def test_names_that_differ_stand_side_by_side(self, world: World) -> None:
        renamed = json.loads(json.dumps(TWO).replace("classify", "classifier"))
        with unit_of_work() as s:
            student, teacher = world.program(s, TWO), world.program(s, renamed)
        with pytest.raises(Invalid) as refusal:
            world.submit(program_id=student, teacher=[{"program_id": teacher}])
        assert refusal.value.message.splitlines()[1:] == ["  student   teacher", "! classify  classifier", "  reply     reply"]
        assert refusal.value.details == (Detail("the teacher has `classifier`", None, "classify"),)

    def test_teacher_with_other_inputs(self, world: World) -> None:
        predictor = PROGRAM["predictors"][0]
        fields = [*predictor["signature"]["fields"], {"name": "customer", "role": "input"}]
        wider = {**PROGRAM, "predictors": [{**predictor, "signature": {**predictor["signature"], "fields": fields}}]}
        with unit_of_work() as s:
            other = world.program(s, wider)
        message = assert_refused(world, {"teacher": [{"program_id": other}]}, "inputs_differ", "teacher[0].program")
        assert message.splitlines()[1:] == ["  student  teacher", "  message  message", "! -        customer"]

    def test_another_projects_program(self, world: World) -> None:
        with unit_of_work() as s:
            stranger = projects.create(s, "stranger").id
            foreign = programs.ensure(s, stranger, None, programs.read_program(PROGRAM)).id
        assert_refused(world, {"program_id": foreign}, "program_not_found", "program")

    def test_no_default_teacher(self, world: World) -> None:
        execute("UPDATE connections SET default_teacher = false")
        changes = {"teacher": [{"lms": {"student": {"temperature": 1.0}}}]}
        assert_refused(world, changes, "no_default_connection", "teacher[0].lms.student")

    def test_disabled_connection(self, world: World) -> None:
        with unit_of_work() as s:
            connections.sync(s, settings(connections={}))
        assert_refused(
            world,
            {"teacher": [{"lms": {"student": {"connection": "teachers"}}}]},
            "connection_not_found",
            "teacher[0].lms.student.connection",
        )

    def test_constrained_baseline_needs_structured_outputs(self, world: World) -> None:
        plain = ConnectionSettings(base_url="http://plain.test", models=["m"], supports=["lora"], trainer="local", default_student=True)
        with unit_of_work() as s:
            connections.sync(s, settings(connections={"plain": plain}))
        changes = {"lms": {"student": {"connection": "plain"}}, "evaluate": {"roles": ["baseline_constrained"]}}
        assert_refused(world, changes, "constrain_unsupported", "evaluate.roles")

    def test_model_must_be_named_where_any_is_taken(self, world: World) -> None:
        anything = ConnectionSettings(base_url="http://any.test", models="*")
        with unit_of_work() as s:
            connections.sync(s, settings(connections={"any": anything}))
        assert_refused(world, {"teacher": [{"lms": {"student": {"connection": "any"}}}]}, "missing_model", "teacher[0].lms.student.model")


def assert_refused(world: World, changes: dict[str, Any], code: str, param: str) -> str:
    """The message of the refusal."""
    with pytest.raises(StillhouseError) as refusal:
        world.submit(**changes)
    assert (refusal.value.code, refusal.value.param) == (code, param)
    with unit_of_work() as s:
        assert s.scalar(select(func.count()).select_from(Job)) == 0
    return refusal.value.message
