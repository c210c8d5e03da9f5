"""Who runs: for each role, the program, the LM behind each of its predictors, and the digest of any rollout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill.spec import CompileSpec, LmSpec, Rollouts, lms_digest, program_digest, trace_digest
from stillhouse_programs.spec import ProgramSpec, PromptAdapterSpec, canonical_json, expand


@dataclass(frozen=True)
class Cast:
    """One role of a job. `lms` maps each predictor's name to the LM that answers for it."""

    role: str
    program: ProgramSpec
    prompt_adapter: PromptAdapterSpec
    lms: Mapping[str, LmSpec]

    @cached_property
    def program_digest(self) -> str:
        return program_digest(self.program)

    @cached_property
    def lms_digest(self) -> str:
        return lms_digest(self.lms)

    @cached_property
    def slots(self) -> dict[str, LmSpec]:
        """`{slot: LM}`: predictors whose LMs are equal share a slot."""
        distinct = list(dict.fromkeys(lm.model_dump_json() for lm in self.lms.values()))
        return {f"lm{i}": LmSpec.model_validate_json(text) for i, text in enumerate(distinct)}

    @property
    def connection_ids(self) -> list[str]:
        return sorted({lm.connection_id for lm in self.lms.values()})

    def runner_body(self) -> dict[str, Any]:
        """`program`, `lms` and `prompt_adapter` of the runner's protocol; each predictor names its slot."""
        slot_of = {lm.model_dump_json(): slot for slot, lm in self.slots.items()}
        program = json.loads(canonical_json(self.program))
        for predictor in program["predictors"]:
            predictor["lm"] = slot_of[self.lms[predictor["name"]].model_dump_json()]
        lms = {slot: {"slot": slot, "options": lm.options(), "constrain": lm.constrain} for slot, lm in self.slots.items()}
        return {
            "program": program,
            "program_digest": self.program_digest,
            "lms": lms,
            "prompt_adapter": self.prompt_adapter.model_dump(mode="json"),
        }

    def trace_digest(self, inputs: str, rollout: int, prompt_hash: str) -> str:
        """`inputs` is a digest; `prompt_hash` is this program's, made at validate."""
        return trace_digest(self.program_digest, self.lms_digest, inputs, rollout, self.prompt_adapter, prompt_hash)

    def for_rollout(self, n: int, rollouts: Rollouts) -> "Cast":
        """The cast of rollout `n`: samples after the first may have a temperature of their own."""
        if n == 0 or rollouts.temperature is None:
            return self
        return Cast(self.role, self.program, self.prompt_adapter, _with(self.lms, temperature=rollouts.temperature))


def teacher_role(number: int) -> str:
    """The role under which bootstrap records teacher `number` (0-based)."""
    return f"teacher:{number}"


def teacher_cast(number: int, spec: CompileSpec, program: ProgramSpec) -> Cast:
    """Teacher `number` (0-based), who runs `program`."""
    return Cast(teacher_role(number), program, prompt_adapter(spec, program), _by_predictor(program, spec.teachers[number].lms))


def baseline_cast(spec: CompileSpec, student: ProgramSpec, *, constrained: bool) -> Cast:
    """The student before training; `constrained` tells whether its answers are held to a grammar."""
    lms = _with(_by_predictor(student, spec.lms), constrain=constrained)
    return Cast("baseline_constrained" if constrained else "baseline", student, prompt_adapter(spec, student), lms)


def compiled_cast(spec: CompileSpec, student: ProgramSpec, models: Mapping[str, str]) -> Cast:
    """The student after training. `models` maps each predictor's name to the id of its fine-tuned model."""
    lms = _by_predictor(student, spec.lms)
    tuned = {name: lm.model_copy(update={"model": models[name]}) for name, lm in lms.items()}
    return Cast("compiled", compiled_program(spec, student), prompt_adapter(spec, student), tuned)


def compiled_program(spec: CompileSpec, student: ProgramSpec) -> ProgramSpec:
    """The program whose prompts the rows are rendered with, and which the artifact holds.

    Demos: `keep` all, `drop` all, `auto` leaves out those that lack a field.
    """
    if spec.demos == "keep":
        return student
    fields = {predictor.name: [field.name for field in predictor.signature.fields] for predictor in expand(student).predictors}
    changed = [
        predictor.model_copy(update={"demos": [] if spec.demos == "drop" else _complete(predictor.demos, fields[predictor.name])})
        for predictor in student.predictors
    ]
    return student.model_copy(update={"predictors": changed})


def _complete(demos: list[dict[str, Any]], fields: list[str]) -> list[dict[str, Any]]:
    return [demo for demo in demos if all(demo.get(name) is not None for name in fields)]


def prompt_adapter(spec: CompileSpec, program: ProgramSpec) -> PromptAdapterSpec:
    """The job's prompt adapter, else the one its LMs name, else the program's, else chat."""
    named = next((lm.prompt_adapter for lm in spec.lms.values() if lm.prompt_adapter), None)
    return spec.prompt_adapter or named or program.prompt_adapter or PromptAdapterSpec()


def _by_predictor(program: ProgramSpec, lms: Mapping[str, LmSpec]) -> dict[str, LmSpec]:
    return {predictor.name: lms[predictor.lm] for predictor in program.predictors}


def _with(lms: Mapping[str, LmSpec], **changes: Any) -> dict[str, LmSpec]:
    return {name: lm.model_copy(update=changes) for name, lm in lms.items()}
