"""What a key is made of: JSON and back changes none, and only what is trained makes another."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.pipeline.plan import job_keys, predictors_of_rows
from distill.spec import CompileSpec, lm_key, read_spec
from stillhouse_programs.spec import ProgramSpec, canonical_json, parse_spec

LM_NAMES = ("small", "large")
PREDICTORS = ("route", "reply.predict", "a[0]")


def program(lms: dict[str, str]) -> ProgramSpec:
    """A chain of predictors, each on the LM it is given."""
    fields = [{"name": "x", "role": "input"}, {"name": "y", "role": "output"}]
    predictors = [{"name": name, "lm": lm, "signature": {"instructions": "Do.", "fields": fields}} for name, lm in lms.items()]
    steps = [
        {"id": f"s{at}", "predictor": name, "args": {"x": {"from": f"s{at - 1}.y" if at else "input.x"}}} for at, name in enumerate(lms)
    ]
    return parse_spec({"predictors": predictors, "steps": steps, "outputs": {"y": {"from": f"s{len(lms) - 1}.y"}}})


programs = st.fixed_dictionaries(dict.fromkeys(PREDICTORS, st.sampled_from(LM_NAMES))).map(program)
train_options = st.fixed_dictionaries(
    {},
    optional={
        "n_epochs": st.integers(1, 9) | st.just("auto"),
        "learning_rate": st.floats(1e-6, 1.0),
        "lora_r": st.sampled_from([4, 8, 16]),
        "early_stopping": st.none() | st.fixed_dictionaries({"patience": st.integers(1, 5), "min_delta": st.floats(0, 1)}),
    },
)
lms = st.fixed_dictionaries(
    {
        "connection_id": st.sampled_from(["conn-1", "conn-2"]),
        "base_model": st.sampled_from(["tiny", "big"]),
        "train_options": train_options,
    },
    optional={
        "trainer": st.just("local"),
        "prompt_adapter": st.sampled_from(["chat", "json", "xml"]),
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 99),
    },
)


def spec(**more: Any) -> CompileSpec:
    return read_spec({"program_id": "prog-1", "trainset": "ds-1", **more})


class TestRoundTrip:
    @given(student=programs, given_lms=st.fixed_dictionaries(dict.fromkeys(LM_NAMES, lms)), multitask=st.booleans())
    def test_json_and_back_changes_no_key(self, student: ProgramSpec, given_lms: dict[str, Any], multitask: bool) -> None:
        asked = spec(lms=given_lms, multitask=multitask)
        stored = CompileSpec.model_validate_json(asked.to_json())
        read_again = read_spec(json.loads(asked.to_json()))
        rebuilt = parse_spec(json.loads(canonical_json(student)))
        assert job_keys(stored, rebuilt) == job_keys(read_again, student) == job_keys(asked, student)


class TestWhatCounts:
    @given(lm=lms, temperature=st.floats(0, 2), max_tokens=st.integers(1, 99))
    def test_generation_options_do_not(self, lm: dict[str, Any], temperature: float, max_tokens: int) -> None:
        changed = {**lm, "temperature": temperature, "max_tokens": max_tokens, "constrain": True}
        one, other = spec(lms={"a": lm, "b": changed}).lms.values()
        assert lm_key(one) == lm_key(other)

    @pytest.mark.parametrize(
        "change",
        [
            {"connection_id": "conn-2"},
            {"base_model": "big"},
            {"trainer": "other"},
            {"train_options": {"n_epochs": 2}},
            {"prompt_adapter": "json"},
        ],
    )
    def test_what_is_trained_does(self, change: dict[str, Any]) -> None:
        lm = {"connection_id": "conn-1", "base_model": "tiny", "trainer": "local", "train_options": {}, "prompt_adapter": "chat"}
        one, other = spec(lms={"a": lm, "b": {**lm, **change}}).lms.values()
        assert lm_key(one) != lm_key(other)


class TestRowsOfAKey:
    @pytest.mark.parametrize(("rows", "multitask", "all_of_them"), [("own", True, False), ("all", True, True), ("all", False, False)])
    def test_with_several_lms_a_key_has_its_own_predictors_rows_or_all(self, rows: str, multitask: bool, all_of_them: bool) -> None:
        student = program({"route": "small", "reply.predict": "large", "a[0]": "small"})
        asked = spec(lms={"small": {"base_model": "tiny"}, "large": {"base_model": "big"}}, rows=rows, multitask=multitask)
        for key in job_keys(asked, student):
            assert predictors_of_rows(asked, student, key) == (PREDICTORS if all_of_them else key.predictors)
