"""A notebook that says `stillhouse.BootstrapFinetune` where it said `dspy.BootstrapFinetune`, in a process of its own as its kernel is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.execute.journeys.conftest import STUDENT, TEACHER, Live

PROGRAM = '''
import json, warnings
from typing import Literal
import dspy, stillhouse

class Classify(dspy.Signature):
    """Route a customer message to one team."""
    message: str = dspy.InputField()
    category: Literal["billing", "technical", "account"] = dspy.OutputField()

class Support(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(Classify)
        self.reply = dspy.Predict("message, category -> answer")

    def forward(self, message):
        category = self.classify(message=message).category
        return dspy.Prediction(category=category, answer=self.reply(message=message, category=category).answer)

TEAMS = ["billing", "technical", "account"]
rows = [dspy.Example(message=f"Message {n} about {TEAMS[n % 3]}", category=TEAMS[n % 3]).with_inputs("message") for n in range(15)]
odd = dspy.Example(message="My card was charged", category="account").with_inputs("message")
train, val = [*rows[:12], odd], rows[12:]
found = {}
'''
# As the journey has it.
CELLS = f"""
student = Support(); student.set_lm(dspy.LM("house/{STUDENT}"))
teacher = Support(); teacher.set_lm(dspy.LM("openai/{TEACHER}"))
def metric(ex, pred, trace=None): return ex.category == pred.category
opt = stillhouse.BootstrapFinetune(metric=metric, multitask=False, train_kwargs={{"n_epochs": 3}}, adapter=dspy.ChatAdapter())
tuned = opt.compile(student, trainset=train, teacher=teacher, valset=val)
tuned(message="I was charged twice"); tuned.save("tuned.json")
"""
AFTER = f"""
found["category"] = tuned(message="I was charged twice").category
found["lms"] = [predictor.lm.model for predictor in tuned.predictors()]
found["student"] = [predictor.lm.model for predictor in student.predictors()]
found["job"] = opt.job.model_dump()
found["report"] = opt.report()
found["failed"] = [dict(example) for example in opt.failed_examples()]

later = stillhouse.load(opt.job.artifact.id)
found["loaded"] = later(message="I was charged twice").category
saved = Support(); saved.load("tuned.json")
found["saved"] = saved(message="I was charged twice").category

def compiled(metric, trainset=train, teacher=teacher, **options):
    opt = stillhouse.BootstrapFinetune(metric=metric, multitask=False, train_kwargs={{"n_epochs": 3}}, **options)
    opt.compile(student, trainset, teacher, val)
    return opt.job

with dspy.context(adapter=dspy.ChatAdapter()):
    found["again"] = compiled(metric).id
def metric(ex, pred, trace=None): return ex.category == pred.category and bool(pred.answer)
found["other"] = compiled(metric).id

def refused(*args, **options):
    try:
        compiled(*args, **options)
    except Exception as error:
        return str(error)

class Other(Support):
    def __init__(self):
        super().__init__()
        self.answer = self.reply
        del self.reply

    def forward(self, message):
        return self.answer(message=message, category=self.classify(message=message).category)

found["no_inputs"] = refused(metric, [*train, dspy.Example(message="m", category="billing")])
other = Other(); other.set_lm(dspy.LM("openai/{TEACHER}"))
found["names"] = refused(metric, teacher=other)
stranger = Support(); stranger.set_lm(dspy.LM("mistral/large"))
found["stranger"] = refused(metric, teacher=stranger)
with open("found.json", "w") as file:
    json.dump(found, file)
"""


@pytest.mark.slow
class TestNotebook:
    def test_every_line_does_what_it_says(self, live: Live, desk: Path) -> None:
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM + CELLS + AFTER],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert ran.returncode == 0, ran.stderr
        found: dict[str, Any] = json.loads((desk / "found.json").read_text())
        assert found["category"] == found["loaded"] == found["saved"] == "billing"
        assert all(model.startswith("tune/sh-") for model in found["lms"])
        assert found["student"] == [f"house/{STUDENT}"] * 2, "the student is left as it was"
        assert len(found["job"]["fine_tuning_jobs"]) == 2
        self.check_what_is_told(ran.stderr, found)
        self.check_the_same_call_again(live, found)
        self.check_what_is_refused(found)

    def check_what_is_told(self, said: str, found: dict[str, Any]) -> None:
        first = next(line for line in said.splitlines() if "→" in line)
        assert "2 predictors → 2 LoRA; 13 examples, 0 already run; 3 held out; price unknown (" in first
        assert said.count("The compiled program is a new one") == 1
        assert re.search(r"here, in this process: keep it open", first)
        predictors, scores = (table.splitlines() for table in found["report"].split("\n\n")[1:3])
        assert predictors[0].split() == ["predictor", "rows", "rejected", "loss", "model"]
        assert [row.split()[0] for row in predictors[1:]] == ["classify", "reply"]
        head, baseline, *others = scores
        assert head.split() == ["role", "score", "95", "%", "interval", "n", "undecided", "parse", "failures"]
        assert (baseline.split()[0], others[1].split()[:2]) == ("baseline", ["compiled", "1.000"])
        (failed,) = found["failed"]
        assert failed == {"message": "My card was charged", "category": "account", "failure": "not_passed: score 0"}

    def check_the_same_call_again(self, live: Live, found: dict[str, Any]) -> None:
        assert found["again"] == found["job"]["id"], "the app's own prompt adapter is the same one"
        assert found["other"] != found["job"]["id"], "another metric scores anew"
        prompts = [call.digest for call in live.house.teacher.calls]
        assert len(prompts) == len(set(prompts)), "and asks the teacher nothing again"

    def check_what_is_refused(self, found: dict[str, Any]) -> None:
        assert "trainset: row 14: Inputs have not been set" in found["no_inputs"]
        assert re.search(r"predictors of the same names\n(.+\n)+! reply +-\n! - +answer", found["names"]), found["names"]
        assert re.search(r"predictor +its LM +connection/model\n +classify +mistral/large +-", found["stranger"]), found["stranger"]
