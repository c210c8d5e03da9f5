from typing import Any

import pytest

from distill.pipeline.samples import fixed_samples
from stillhouse_programs.spec import ProgramSpec, check_row, parse_spec


def program(schema: dict[str, Any]) -> ProgramSpec:
    fields = [{"name": "x", "role": "input", "schema": schema}, {"name": "y", "role": "output"}]
    return parse_spec({"predictors": [{"name": "self", "lm": "s", "signature": {"instructions": "Do.", "fields": fields}}]})


class TestFixedSamples:
    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "string"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "string", "enum": ["a", "b"]},
            {"type": "array", "items": {"type": "string"}},
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            {"type": "object", "title": "Order", "properties": {"note": {"type": "string"}, "n": {"type": "integer", "minimum": 3}}},
        ],
    )
    def test_made_up_inputs_are_inputs_that_the_program_takes(self, schema: dict[str, Any]) -> None:
        spec = program(schema)
        samples = fixed_samples(spec, [{"x": "from a row"}])
        assert len(samples) == 2
        assert [check_row(spec, sample) for sample in samples] == [[], []]
        assert {"x": "from a row"} not in samples

    def test_they_do_not_depend_on_rows(self) -> None:
        spec = program({"type": "string"})
        assert fixed_samples(spec, [{"x": "a"}]) == fixed_samples(spec, [{"x": "b"}])
