from typing import Any

from distill.pipeline.leaks import demos_by_inputs, warning_of_demos, warning_of_locked
from distill.pipeline.plan import row_inputs
from stillhouse_programs.spec import ProgramSpec, parse_spec


def predictor(name: str, *fields: str, demos: list[dict[str, Any]]) -> dict[str, Any]:
    *inputs, output = fields
    listed = [*({"name": each, "role": "input"} for each in inputs), {"name": output, "role": "output"}]
    return {"name": name, "lm": "s", "signature": {"instructions": "Do.", "fields": listed}, "demos": demos}


def pipeline(classify: list[dict[str, Any]], reply: list[dict[str, Any]]) -> ProgramSpec:
    """`reply` calls the message `text`."""
    return parse_spec(
        {
            "predictors": [
                predictor("classify", "message", "team", demos=classify),
                predictor("reply", "text", "team", "answer", demos=reply),
            ],
            "steps": [
                {"id": "c", "predictor": "classify", "args": {"message": {"from": "input.message"}}},
                {"id": "r", "predictor": "reply", "args": {"text": {"from": "input.message"}, "team": {"from": "c.team"}}},
            ],
            "outputs": {"answer": {"from": "r.answer"}},
        }
    )


class TestDemos:
    def test_are_found_by_the_inputs_that_their_predictor_gets(self) -> None:
        program = pipeline([{"message": "Hi", "team": "a"}], [{"text": "Hi", "team": "a", "answer": "Yes"}, {"text": "No", "answer": "No"}])
        found = demos_by_inputs(program)
        assert found[row_inputs(program, {"message": "Hi", "team": "b"})] == ["classify", "reply"]
        assert found[row_inputs(program, {"message": "No"})] == ["reply"]

    def test_a_demo_without_an_input_is_nobodys(self) -> None:
        assert demos_by_inputs(pipeline([], [{"team": "a", "answer": "Yes"}])) == {}

    def test_a_demo_of_some_inputs_only_is_no_row(self) -> None:
        program = parse_spec({"predictors": [predictor("self", "a", "b", "y", demos=[{"a": "1", "y": "2"}])]})
        assert row_inputs(program, {"a": "1", "b": "3"}) not in demos_by_inputs(program)

    def test_the_warning_counts_them_and_names_the_rows(self) -> None:
        demos = {"v1:1": ["classify", "reply"], "v1:2": ["classify"], "v1:3": ["reply"]}
        (warning,) = warning_of_demos("the student", demos, {"v1:1": 4, "v1:2": 2})
        assert warning["code"] == "demos_held_out"
        assert warning["message"].startswith("3 demos of the student (classify: 2, reply: 1) are held-out rows (rows 3, 5): ")
        assert warning_of_demos("the student", demos, {"v1:9": 0}) == []


class TestLocked:
    def test_the_warning_counts_rows_and_names_the_artifacts(self) -> None:
        (warning,) = warning_of_locked("router", {number: f"art-{number % 4}" for number in range(7)})
        assert warning["code"] == "trains_on_held_out"
        assert warning["message"].startswith(
            "7 of the rows that are trained on (rows 1, 2, 3, 4, 5, …) were held out for art-1, art-2, art-3 and 1 more"
        )
        assert warning_of_locked("router", {}) == []
