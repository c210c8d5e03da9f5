"""A work item, worked off in this process: the same collector and executor as the server's runner, with the gateway behind its LMs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import dspy

from stillhouse._client import Stillhouse
from stillhouse._exceptions import (
    APIError,
    APIStatusError,
    BadRequestError,
    BodyTooLargeError,
    ConflictError,
    StillhouseError,
    UnprocessableEntityError,
)
from stillhouse._wait import patiently
from stillhouse.dropin.gateway import AWAY, AsyncGateway, SyncGateway
from stillhouse.dropin.originals import Originals
from stillhouse.dropin.sending import Outbox
from stillhouse.types import ExampleToRun, ProgramToRun, WorkItem
from stillhouse_programs.collect import Metric, Prepared, prepare_program
from stillhouse_programs.describe import take_demos
from stillhouse_programs.engine import RelayLM, make_lm
from stillhouse_programs.executor import Plan, Slice
from stillhouse_programs.grammar import derive_grammar
from stillhouse_programs.metrics import make_metric
from stillhouse_programs.pinning import unpin
from stillhouse_programs.preview import output_types
from stillhouse_programs.prompts import make_prompt_adapter
from stillhouse_programs.spec import parse_prompt_adapter, parse_spec

Json = dict[str, Any]
FLUSH = 50
"""So many traces are sent at once, and at each beat what there is; what is not sent yet, a crash repeats."""
ROUNDS = 3
PAUSE_SECONDS = 2.0
_REFUSED = frozenset({"unauthorized", "model_not_found"})
_OF_HOST = AWAY | {"unavailable", "rate_limited", "quota_exhausted", "timeout"}
_OVER = frozenset({"lost_lease", "cancel_requested"})
"""What ends an item without being its trouble."""
_REFUSALS = (ConflictError, BadRequestError, BodyTooLargeError, UnprocessableEntityError)
"""Of what was made: asking again meets them again."""


class Refused(Exception):
    """The gateway refused the calls of the program, and would refuse every further one."""


class Interrupted(StillhouseError):
    """Trouble that all examples met. What was made is sent; the same call goes on with it."""


@dataclass
class ItemRun:
    """One item. `run` is called from a thread of its own; `stop` lets what has begun end, and begins nothing new."""

    client: Stillhouse
    item: WorkItem
    program: dspy.Module
    metric: Metric | None
    """The caller's own; None where the job's is built in."""
    originals: Originals = field(default_factory=Originals)
    done: int = 0
    _troubles: dict[int, tuple[str, str]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _slice: Slice | None = None
    _outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        self._outbox = Outbox(self.client, self.item.job)

    def stop(self) -> None:
        self._stopped.set()
        if self._slice is not None:
            self._slice.finish()

    def run(self) -> None:
        """Make what is missing, send it, and publish; after a stop, give the item back. Raises Refused, Interrupted, APIError."""
        ended = threading.Event()
        beats = threading.Thread(target=self._beat, args=(ended,), name=f"beat-{self.item.id}", daemon=True)
        beats.start()
        try:
            asyncio.run(self._run())
            if self._stopped.is_set():
                self.client.work_items.release(self.item)
            else:
                self._publish()
        except _REFUSALS as fault:
            self._give_up(fault)
        except BaseException:
            with suppress(APIError):
                self.client.work_items.release(self.item)
            raise
        finally:
            ended.set()
            beats.join()

    def _give_up(self, fault: APIStatusError) -> None:
        """Give the item back after a refusal that no repetition would mend. A later claim may; if none does, the job fails with it."""
        error = None if fault.code in _OVER else {"code": fault.code or "refused", "message": str(fault)[:2000]}
        with suppress(APIError):
            self.client.work_items.release(self.item, error=error)

    def _publish(self) -> None:
        self._outbox.raise_common_refusal()
        refused = {row: (fault.code or "refused", str(fault)) for row, fault in self._outbox.refused.items()}
        without = sorted({**self._troubles, **refused}.items())
        undecided = [{"row": row, "code": code, "message": text[:2000]} for row, (code, text) in without]
        patiently(lambda: self.client.work_items.publish(self.item, undecided=undecided), self._stopped.wait)

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(self.item.beat_seconds):
            try:
                told = self.client.work_items.beat(self.item, done=self.done)
            except ConflictError:
                self.stop()  # somebody else may hold it
                return
            except APIError:
                continue  # the lease outlives a few beats
            if told.cancel or told.pause:
                self.stop()
            with suppress(APIError):  # it stays, and is sent again
                self._outbox.send()

    async def _run(self) -> None:
        sync, tasks = SyncGateway(self.client), AsyncGateway(self.client)
        try:
            for round_number in range(ROUNDS):
                self._troubles.clear()
                for part in self.item.programs:
                    await self._run_part(part, self._prepared(part, (sync, tasks)))
                self._refuse()
                if not self._troubles or self._stopped.is_set():
                    return
                if AWAY & {code for code, _ in self._troubles.values()}:
                    break
                await asyncio.sleep(PAUSE_SECONDS * (round_number + 1))
            self._settle_untried()
        finally:
            try:
                await asyncio.to_thread(self._flush)
            finally:
                sync.close()
                await tasks.close()

    def _refuse(self) -> None:
        for code, message in self._troubles.values():
            if code in _REFUSED:
                raise Refused(f"the server's gateway refused the calls of {self.item.role}: {message}")

    def _settle_untried(self) -> None:
        """Trouble of a few examples leaves them out. Trouble that stopped the others too is no example's: an LM host's is told of them all,
        for the server to have them wait. Raises Interrupted for any other."""
        untried = [each for each in self._waiting() if any(rollout["score"] is None for rollout in each["rollouts"])]
        code, message = next(iter(self._troubles.values()))
        if untried and code in _OF_HOST:
            self._troubles.update({each["index"]: (code, message) for each in untried})
        elif untried:
            raise Interrupted(
                f"{len(self._troubles) + len(untried)} of {len(self.item.examples)} examples of {self.item.role} could not be run "
                f"({code}: {message}); what was made is kept, and the same call goes on with it"
            )

    def _prepared(self, part: ProgramToRun, gateway: tuple[SyncGateway, AsyncGateway]) -> Prepared:
        """A copy of the program as its role runs it: demos and LMs are the job's, all else is the caller's."""
        spec = parse_spec(part.program)
        prompt_adapter = make_prompt_adapter(parse_prompt_adapter(part.prompt_adapter))
        program = unpin(self.program.deepcopy())  # a compiled one may be compiled again
        take_demos(program, spec)
        made = {role: _lm_of(lm, prompt_adapter, gateway) for role, lm in part.lms.items()}
        roles = {predictor.name: predictor.lm for predictor in spec.predictors}
        for name, predictor in program.named_predictors():
            predictor.lm = made[roles[name]]  # one object for a role: `get_lm` tells LMs apart by identity
        return prepare_program(program, prompt_adapter, output_types(program, spec))

    async def _run_part(self, part: ProgramToRun, prepared: Prepared) -> None:
        examples = [_of_part(example, part.rollouts) for example in self._waiting()]
        if not examples or self._stopped.is_set():
            return
        metric = self.metric or make_metric(self.item.metric)
        plan = Plan("", self.item.width, None, metric, self.item.min_score, self.item.stop_on_pass)
        threads = None if prepared.runs_as_task else ThreadPoolExecutor(self.item.width, "program")
        self._slice = Slice(prepared, plan, self._take, threads)
        if self._stopped.is_set():
            self._slice.finish()
        try:
            await self._slice.run(examples)
        finally:
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._flush)  # what is not sent yet is no refusal
        self._outbox.raise_common_refusal()

    def _waiting(self) -> list[Json]:
        """The examples that are not over: with `stop_on_pass` one that has passed is."""
        return [
            {"index": example.row, **self._values(example)}
            for example in self.item.examples
            if example.row not in self._troubles and not (self.item.stop_on_pass and _has_passed(example.rollouts))
        ]

    def _values(self, example: ExampleToRun) -> Json:
        """Inputs and labels as the caller's own code gets them from dspy, beside stored traces too; a built-in metric compares JSON."""
        row = {**example.inputs, **example.labels}
        inputs = self.originals.values(row, example.inputs)
        labels = example.labels if self.metric is None else self.originals.values(row, example.labels)
        rollouts = [{**each, "trace": each["trace"] and {**each["trace"], "inputs": inputs}} for each in example.rollouts]
        return {"inputs": inputs, "labels": labels, "rollouts": rollouts}

    async def _take(self, event: Json) -> None:
        """Keep what the executor tells, in the item too: a later round goes on from there."""
        kind = event["event"]
        if kind == "infra":
            self._troubles[event["index"]] = (event["code"], event["message"])
        elif kind == "example_done":
            self.done += 1
        elif kind in ("trace", "score"):
            self._keep(event, kind)
            if len(self._outbox) >= FLUSH:
                await asyncio.to_thread(self._flush)
                if self._outbox.common_refusal is not None and self._slice is not None:
                    self._slice.finish()

    def _keep(self, event: Json, kind: str) -> None:
        example = next(each for each in self.item.examples if each.row == event["index"])
        rollout = next(each for each in example.rollouts if each["n"] == event["n"])
        rollout[kind] = event[kind]
        place = {"role": self.item.role, "row": event["index"], "rollout": event["n"]}
        if kind == "trace":
            self._outbox.add_trace({**place, **{name: value for name, value in event["trace"].items() if name != "inputs"}})
        elif rollout["trace"]["status"] == "ok":
            score = {name: value for name, value in event["score"].items() if name != "passed"}
            self._outbox.add_score({**place, **score, "outputs": rollout["trace"]["outputs"]})

    def _flush(self) -> None:
        patiently(self._outbox.send, self._stopped.wait)


def _lm_of(lm: Mapping[str, Any], prompt_adapter: dspy.Adapter, gateway: tuple[SyncGateway, AsyncGateway]) -> RelayLM:
    constrain = (lambda signature: derive_grammar(signature, prompt_adapter)) if lm.get("constrain") else None
    return make_lm(lm["model"], dict(lm["options"]), gateway, constrain, lm.get("native") or (), lm.get("answer_tokens"))


def _of_part(example: Json, numbers: Sequence[int]) -> Json:
    return {**example, "rollouts": [rollout for rollout in example["rollouts"] if rollout["n"] in numbers]}


def _has_passed(rollouts: Sequence[Mapping[str, Any]]) -> bool:
    return any(rollout["score"] is not None and rollout["score"]["passed"] for rollout in rollouts)
