"""What a runner does for each op of the protocol, once dspy is there."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dspy

from stillhouse_programs.artifact import program_state
from stillhouse_programs.build import build_program
from stillhouse_programs.bundles import UNPACKED
from stillhouse_programs.collect import Metric, Prepared, prepare_program, run_rollout, score_pair
from stillhouse_programs.describe import describe
from stillhouse_programs.door import Door
from stillhouse_programs.engine import RelayLM, make_lm
from stillhouse_programs.executor import Plan, Slice
from stillhouse_programs.grammar import NoGrammar, derive_grammar
from stillhouse_programs.labels import LabelTeacher
from stillhouse_programs.metrics import make_metric
from stillhouse_programs.preview import output_types, render_messages
from stillhouse_programs.prompts import CannotRender, describe_prompt_adapter, make_prompt_adapter
from stillhouse_programs.protocol import InfrastructureError, Json, RequestError, field
from stillhouse_programs.prove import hash_prompts
from stillhouse_programs.recorder import SignatureType
from stillhouse_programs.reference import forget, source_of
from stillhouse_programs.relay_http import AsyncRelayClient, SyncRelayClient
from stillhouse_programs.render import Rejection, render_row
from stillhouse_programs.spec import (
    ClientMetric,
    ProgramSpec,
    ReferenceFault,
    ReferenceMetric,
    SpecError,
    canonical_json,
    check_metric,
    check_row,
    input_names,
    parse_metric,
    parse_prompt_adapter,
    parse_spec,
)
from stillhouse_programs.threads import inherit_rollouts

Emit = Callable[[Json], Awaitable[None]]
T = TypeVar("T")
_MAX_WIDTH = 2048


@dataclass(frozen=True)
class Opened:
    """A program kept ready under its key."""

    spec: ProgramSpec
    prepared: Prepared


class Ops:
    """Holds the opened programs and the connections to the relay. `references` are the packages that programs may name as code."""

    def __init__(self, door: Door, references: Sequence[str] = ()) -> None:
        inherit_rollouts()
        self._references = list(references)
        self._bundles = Path.home() / "bundles"
        # dspy may be configured by one thread only; a package that does it at import does it here, whoever asks for it.
        self._importer = ThreadPoolExecutor(1, "importer")
        self._clients = (SyncRelayClient(door), AsyncRelayClient(door))
        self._opened: dict[str, Opened] = {}
        self._slices: dict[int, Slice] = {}
        self._table: dict[str, Callable[[Json, Emit], Awaitable[Json]]] = {
            "unpack": self.unpack,
            "validate": self.validate,
            "open": self.open,
            "rollouts": self.rollouts,
            "label_traces": self.label_traces,
            "render_rows": self.render_rows,
            "render": self.render,
            "call": self.call,
            "describe": self.describe,
            "try_metric": self.try_metric,
            "close": self.close,
            "finish": self.finish,
        }

    async def handle(self, request: Json, emit: Emit) -> Json:
        """Serve one request; returns what goes into its `done`. Raises RequestError."""
        try:
            return await self._table[request["op"]](request, emit)
        except ReferenceFault as fault:
            raise RequestError(fault.code, fault.message, fault.param) from fault
        except SpecError as error:
            raise RequestError("invalid_program", str(error), error.param) from error
        except CannotRender as fault:
            raise RequestError("cannot_render", str(fault), "prompt_adapter") from fault
        except InfrastructureError as trouble:
            raise RequestError(trouble.code, trouble.message) from trouble

    async def unpack(self, request: Json, emit: Emit) -> Json:
        """Put a bundle where its code can be imported; nothing of it is run."""
        digest, document = field(request, "digest", str), field(request, "document", dict)
        await self._import(lambda: UNPACKED.unpack(digest, document, self._bundles))
        return {}

    async def validate(self, request: Json, emit: Emit) -> Json:
        """Build every program and render its predictors on the samples. No LM call."""
        samples = field(request, "samples", list, [])
        student = await self._load(request)
        programs = [student, *[await self._load(teacher, request) for teacher in field(request, "teachers", list, [])]]
        if request.get("metric") is not None:
            check_metric(request["metric"], student.spec)
            await self._metric(request["metric"])
        hashes: dict[str, str] = {}
        states: dict[str, Json] = {}
        for opened, body in zip(programs, [request, *request.get("teachers", [])], strict=True):
            _check_samples(opened.spec, samples)
            render_messages(opened.spec, opened.prepared, samples[0] if samples else {})
            key = _digest_of(opened.spec, body)
            hashes[key] = hash_prompts(opened.prepared.program, opened.spec, samples, opened.prepared.prompt_adapter)
            # The student comes first: a teacher that runs the same program has other LMs, and its options are not the artifact's.
            states.setdefault(key, program_state(opened.prepared.program, _lm_options(opened.spec, body["lms"])))
        found = {"predictors": _predictor_table(student), "prompt_hash": hashes, "program_state": states}
        await emit({"event": "validated", **found, "dspy_version": dspy.__version__})
        return {}

    async def open(self, request: Json, emit: Emit) -> Json:
        key = field(request, "program_key", str)
        self._opened[key] = await self._load(request)
        return {}

    async def describe(self, request: Json, emit: Emit) -> Json:
        """What a server stores of a reference: of a program its spec, of a metric the source of its package."""
        target, kwargs, bundle = field(request, "reference", str), field(request, "kwargs", dict, {}), field(request, "bundle", str, "")
        if request.get("metric"):
            metric = {"type": "reference", "reference": target, "kwargs": kwargs, "bundle": bundle}
            await self._metric(metric, anew=True)
            await emit({"event": "described", "source": source_of(target)})
            return {}
        lms, inputs = field(request, "lms", dict, {}), field(request, "inputs", list, None)
        spec = await self._import(lambda: describe(target, kwargs, lms, inputs, self._references, bundle))
        await emit({"event": "described", "program": json.loads(canonical_json(spec))})
        return {}

    async def try_metric(self, request: Json, emit: Emit) -> Json:
        """What a metric says of answers that are sent along, its code as it is now. No LM call."""
        metric = await self._metric(field(request, "metric", dict), anew=True)
        if metric is None:
            raise RequestError("client_metric", "its caller alone can ask this metric", "metric")
        pairs = zip(field(request, "examples", list), field(request, "predictions", list), strict=True)
        await emit({"event": "tried", "scores": [await score_pair(metric, example, outputs) for example, outputs in pairs]})
        return {}

    async def close(self, request: Json, emit: Emit) -> Json:
        return {"closed": self._opened.pop(field(request, "program_key", str), None) is not None}

    async def rollouts(self, request: Json, emit: Emit) -> Json:
        opened = self._open_program(request)
        plan = Plan(
            token=field(request, "token", str),
            width=max(1, min(field(request, "width", int, 1), _MAX_WIDTH)),
            time_limit_seconds=field(request, "time_limit_seconds", (int, float), None),
            metric=await self._metric(request.get("metric")),
            min_score=float(field(request, "min_score", (int, float), 1.0)),
            stop_on_pass=field(request, "stop_on_pass", bool, False),
            waited=self._clients[1].waited,
        )
        examples = field(request, "examples", list)
        _check_examples(examples)
        threads = None if opened.prepared.runs_as_task else ThreadPoolExecutor(plan.width, "program")
        piece = self._slices[request["id"]] = Slice(opened.prepared, plan, emit, threads)
        try:
            return await piece.run(examples)
        finally:
            del self._slices[request["id"]]
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)

    async def finish(self, request: Json, emit: Emit) -> Json:
        """Begin no further rollout of a request; what has begun goes on to its end."""
        piece = self._slices.get(field(request, "target", int))
        if piece is not None:
            piece.finish()
        return {"finishing": piece is not None}

    async def label_traces(self, request: Json, emit: Emit) -> Json:
        """The traces of rows whose labels teach: no LM, no metric, and a program that need not be open."""
        teacher = LabelTeacher(parse_spec(field(request, "program", dict)))
        examples = field(request, "examples", list)
        for example in examples:
            trace = await teacher.trace(example["inputs"], example["labels"])
            await emit({"event": "trace", "index": example["index"], "n": 0, "trace": trace})
        return {"counts": {"traces": len(examples)}}

    async def render_rows(self, request: Json, emit: Emit) -> Json:
        """Training rows of stored traces, rendered for this program: the student."""
        opened = self._open_program(request)
        demos = request.get("demos")
        counts = {"rows": 0, "rejected": 0}
        for item in field(request, "traces", list):
            for at, call in enumerate(item["trace"]["calls"]):
                place = {"trace_digest": item["trace_digest"], "call": at, "predictor": call["predictor"]}
                row = render_row(opened.prepared.program, call["predictor"], call, opened.prepared.prompt_adapter, demos)
                if isinstance(row, Rejection):
                    counts["rejected"] += 1
                    await emit({"event": "rejected", **place, "reason": row.reason, "message": row.message})
                else:
                    counts["rows"] += 1
                    await emit({"event": "row", **place, **row.as_json(), "digest": row.digest})
        return {"counts": counts}

    async def render(self, request: Json, emit: Emit) -> Json:
        """The messages of each predictor. What an LM would say stands as its reference in braces; so do inputs where none are given."""
        opened = self._open_program(request)
        if "inputs" in request:
            inputs = field(request, "inputs", dict)
            _check_inputs(opened.spec, inputs)
        else:
            inputs = {name: f"{{input.{name}}}" for name in input_names(opened.spec)}
        await emit({"event": "rendered", "messages": render_messages(opened.spec, opened.prepared, inputs)})
        return {}

    async def call(self, request: Json, emit: Emit) -> Json:
        """One run of a program for somebody who waits for the answer."""
        opened = self._open_program(request)
        inputs = field(request, "inputs", dict)
        _check_inputs(opened.spec, inputs)
        limit = field(request, "time_limit_seconds", (int, float), 120)
        trace = await run_rollout(opened.prepared, inputs, token=field(request, "token", str), time_limit_seconds=limit)
        if trace["status"] != "ok":
            raise RequestError(f"program_{trace['status']}", f"{trace['error']['type']}: {trace['error']['message']}")
        usage = {name: count for name, count in trace["usage"].items() if name != "lms"}
        await emit({"event": "called", "outputs": trace["outputs"], "usage": usage, "seconds": trace["seconds"]})
        return {}

    def _open_program(self, request: Json) -> Opened:
        key = field(request, "program_key", str)
        if key not in self._opened:
            raise RequestError("not_open", f"no open program {key}", "program_key")
        return self._opened[key]

    async def _load(self, body: Json, defaults: Json | None = None) -> Opened:
        """Build a program with its LMs and prompt adapter. Raises SpecError, RequestError."""
        spec = parse_spec(field(body, "program", dict))
        chosen = body.get("prompt_adapter") or (defaults or {}).get("prompt_adapter") or spec.prompt_adapter
        prompt_adapter = make_prompt_adapter(parse_prompt_adapter(chosen))
        program = build_program(spec) if spec.reference is None else await self._import(lambda: build_program(spec, self._references))
        self._set_lms(program, spec, field(body, "lms", dict), prompt_adapter)
        return Opened(spec, prepare_program(program, prompt_adapter, output_types(program, spec)))

    async def _metric(self, metric: Json | None, anew: bool = False) -> Metric | None:
        if metric is None:
            return None
        parsed = parse_metric(metric)
        if isinstance(parsed, ClientMetric):
            return None  # its caller asks it
        if not isinstance(parsed, ReferenceMetric):
            return make_metric(parsed)
        if anew and not parsed.bundle:
            await self._import(lambda: forget(parsed.reference))
        return await self._import(lambda: make_metric(parsed, self._references))

    async def _import(self, work: Callable[[], T]) -> T:
        """Run what imports and calls the code of a reference."""
        return await asyncio.get_running_loop().run_in_executor(self._importer, work)

    def _set_lms(self, program: dspy.Module, spec: ProgramSpec, lms: Json, prompt_adapter: dspy.Adapter) -> None:
        made = {role: self._lm(role, lm, prompt_adapter) for role, lm in lms.items()}
        roles = {predictor.name: predictor.lm for predictor in spec.predictors}
        for name, predictor in program.named_predictors():
            role = roles[name]
            if role not in made:
                raise RequestError("missing_lm", f"predictor {name} needs the LM {role}, which `lms` does not have", f"lms.{role}")
            predictor.lm = made[role]
            if lms[role].get("constrain"):
                _check_grammar(name, predictor.signature, prompt_adapter)

    def _lm(self, role: str, lm: Json, prompt_adapter: dspy.Adapter) -> RelayLM:
        options = {name: value for name, value in (lm.get("options") or {}).items() if value is not None}
        constrain = (lambda signature: derive_grammar(signature, prompt_adapter)) if lm.get("constrain") else None
        return make_lm(lm.get("slot") or role, options, self._clients, constrain, lm.get("native") or (), lm.get("answer_tokens"))


def _check_grammar(name: str, signature: SignatureType, prompt_adapter: dspy.Adapter) -> None:
    try:
        derive_grammar(signature, prompt_adapter)
    except NoGrammar as fault:
        raise RequestError("cannot_constrain", f"predictor {name}: {fault}", "lms") from fault


def _digest_of(spec: ProgramSpec, body: Json) -> str:
    """The caller's name for the program, or the digest of its canonical form."""
    given = body.get("program_digest")
    return str(given) if given else "v1:" + hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def _predictor_table(opened: Opened) -> list[Json]:
    kind = describe_prompt_adapter(opened.prepared.prompt_adapter).type
    return [{"name": predictor.name, "lm": predictor.lm, "prompt_adapter": kind} for predictor in opened.spec.predictors]


def _lm_options(spec: ProgramSpec, lms: Json) -> Json:
    """What a program state says of each predictor's LM; who packages an artifact fills in the model."""
    return {predictor.name: {**(lms[predictor.lm].get("options") or {}), "model": ""} for predictor in spec.predictors}


def _check_samples(spec: ProgramSpec, samples: list[Any]) -> None:
    for at, sample in enumerate(samples):
        _check_inputs(spec, sample, f"samples[{at}]")


def _check_inputs(spec: ProgramSpec, inputs: Any, where: str = "inputs") -> None:
    faults = check_row(spec, inputs)
    if faults:
        raise RequestError("invalid_inputs", f"{where}.{faults[0].field}: {faults[0].message}", f"{where}.{faults[0].field}")


def _check_examples(examples: list[Any]) -> None:
    for at, example in enumerate(examples):
        whole = isinstance(example, dict) and {"index", "inputs", "rollouts"} <= example.keys()
        if not whole or not all(isinstance(rollout, dict) and "n" in rollout for rollout in example["rollouts"]):
            raise RequestError("bad_request", "an example has index, inputs and rollouts, each with its n", f"examples[{at}]")
