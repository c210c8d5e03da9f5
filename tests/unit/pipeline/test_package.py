import json
from dataclasses import replace

from distill.pipeline.package import Facts, File, TunedPredictor, manifest, pretty, readme

OPTIONS = {"n_epochs": 3, "batch_size": 8, "learning_rate": 0.001, "lora_r": 16}
FACTS = Facts(
    program_name="support-router",
    job_id="cjob-1",
    program_digest="v1:p",
    prompt_adapter={"type": "chat"},
    prompt_hash="v1:h",
    prompt_samples=[{"message": "hi"}],
    dspy_version="3.4.1",
    predictors=(TunedPredictor("classify.predict", "student", "sh-a", "smol", "sha256:b", 512, "lora/sh-a", None, OPTIONS),),
    lms={"student": {"connection": "house"}},
    teacher={"lms": {"classify.predict": {"model": "openai/big", "options": {}}}},
    data={"trainset": "ds-1", "rows": 640},
    metric={"type": "exact_match"},
    evaluation={
        "n": 300,
        "metric": "exact_match(category)",
        "baseline": {"score": 0.41, "low": 0.354, "high": 0.467, "n": 298, "undecided": 2, "parse_failures": 22},
        "compiled": {"score": 0.843, "low": 0.797, "high": 0.882, "n": 300, "undecided": 0, "parse_failures": 1},
        "delta": {"against": "baseline", "value": 0.433, "low": 0.37, "high": 0.49, "verdict": "better"},
        "references": {"tfidf": {"score": 0.82, "low": 0.77, "high": 0.86, "n": 300, "delta": {"verdict": "inconclusive"}}},
    },
    holdout_digests=["v1:x"],
    demos={"taken": "auto"},
)
FILES = {"spec.json": File("aa", 2), "README.md": File("bb", 3)}


class TestManifest:
    def test_names_every_file_in_order_with_hash_and_size(self) -> None:
        made = manifest(FACTS, FILES)
        assert made["format"] == 1
        assert list(made["files"]) == ["README.md", "spec.json"]
        assert made["files"]["spec.json"] == {"sha256": "aa", "size": 2}

    def test_says_whom_the_teacher_asks(self) -> None:
        assert manifest(FACTS, FILES)["teacher"] == FACTS.teacher
        assert manifest(replace(FACTS, teacher=None), FILES)["teacher"] is None

    def test_says_what_each_predictor_runs_on(self) -> None:
        assert manifest(FACTS, FILES)["predictors"] == {
            "classify.predict": {
                "lm_role": "student",
                "model": "sh-a",
                "base_model": "smol",
                "base_model_digest": "sha256:b",
                "rows": 512,
                "lora": "lora/sh-a",
                "answer_tokens": None,
                "train_options": OPTIONS,
            }
        }

    def test_the_same_facts_give_the_same_bytes(self) -> None:
        turned = dict(reversed(FILES.items()))
        assert pretty(manifest(FACTS, FILES)) == pretty(manifest(replace(FACTS), turned))
        assert json.loads(pretty(manifest(FACTS, FILES)))["job_id"] == "cjob-1"


class TestReadme:
    def test_says_what_each_predictor_was_trained_with(self) -> None:
        told = "`n_epochs` 3, `batch_size` 8, `learning_rate` 0.001, `lora_r` 16"
        assert f"| `classify.predict` | `sh-a` | smol | 512 | {told} |" in readme(FACTS).decode()
        (predictor,) = FACTS.predictors
        older = replace(FACTS, predictors=(replace(predictor, train_options=None),))
        assert "| smol | 512 | – |" in readme(older).decode()

    def test_has_the_before_and_after_table(self) -> None:
        text = readme(FACTS).decode()
        assert "| baseline | 0.410 | 0.354 to 0.467 | 298 | 2 | 22 |" in text
        assert "| compiled | 0.843 | 0.797 to 0.882 | 300 | 0 | 1 |" in text
        assert "| TF-IDF | 0.820 | 0.770 to 0.860 | 300 | – | – |" in text
        assert "**better**, +0.433 (+0.370 to +0.490). It is not better than TF-IDF." in text

    def test_says_what_a_call_takes(self) -> None:
        assert FACTS.evaluation is not None
        before, after = (
            {"prompt_tokens": 258.1, "completion_tokens": 12.0, "usd": None},
            {"prompt_tokens": 57.3, "completion_tokens": 1.0, "usd": 2e-06},
        )
        roles = {role: {**FACTS.evaluation[role], "per_call": found} for role, found in (("baseline", before), ("compiled", after))}
        text = readme(replace(FACTS, evaluation={**FACTS.evaluation, **roles})).decode()
        said = "Tokens and price of a call: baseline 258.1 in, 12 out, price unknown; compiled 57.3 in, 1 out, $0.0020 for 1,000."
        assert said in text
        assert "Tokens and price" not in readme(FACTS).decode()

    def test_without_a_holdout_it_says_that_no_verdict_is_possible(self) -> None:
        assert "Nothing was held out" in readme(replace(FACTS, evaluation=None)).decode()
