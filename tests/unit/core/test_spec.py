"""The compile spec, and the digests that everything stored is found by. A changed golden value orphans every stored trace."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import spec as specs
from distill.errors import Invalid
from distill.messages import row_digest
from distill.spec import CompileSpec, LmSpec, compact, digest, read_spec
from distill.spec_faults import json_path
from distill.spec_training import TrainOptions
from stillhouse_programs.spec import parse_metric, parse_prompt_adapter, parse_spec

MINIMAL: dict[str, Any] = {"program_id": "prog-1", "trainset": "ds-1"}
LM = LmSpec(
    connection="house", connection_id="conn-1", connection_revision=2, model="tiny", base_model="tiny", trainer="local", temperature=0.5
)
QUESTION = {"instructions": "Answer.", "fields": [{"name": "q", "role": "input"}, {"name": "a", "role": "output"}]}
GOLDEN = {
    "program_of_a_package": "v1:d83162790aa4bb36a3c313563049b2abb0f1ee1c44fcd316a330c954730a4ddb",
    "metric_of_a_package": "v1:01bd2b887d8e2a8249034e875275cc8ea96d815065f5fee4f2eae1baeefb7639",
    "value": "v1:362d8241f788bca764c540e8fe918d8ac9091679ac3b5f973db9965797e2debb",
    "program": "v1:5d2369c0b6521a528b727e1fb8d90569a6d52e43eaa038e0e98305243c3fd790",
    "lm": "v1:91d1fa621a75cb3581a93afbf4f00634f7ffb126ffc1fb8a87e0f4a00cafc8e4",
    "lms": "v1:78bf81a544d2b4eb00f02083cfcbf8968824e1875d5be6f669ebd3017d689969",
    "lm_key": "v1:d62de8012cf34400f4cc0c3d1b3a50ab5858bd6444318935b8d8b2ab13840ff5",
    "metric": "v1:3248b75f45adbb1a770bfecb3d88a7a4ab89e083e42b775fb47d2dce1ddf138f",
    "example": "v1:f6721332f8fdcef4917633bad9c8c6fc74e0dab42db0ab435fbb520f63513811",
    "trace": "v1:b0d7c56350aacca29abbe124bea7fbebcba817cc3eeb7dd19b5291bacd11957e",
    "row": "v1:4fec41d229a5ba1e8108c3106a025a2b73fbc89fd10b6d42d6e5d70b0b31caa7",
    "job": "v1:ba8fff71854873e45925cc16aa84d44383248acf7795fc688654c65c0198a649",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


class TestDigests:
    def test_golden_values(self) -> None:
        assert golden_values() == GOLDEN

    def test_order_of_users_keys_counts(self) -> None:
        assert specs.inputs_digest({"a": 1, "b": 2}) != specs.inputs_digest({"b": 2, "a": 1})

    def test_order_of_generation_options_does_not(self) -> None:
        assert specs.lm_digest(LmSpec(temperature=0.5, top_p=0.9)) == specs.lm_digest(LmSpec(top_p=0.9, temperature=0.5))

    def test_order_of_predictors_does_not(self) -> None:
        other = LM.model_copy(update={"model": "big"})
        assert specs.lms_digest({"a": LM, "b": other}) == specs.lms_digest({"b": other, "a": LM}) != specs.lms_digest({"a": other, "b": LM})

    @pytest.mark.parametrize(
        ("change", "answers_change", "training_changes"),
        [
            ({"temperature": 0.7}, True, False),
            ({"constrain": True}, True, False),
            ({"native": ["tools"]}, True, True),
            ({"connection_revision": 3}, True, False),
            ({"model": "big"}, True, False),
            ({"base_model": "big"}, False, True),
            ({"trainer": "other"}, False, True),
            ({"train_options": TrainOptions(n_epochs=3)}, False, True),
            ({"prompt_adapter": parse_prompt_adapter("json")}, False, True),
            ({"connection": "renamed"}, False, False),
        ],
    )
    def test_what_an_answer_and_a_training_depend_on(self, change: dict[str, Any], answers_change: bool, training_changes: bool) -> None:
        changed = LM.model_copy(update=change)
        assert (specs.lm_digest(changed) != specs.lm_digest(LM)) is answers_change
        assert (specs.lm_key(changed) != specs.lm_key(LM)) is training_changes

    @given(JSON)
    def test_compact_json_round_trips(self, value: Any) -> None:
        import json

        text = compact(value)
        assert json.loads(text) == value
        assert compact(json.loads(text)) == text

    def test_nan_has_no_digest(self) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            digest(float("nan"))

    def test_lone_surrogates_have_a_digest(self) -> None:
        assert digest("\ud800") != digest("\ufffd")


class TestCompileSpec:
    def test_text_round_trips(self) -> None:
        spec = read_spec({**MINIMAL, "teacher": [{"lms": {"student": {"model": "big"}}}], "metric": {"type": "f1", "field": "answer"}})
        assert CompileSpec.model_validate_json(spec.to_json()) == spec

    def test_only_jobs_of_clients_say_where_they_run(self) -> None:
        """A worker of an older release knows no such word, and refuses what it does not know."""
        spec = read_spec(MINIMAL)
        assert "where" not in json.loads(spec.to_json())["rollouts"]
        here = spec.model_copy(update={"rollouts": spec.rollouts.model_copy(update={"where": "client"})})
        assert json.loads(here.to_json())["rollouts"]["where"] == "client"

    def test_only_jobs_that_retry_failed_rollouts_say_so(self) -> None:
        spec = read_spec(MINIMAL)
        assert "retry_failed" not in json.loads(spec.to_json())["rollouts"]
        again = read_spec({**MINIMAL, "rollouts": {"retry_failed": True}})
        assert CompileSpec.model_validate_json(again.to_json()) == again
        assert again.digest() != spec.digest(), "other rollouts may come of it"

    def test_a_job_that_runs_nothing_cannot_retry(self) -> None:
        with pytest.raises(Invalid, match="`stored_only` runs nothing") as refused:
            read_spec({**MINIMAL, "rollouts": {"stored_only": True, "retry_failed": True}})
        assert refused.value.param == "rollouts"

    def test_digest_looks_at_the_result_alone(self) -> None:
        plain = read_spec(MINIMAL)
        assert read_spec({**MINIMAL, "name": "x", "num_threads": 2, "auto_start": False, "metadata": {"a": "b"}}).digest() == plain.digest()
        assert read_spec({**MINIMAL, "budget": {"max_calls": 5}}).digest() == plain.digest()
        assert read_spec({**MINIMAL, "incumbent_artifact": "art-1"}).digest() == plain.digest()
        assert read_spec({**MINIMAL, "seed": 1}).digest() != plain.digest()

    @pytest.mark.parametrize(
        ("raw", "param", "message"),
        [
            ({"trainset": "ds-1"}, "program_id", "Field required"),
            ({**MINIMAL, "lms": {"student": {"temprature": 1}}}, "lms.student.temprature", 'did you mean "temperature"?'),
            ({**MINIMAL, "train_options": {"n_epochs": "many"}}, "train_options.n_epochs", "integer"),
            ({**MINIMAL, "teacher": [{"lms": {"s": {"max_tokens": 0}}}]}, "teacher[0].lms.s.max_tokens", "greater than or equal to 1"),
            ({**MINIMAL, "prompt_adapter": "yaml"}, "prompt_adapter.type", "chat"),
            ({**MINIMAL, "metric": {"type": "f1"}}, "metric.field", "required"),
            ({**MINIMAL, "filter": {"min_score": float("inf")}}, "filter.min_score", "finite"),
        ],
    )
    def test_fault_names_its_place(self, raw: dict[str, Any], param: str, message: str) -> None:
        with pytest.raises(Invalid) as refusal:
            read_spec(raw)
        assert refusal.value.param == param
        assert message in refusal.value.message

    def test_path(self) -> None:
        assert json_path(("teacher", 0, "lms", "student", "constrained-int")) == "teacher[0].lms.student"


def golden_values() -> dict[str, str]:
    program = parse_spec(
        {
            "predictors": [
                {
                    "name": "self",
                    "lm": "student",
                    "signature": {
                        "fields": [
                            {"name": "q", "role": "input"},
                            {"name": "a", "role": "output", "schema": {"type": "string", "enum": ["y", "n"]}},
                        ]
                    },
                    "demos": [{"q": "zwölf", "a": "y"}],
                }
            ]
        }
    )
    code = {"target": "acme.desk:make", "kwargs": {"rounds": 2}, "inputs": [{"name": "q"}], "source": {"acme": "0" * 64}}
    coded = parse_spec({"predictors": [{"name": "self", "lm": "student", "signature": QUESTION}], "reference": code})
    scored = parse_metric({"type": "reference", "reference": "acme.scores:right", "source": {"acme": "0" * 64}})
    chat = parse_prompt_adapter("chat")
    return {
        "program_of_a_package": specs.program_digest(coded),
        "metric_of_a_package": specs.metric_digest(scored),
        "value": digest({"b": 1, "a": "ä"}),
        "program": specs.program_digest(program),
        "lm": specs.lm_digest(LM),
        "lms": specs.lms_digest({"self": LM}),
        "lm_key": specs.lm_key(LM),
        "metric": specs.metric_digest(parse_metric("exact_match")),
        "example": specs.example_digest({"q": "zwölf", "a": "y"}),
        "trace": specs.trace_digest("v1:p", "v1:l", "v1:i", 0, chat, "v1:h"),
        "row": row_digest([{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}]),
        "job": read_spec(MINIMAL).digest(),
    }
