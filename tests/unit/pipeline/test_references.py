"""Answers that ask no model: which field has the label, the commonest label, the text classifier."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

from distill.pipeline.evaluate import Outcome, evaluation, reference_report
from distill.pipeline.references import LabelField, Labelled, label_field, majority_class
from distill.pipeline.text_classifier import TextClassifier
from stillhouse_programs.spec import parse_metric, parse_spec

TEXTS = ["Who wrote Hamlet?", "Who painted this?", "Who is she?", "Where is Oslo?", "Where is the river?", "When was the war?"]
LABELS = ["person", "person", "person", "place", "place", "time"]


def program(*outputs: dict[str, Any]) -> Any:
    fields = [{"name": "message", "role": "input"}, *({"role": "output", **output} for output in outputs)]
    signature = {"instructions": "Answer.", "fields": fields}
    return parse_spec({"spec_version": 1, "predictors": [{"name": "self", "lm": "student", "signature": signature}]})


def labelled(*labels: str) -> list[Labelled]:
    return [Labelled(f"text {at}", label) for at, label in enumerate(labels)]


class TestLabelField:
    TEAM: ClassVar = {"name": "team", "schema": {"type": "string", "enum": ["billing", "account"]}}
    EXACT: ClassVar = {"type": "exact_match", "fields": ["team"]}

    def test_is_the_one_that_the_metric_compares(self) -> None:
        found = label_field(parse_metric(self.EXACT), program(self.TEAM, {"name": "reply"}), ["team", "reply"])
        assert found == LabelField("team", is_closed=True)

    def test_of_several_it_is_the_one_with_a_closed_set_of_values(self) -> None:
        metric = parse_metric({"type": "exact_match", "fields": ["team", "reply"]})
        assert label_field(metric, program(self.TEAM, {"name": "reply"}), ["team", "reply"]) == LabelField("team", is_closed=True)

    def test_two_free_texts_have_none(self) -> None:
        metric = parse_metric({"type": "exact_match", "fields": ["title", "reply"]})
        assert label_field(metric, program({"name": "title"}, {"name": "reply"}), ["title", "reply"]) is None

    def test_a_row_is_the_text_of_its_inputs_and_its_label(self) -> None:
        field = LabelField("team", is_closed=True)
        assert field.of(program(self.TEAM), {"message": "I paid twice", "team": "billing"}) == Labelled("I paid twice", "billing")
        assert field.of(program(self.TEAM), {"message": "I paid twice", "team": None}) is None

    def test_free_texts_are_labels_only_where_they_come_again_and_again(self) -> None:
        free = LabelField("team", is_closed=False)
        assert free.has_labels(labelled(*"aaaaabbbbb"))
        assert not free.has_labels(labelled(*"aaaaabbbb"))
        assert LabelField("team", is_closed=True).has_labels(labelled("a", "b"))

    def test_too_many_labels_are_not_fitted(self) -> None:
        assert not LabelField("team", is_closed=True).has_labels(labelled(*(str(at) for at in range(201))))

    def test_one_label_alone_is_nothing_to_tell_apart(self) -> None:
        assert not LabelField("team", is_closed=True).has_labels(labelled(*"aaaaaaaaaa"))


class TestMajorityClass:
    def test_is_the_commonest_and_of_equally_common_ones_the_first_by_name(self) -> None:
        assert majority_class(labelled("b", "a", "b"))(["x", "y"]) == ["b", "b"]
        assert majority_class(labelled("b", "a", "b", "a"))(["x"]) == ["a"]


class TestTextClassifier:
    def test_learns_the_words_that_tell_labels_apart(self) -> None:
        classifier = TextClassifier.fit(TEXTS * 5, LABELS * 5)
        assert classifier.predict(TEXTS) == LABELS
        assert classifier.predict(["Who sang?", "Where?", "When?"]) == ["person", "place", "time"]

    def test_a_text_without_a_known_word_gets_the_commonest_label(self) -> None:
        assert TextClassifier.fit(TEXTS * 5, LABELS * 5).predict(["", "xyzzy"]) == ["person", "person"]

    def test_texts_without_a_single_word_still_have_a_commonest_label(self) -> None:
        assert TextClassifier.fit(["?", "!", "."], ["a", "b", "b"]).predict(["?"]) == ["b"]

    def test_is_loaded_by_no_import_of_the_api(self) -> None:
        heavy = "{'scipy.optimize', 'distill.pipeline.text_classifier'}"
        code = f"import sys, app.main; found = {heavy} & set(sys.modules); sys.exit(', '.join(found) or 0)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


class TestReport:
    def test_compares_the_examples_that_both_have_a_score_for(self) -> None:
        compiled = [*(Outcome(at, 1.0, "ok") for at in range(40)), Outcome(40, None, "ok")]
        found = reference_report({**dict.fromkeys(range(40), 0.0), 40: 1.0}, compiled)
        assert (found["n"], found["delta"]["pairs"], found["delta"]["verdict"]) == (41, 40, "better")
        assert found["score"] == 0.0244

    def test_examples_that_could_not_be_run_are_counted_by_role(self) -> None:
        report = evaluation({"baseline": [Outcome(0, 1.0, "ok")], "compiled": [Outcome(0, 1.0, "ok")]}, "m", undecided={"compiled": 2})
        assert report is not None
        assert (report["compiled"]["n"], report["compiled"]["undecided"], report["baseline"]["undecided"]) == (1, 2, 0)
