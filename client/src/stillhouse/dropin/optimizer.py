"""`stillhouse.BootstrapFinetune`: the call of `dspy.BootstrapFinetune`, done by a job on a server."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import dspy

from stillhouse._advice import cause, in_python
from stillhouse._client import Stillhouse
from stillhouse._exceptions import StillhouseError
from stillhouse._house import prefixes_restored
from stillhouse._load import fetch
from stillhouse._low_answers import low_training_answer
from stillhouse.bundling.sources import More
from stillhouse.dropin import failed
from stillhouse.dropin import lms as lm_roles
from stillhouse.dropin.following import follow
from stillhouse.dropin.lms import Names, Places
from stillhouse.dropin.options import refused_as_given, train_options
from stillhouse.dropin.outlook import outlook, where
from stillhouse.dropin.programs import Metric, check_calls, check_types, check_wrappers, own_metric, own_program, rows_of, spec_of
from stillhouse.dropin.report import report
from stillhouse.dropin.shipping import Parcel, refusals
from stillhouse.dropin.trainings import Key, Trainings, check_lms
from stillhouse.types import CompileJob
from stillhouse_programs.artifact import load_artifact
from stillhouse_programs.pinning import pin_like, pinned_prompt_adapter, unpin
from stillhouse_programs.prompts import describe_prompt_adapter

Json = dict[str, Any]
Prompt = Literal["compact", "full", "auto"]
CALL = "stillhouse_call"
"""The word in a job's metadata under which the same call finds it again."""


class CompileFailed(StillhouseError):
    """The job ended without a program; `job` says how far it came, and its `error` what to do."""

    def __init__(self, job: CompileJob, example: str = "") -> None:
        """`example`: a sentence on one prediction that did not pass."""
        why = cause(job.error) if job.error else job.pause.message if job.pause else ""
        why = " ".join(filter(None, (why, example, in_python(job))))
        super().__init__(f"job {job.id} is {job.status}{f': {why}' if why else ''}")
        self.job = job


class BootstrapFinetune(dspy.BootstrapFinetune):
    """A drop-in for `dspy.BootstrapFinetune`: the same arguments, and a compiled deep copy of the student comes back.

    `metric` is called as upstream, with `(example, prediction, trace)`, in this process; the name of a built-in metric (`"exact_match"`) or
    its object runs on the server. A program that is a straight line of calls runs on the server with a built-in metric; any other is run
    here, with its tools and branches. `lms` and `teacher_lms` name connections of the server (`{"predictor or model": "connection/model"}`)
    where the names of the LMs do not. LM calls go through the server's gateway: keys of the program's own LMs are neither read nor sent.
    `inplace=True` changes the student itself, as upstream does. `prompt="compact"` tunes the student on prompts that hold only instructions
    and values; `"auto"` lets the server choose. With `ship_code=True` what would be run here is sent, with the modules of your own that it
    imports, and runs in the server's sandbox; a list names files and modules that are sent beside them.
    """

    def __init__(
        self,
        metric: Metric | str | Mapping[str, Any] | None = None,
        multitask: bool = True,
        train_kwargs: Mapping[Any, Any] | None = None,
        adapter: Any = None,
        exclude_demos: bool = False,
        num_threads: int | None = None,
        *,
        client: Stillhouse | None = None,
        lms: Names | None = None,
        teacher_lms: Names | None = None,
        inplace: bool = False,
        ship_code: bool | More = False,
        prompt: Prompt | None = None,
    ) -> None:
        super().__init__(metric, multitask, train_kwargs, adapter, exclude_demos, num_threads)
        self.client, self.inplace = client, inplace
        self.lms, self.teacher_lms = lms or {}, teacher_lms or {}
        self.ship_code, self.prompt = ship_code, prompt
        self.job: CompileJob | None = None
        self._taught: tuple[Sequence[Any], int] = ((), 1)

    def compile(self, student: Any, trainset: Sequence[Any], teacher: Any = None, valset: Sequence[Any] | None = None) -> Any:
        """Compile on the server and return the compiled program. The same call again goes on with the job that it made before.

        Raises:
            NoConnection: an LM that the server has no connection for; nothing was paid.
            ValueError: an example or an option that cannot be used; nothing was paid.
            NotSendable, CodeRefused: with `ship_code`, code that cannot be sent, or that the server does not run; nothing was paid.
            CompileFailed: the job failed, was cancelled or paused.
            Interrupted: all examples met trouble; the same call goes on with what was made.
        """
        check_lms(student)
        given = student, list(trainset), _teachers(teacher, student), None if valset is None else list(valset)
        trainings = Trainings(student, self.multitask, self._options_by_lm(student), lambda: self._compile(*given))
        lms = self.finetune_lms(trainings)
        program = trainings.program or self._without_job(student)
        trainings.give(program, lms)
        return program

    @staticmethod
    def finetune_lms(finetune_dict: Mapping[Key, Json]) -> dict[Key, Any]:
        """Run the job of a compile, and return its fine-tuned LMs by `(LM, number of the predictor, or None with multitask)`.

        `compile` calls it, and gives its predictors the LMs that come back: one that is overridden or patched replaces the job.
        Raises TypeError for a dict that `compile` did not make.
        """
        if not isinstance(finetune_dict, Trainings):
            raise TypeError("finetune_lms takes what compile gives it; to train on rows of your own, make a fine-tuning job of their file")
        return finetune_dict.run()

    @staticmethod
    def convert_to_lm_dict(arg: Any) -> Mapping[Any, Any]:
        """A dict by LM: `arg` itself where all its keys are LMs, else one that has `arg` for every LM."""
        if arg and isinstance(arg, Mapping) and all(isinstance(key, dspy.BaseLM) for key in arg):
            return arg
        return defaultdict(lambda: arg)

    def failed_examples(self) -> list[Any]:
        """Examples of the last call's trainset that no teacher passed on, each with a `failure` that says why."""
        if self.job is None:
            return []
        with self._connected() as client:
            return failed.failed_examples(client, self.job.id, *self._taught)

    def report(self) -> str:
        """The last job as tables: predictors with rows, rejections and losses; scores by role with their intervals."""
        if self.job is None:
            return "nothing was compiled yet"
        with self._connected() as client:
            return report(client, self.job)

    @contextmanager
    def _connected(self) -> Iterator[Stillhouse]:
        if self.client is not None:
            yield self.client
            return
        with Stillhouse() as client:
            yield client

    def _compile(self, student: Any, trainset: list[Any], teachers: list[Any], valset: list[Any] | None) -> dspy.Module:
        with self._connected() as client:
            return self._run(client, student, trainset, teachers, valset)

    def _run(self, client: Stillhouse, student: Any, trainset: list[Any], teachers: list[Any], valset: list[Any] | None) -> dspy.Module:
        body = self._body(client, student, trainset, teachers, valset)
        self._taught = trainset, len(body["teacher"])
        call = _call_of(body)
        with refused_as_given(self._given_train_kwargs, body), refusals():
            self.job = self._attached(client, body, call) or self._made(client, body, call)
        at_client = self.job.rollouts.get("where") == "client"
        programs = {"student": student, **{f"teacher:{number}": each for number, each in enumerate(teachers or [student])}}
        self.job = follow(client, self.job, programs if at_client else {}, self._own_metric, [*trainset, *(valset or ())])
        if self.job.status != "succeeded" or self.job.artifact is None:
            raise CompileFailed(self.job, low_training_answer(client, self.job, lambda row: dict(trainset[row - 1].labels().items())))
        return self._compiled(client, student, self.job.artifact.id)

    def _body(self, client: Stillhouse, student: Any, trainset: list[Any], teachers: list[Any], valset: list[Any] | None) -> Json:
        if not trainset:
            raise ValueError("trainset: there are no examples")
        rows, held_out = rows_of(trainset, "trainset"), rows_of(valset or (), "valset")
        check_calls([student, *teachers], self._own_metric, trainset, valset or ())
        check_wrappers(student, self.multitask)
        lm_roles.check_names(self.lms, "lms", [student], teachers)
        lm_roles.check_names(self.teacher_lms, "teacher_lms", teachers or [student])
        places, parcel = Places(client), None if self.ship_code is False else Parcel()
        roles = lm_roles.resolve(student, places, self.lms, "student")
        body: Json = {
            "program": _program(student, trainset, roles.of_predictor, parcel),
            "trainset": rows,
            "lms": self._lms(student, roles),
            "teacher": [self._teacher(each, student, places, trainset, parcel) for each in teachers or [student]],
            "metric": self.metric if self._own_metric is None else _metric(self._own_metric, [*trainset, *(valset or ())], parcel),
            "multitask": self.multitask,
            "prompt_adapter": self._prompt_adapter(student),
            "demos": "drop" if self.exclude_demos else "auto",
        }
        if "client" in body["program"]:
            check_types(student)
        if not self._trains_by_lm:
            body["train_options"] = train_options(self._given_train_kwargs)
        if self.prompt is not None:
            body["prompt"] = self.prompt
        if valset is not None:  # dspy.BetterTogether gives an empty one
            body.update({"valset": held_out} if held_out else {"holdout": {"n": 0}})
        if self.num_threads is not None:
            body["num_threads"] = self.num_threads
        if parcel is not None:
            parcel.send(client, _more(self.ship_code))
        return body

    @property
    def _given_train_kwargs(self) -> Mapping[Any, Any]:
        return _as_given(self.train_kwargs, "train_kwargs") or {}

    @property
    def _given_adapter(self) -> Any:
        return _as_given(self.adapter, "adapter")

    @property
    def _own_metric(self) -> Metric | None:
        """The function that is asked here; None where the server has the metric."""
        if self.metric is None:
            return _keep_all
        return self.metric if callable(self.metric) else None

    def _teacher(self, program: Any, student: Any, places: Places, trainset: list[Any], parcel: Parcel | None) -> Json:
        names = {**lm_roles.for_teacher(program, student, self.lms), **self.teacher_lms}
        roles = lm_roles.resolve(program, places, names, "teacher")
        lms = roles.lms
        own = _described(pinned_prompt_adapter(program) or _usual())
        if own != self._prompt_adapter(student):
            lms = {role: {**lm, "prompt_adapter": own} for role, lm in lms.items()}
        return {"program": _program(program, trainset, roles.of_predictor, parcel), "lms": lms}

    @property
    def _trains_by_lm(self) -> bool:
        return any(isinstance(key, dspy.BaseLM) for key in self._given_train_kwargs)

    def _options_by_lm(self, student: Any) -> Mapping[Any, Any]:
        if not self._trains_by_lm:
            return self.convert_to_lm_dict(self._given_train_kwargs)
        given = lm_roles.by_model(student, self._given_train_kwargs, "train_kwargs")
        return {predictor.lm: given.get(predictor.lm.model, {}) for predictor in student.predictors()}

    def _without_job(self, student: Any) -> dspy.Module:
        """The program where another `finetune_lms` has made the LMs."""
        program: dspy.Module = student if self.inplace else unpin(student.deepcopy())
        for predictor in program.predictors() if self.exclude_demos else ():
            predictor.demos = []
        program._compiled = True
        return program

    def _lms(self, student: Any, roles: lm_roles.Roles) -> Json:
        """The student's LMs. As upstream, `train_kwargs` may have an entry for each."""
        lms = {role: dict(lm) for role, lm in roles.lms.items()}
        if self._trains_by_lm:
            given = lm_roles.by_model(student, self._given_train_kwargs, "train_kwargs")
            for name, lm in lm_roles.asked_by(student).items():
                if lm.model in given:
                    lms[roles.of_predictor[name]]["train_options"] = train_options(given[lm.model])
        return lms

    def _prompt_adapter(self, student: Any) -> Json:
        """The one of the student. As upstream, `adapter` may have an entry for each LM; here all have the same."""
        given = [self._given_adapter]
        if isinstance(self._given_adapter, Mapping):
            found = lm_roles.by_model(student, self._given_adapter, "adapter")
            given = [found.get(lm.model) for lm in lm_roles.asked_by(student).values()]
        described = [_described(each or _usual()) for each in given]
        if any(each != described[0] for each in described):
            kinds = " and ".join(dict.fromkeys(each["type"] for each in described))
            raise ValueError(f"adapter: a program has one prompt adapter, but its LMs have {kinds}")
        return described[0]

    def _made(self, client: Stillhouse, body: Json, call: str) -> CompileJob:
        print(outlook(client, body), file=sys.stderr)
        job = client.compile_jobs.create(**body, metadata={CALL: call})
        print(f"{job.id} is {job.status}", file=sys.stderr)
        return job

    def _attached(self, client: Stillhouse, body: Json, call: str) -> CompileJob | None:
        """The job that this very call made before, unless it has no program and will have none, or was deleted; a paused one goes on."""
        for job in client.compile_jobs.list(metadata={CALL: call}, limit=1):
            if job.status in ("failed", "cancelled") or job.cancel_requested_at is not None:
                return None
            found = client.compile_jobs.resume(job.id) if job.status == "paused" else client.compile_jobs.retrieve(job.id)
            if found.status == "succeeded" and found.artifact is None:
                return None
            print(f"{found.id} is {found.status}: this call goes on with it; {where(body)}", file=sys.stderr)
            return found
        return None

    def _compiled(self, client: Stillhouse, student: Any, artifact_id: str) -> dspy.Module:
        folder = fetch(artifact_id, client)
        with prefixes_restored():
            compiled = load_artifact(folder, base_url=client.base_url, api_key=client.api_key, program=student)
        compiled._compiled = True
        if not self.inplace:
            say_that_it_is_new()
            return compiled
        tuned = dict(compiled.named_predictors())
        for name, predictor in student.named_predictors():
            predictor.lm, predictor.demos = tuned[name].lm, tuned[name].demos
        pin_like(student, compiled)  # it asks with the prompts that its models were trained on
        student._compiled = True
        return student


def _usual() -> dspy.Adapter:
    adapter: dspy.Adapter = dspy.settings.adapter or dspy.ChatAdapter()
    return adapter


def _described(prompt_adapter: dspy.Adapter) -> Json:
    described: Json = describe_prompt_adapter(prompt_adapter).model_dump(mode="json")
    return described


@functools.cache
def say_that_it_is_new() -> None:
    """Once in a process: upstream changes the student."""
    print("The compiled program is a new one, and the student is as it was; inplace=True changes the student itself", file=sys.stderr)


def _program(program: Any, trainset: list[Any], roles: Mapping[str, str], parcel: Parcel | None) -> Json:
    """A spec where one can be proved; else the code, sent or kept here."""
    if (spec := spec_of(program, trainset, roles)) is not None:
        return spec
    return own_program(program, trainset, roles) if parcel is None else parcel.program(program, trainset, roles)


def _metric(metric: Metric, examples: list[Any], parcel: Parcel | None) -> Json:
    if parcel is None:
        return own_metric(metric, examples)
    return parcel.metric(_keeping() if metric is _keep_all else metric)


def _more(ship_code: bool | More) -> More:
    if isinstance(ship_code, bool):
        return ()
    return [ship_code] if isinstance(ship_code, str) else ship_code


def _keep_all(example: Any, prediction: Any, trace: Any = None) -> bool:
    """Upstream keeps everything where there is no metric."""
    return True


def _keeping() -> Metric:
    """`_keep_all` for a server, which lacks this module: what a function makes travels by value."""

    def keep_all(example: Any, prediction: Any, trace: Any = None) -> bool:
        return True

    return keep_all


def _as_given(option: Any, name: str) -> Any:
    """Return an option as its user wrote it: upstream keeps one value for all LMs as a mapping that makes it for each that is looked up.

    Raises ValueError if such a mapping was given another value for an LM.
    """
    if not isinstance(option, defaultdict) or option.default_factory is None:
        return option
    common = option.default_factory()
    if any(value is not common for value in option.values()):
        raise ValueError(f"{name}: it has one value for all LMs and another for one of them; give a dict with an entry for each LM")
    return common


def _teachers(given: Any, student: Any) -> list[Any]:
    """None in a list is the student, as upstream."""
    if given is None:
        return []
    return [student if each is None else each for each in (given if isinstance(given, (list, tuple)) else [given])]


def _call_of(body: Json) -> str:
    """Return a digest that is equal for equal calls."""
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")).hexdigest()
