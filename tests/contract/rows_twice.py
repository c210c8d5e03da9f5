"""Training rows twice: as stock `dspy.BootstrapFinetune` makes them, and as we make them of the same calls. Nothing is trained."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dspy

from distill.pipeline.keys import Predictor, fine_tune_keys
from distill.pipeline.prepare import Filter, Row, passes, settle
from stillhouse_programs import render
from stillhouse_programs.collect import Prepared, score_trace
from stillhouse_programs.prompts import make_prompt_adapter
from stillhouse_programs.spec import DemosMode
from tests.support.scripted_lm import Answerer, Ask, complete
from tests.support.shelves import MemoryShelf
from tests.unit.runner.support import Json, ScriptedRelay, prepared, rollout

Metric = Callable[..., Any]
Rows = dict[tuple[str, str], list[str]]
"""Of an LM's name and a predictor's ('' where all share the LM): each row's messages as JSON text, sorted."""

PLAIN: dict[str, type[dspy.Adapter]] = {"chat": dspy.ChatAdapter, "xml": dspy.XMLAdapter}


def say(ask: Ask) -> dict[str, Any]:
    """Answers that depend on the whole prompt. The first letter of a field's name says what it holds: n a number, c a choice, l a list."""
    seen = hashlib.sha256(ask.text.encode()).hexdigest()
    kinds: dict[str, Any] = {"n": int(seen[:4], 16), "c": "yes" if seen < "8" else "no", "l": [seen[:3], seen[3:6]]}
    return {name: kinds.get(name[0], f"{name} {seen[:8]}") for name in ask.outputs}


class Engine:
    """An LM engine for stock dspy that answers in process."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer

    def complete(self, request: Any) -> Any:
        writer = dspy.lm15.OpenAIChatLM(api_key="-", base_url="http://nowhere/v1")
        body = json.loads(writer.build_request(request, stream=False).body)
        return dspy.lm15.response_from_openai_chat(complete(self.answer, 0, body), model=request.model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self


def lm(name: str = "fake/small", answer: Answerer = say, kind: type[dspy.LM] = dspy.LM) -> dspy.LM:
    return kind(name, engine=Engine(answer), cache=False, num_retries=0)


def examples(*questions: str) -> list[dspy.Example]:
    return [dspy.Example(q=question).with_inputs("q") for question in questions]


# ------------------------------------------------------------------ theirs


def upstream_jobs(
    student: dspy.Module,
    teachers: Sequence[dspy.Module],
    trainset: Sequence[dspy.Example],
    *,
    metric: Metric | None = None,
    multitask: bool = False,
    demos: DemosMode = "keep",
    adapter: str = "chat",
    teacher_adapter: str | None = None,
) -> list[tuple[str, str, list[str]]]:
    """What stock BootstrapFinetune would train: of each job the LM's name, the predictor's ('' for all), and the rows' messages as text.

    The LMs of students and teachers are set; a teacher is not to be used again, since its `forward` stays replaced.
    """
    made: dict[Any, Json] = {}

    class Stock(dspy.BootstrapFinetune):
        @staticmethod
        def finetune_lms(finetune_dict: dict[Any, Json]) -> dict[Any, dspy.LM]:
            made.update(finetune_dict)
            return {key: key[0] for key in finetune_dict}

    names = [name for name, _ in student.named_predictors()]
    options: Json = {"adapter": PLAIN[adapter](use_json_adapter_fallback=False), "exclude_demos": demos == "drop"}
    with dspy.context(adapter=make_prompt_adapter(teacher_adapter or adapter)):
        stock = Stock(metric=metric, multitask=multitask, num_threads=max(2, len(names)), **options)
        stock.compile(student, trainset=list(trainset), teacher=list(teachers))
    return [
        (tuned.model, "" if number is None else names[number], sorted(_text(row["messages"]) for row in job["train_data"]))
        for (tuned, number), job in made.items()
    ]


def upstream(student: dspy.Module, teachers: Sequence[dspy.Module], trainset: Sequence[dspy.Example], **options: Any) -> Rows:
    """The same by LM and predictor; the student's LMs have different names."""
    return {(model, predictor): rows for model, predictor, rows in upstream_jobs(student, teachers, trainset, **options)}


# ------------------------------------------------------------------ ours


@dataclass
class Ours:
    """`rows` as upstream has them; `order` says whose call came when, for each trace."""

    rows: Rows = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    order: list[list[str]] = field(default_factory=list)
    traces: list[Json] = field(default_factory=list)
    scores: list[Json] = field(default_factory=list)
    rendered: list[render.Row] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)


def ours(
    student: dspy.Module,
    teachers: Sequence[dspy.Module],
    trainset: Sequence[dspy.Example],
    *,
    metric: Metric | None = None,
    multitask: bool = False,
    demos: DemosMode = "keep",
    adapter: str = "chat",
    teacher_adapter: str | None = None,
    render_as: str = "teacher",
    rows: str = "all",
    dedup: bool = False,
    answer: Answerer = say,
) -> Ours:
    """What we would train each LM on. The student's LMs are set; the teachers run as copies, under the recorder."""
    found = Ours()
    for number, teacher in enumerate(teachers):
        asked = _dressed(student, teacher if render_as == "teacher" else student)
        ready = prepared(teacher.deepcopy(), ScriptedRelay(answer), teacher_adapter or adapter)
        for at, example in enumerate(trainset):
            trace = rollout(ready, limit=None, **example.inputs())
            found.traces.append(trace)
            found.order.append([call["predictor"] for call in trace["calls"]])
            if _passed(found, ready, trace, example, metric):
                _render(found, asked, trace, (number, at, 0), make_prompt_adapter(adapter), demos)
    found.rows = _by_key(student, found.kept, multitask, rows, Filter(dedup=dedup))
    return found


def _dressed(student: dspy.Module, program: dspy.Module) -> dspy.Module:
    """The program whose prompts the rows have, on the student's LMs."""
    dressed = program.deepcopy()
    lms = {name: predictor.lm for name, predictor in student.named_predictors()}
    for name, predictor in dressed.named_predictors():
        predictor.lm = lms[name]
    return dressed


def _passed(found: Ours, ready: Prepared, trace: Json, example: dspy.Example, metric: Metric | None) -> bool:
    if metric is None:
        return passes(trace["status"], None, 1.0, scored=False)
    found.scores.append(asyncio.run(score_trace(ready, trace, dict(example.labels()), metric, 1.0)))
    return passes(trace["status"], found.scores[-1], 1.0, scored=True)


def _render(found: Ours, asked: dspy.Module, trace: Json, place: tuple[int, int, int], adapter: dspy.Adapter, demos: DemosMode) -> None:
    for at, call in enumerate(trace["calls"]):
        row = render.render_row(asked, call["predictor"], call, adapter, demos)
        if isinstance(row, render.Rejection):
            found.rejected[row.reason] += 1
        else:
            found.rendered.append(row)
            text = _text([*row.prompt, *row.completion])
            found.kept.append(Row(row.predictor, row.digest, str(place), str(place[1]), str(place[1]), 1.0, (*place, at), ref=(text, 0, 0)))


def _by_key(student: dspy.Module, kept: list[Row], multitask: bool, rows: str, keep: Filter) -> Rows:
    predictors = [Predictor(name, predictor.lm.model) for name, predictor in student.named_predictors()]
    keys = fine_tune_keys(predictors, {predictor.lm: predictor.lm for predictor in predictors}, multitask)
    if multitask and rows == "all":
        keys = tuple(replace(key, predictors=tuple(each.name for each in predictors)) for key in keys)
    files = [settle(key, [row for row in kept if row.predictor in key.predictors], keep, 0, MemoryShelf()) for key in keys]
    return {(file.key.lm, file.key.predictor): sorted(row.ref[0] for row in file.rows) for file in files}


def _text(messages: Sequence[Json]) -> str:
    return json.dumps([{"role": message["role"], "content": message["content"]} for message in messages], ensure_ascii=False)
