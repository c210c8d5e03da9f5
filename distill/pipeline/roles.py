"""Who runs: for each role, the program, the LM behind each of its predictors, and the digest of any rollout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from distill.rollouts.lms import runner_lm
from distill.spec import CompileSpec, LmSpec, Rollouts, lms_digest, program_digest, sampling_seed, trace_digest
from stillhouse_programs.spec import ProgramSpec, PromptAdapterSpec, canonical_json, expand

INCUMBENT = "incumbent"
DEMOS_KEPT, DEMOS_DROPPED = "demos:keep", "demos:drop"
"""The student before training, with its demos and without: the trial of `demos: auto`."""
UNTRAINED_TOKENS = 2048
"""The bound of an untrained model's answers where the user sets none. The same in every job, since jobs share its traces."""
_LEAST_MARGIN, _MOST_MARGIN = 64, 512
_TOOLS_BESIDE_TEXT = frozenset({"json", "baml"})
"""The prompt adapters that send tools beside the text unless told otherwise."""


@dataclass(frozen=True)
class Cast:
    """One role of a job. `lms` maps each predictor's name to the LM that answers for it, `answer_tokens` to the bound of its answers where
    that LM has no `max_tokens`. The bound is no part of any digest: it stops answers that would never end."""

    role: str
    program: ProgramSpec
    prompt_adapter: PromptAdapterSpec
    lms: Mapping[str, LmSpec]
    answer_tokens: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def program_digest(self) -> str:
        return program_digest(self.program)

    @property
    def prompts(self) -> str:
        """What the prompts depend on besides inputs: the name under which the plan keeps their hash."""
        return f"{self.program_digest} {prompt_adapter_name(self.prompt_adapter)}"

    @cached_property
    def lms_digest(self) -> str:
        return lms_digest(self.lms)

    @cached_property
    def slots(self) -> dict[str, LmSpec]:
        """`{slot: an LM}`: one for each model of a connection, whatever options it is asked with."""
        return {slot: next(lm for lm in self.lms.values() if _place(lm) == place) for place, slot in self._slot_of.items()}

    @cached_property
    def _slot_of(self) -> dict[tuple[str, str], str]:
        return {place: f"slot{i}" for i, place in enumerate(dict.fromkeys(_place(lm) for lm in self.lms.values()))}

    def runner_body(self) -> dict[str, Any]:
        """`program`, `lms` and `prompt_adapter` of the runner's protocol; predictors whose LMs are equal share an entry of `lms`."""
        keys = {name: (lm.model_dump_json(), self.answer_tokens.get(name)) for name, lm in self.lms.items()}
        role_of = {key: f"lm{i}" for i, key in enumerate(dict.fromkeys(keys.values()))}
        program = json.loads(canonical_json(self.program))
        for predictor in program["predictors"]:
            predictor["lm"] = role_of[keys[predictor["name"]]]
        lms = {role_of[keys[name]]: self._runner_lm(name) for name in self.lms}
        return {
            "program": program,
            "program_digest": self.prompts,
            "lms": lms,
            "prompt_adapter": self.prompt_adapter.model_dump(mode="json"),
        }

    def _runner_lm(self, predictor: str) -> dict[str, Any]:
        lm = self.lms[predictor]
        return runner_lm(lm, self._slot_of[_place(lm)], self.answer_tokens.get(predictor))

    def trace_digest(self, inputs: str, rollout: int, prompt_hash: str, program: str | None = None) -> str:
        """`inputs` is a digest; `prompt_hash` is this program's, made at validate; `program` is the digest of another of the same code."""
        return trace_digest(program or self.program_digest, self.lms_digest, inputs, rollout, self.prompt_adapter, prompt_hash)

    def seed(self, inputs: str, rollout: int) -> int:
        """What decides a rollout's samples, as far as the LM hosts obey; `inputs` is a digest."""
        return sampling_seed(self.program_digest, self.lms, inputs, rollout, self.prompt_adapter)

    def as_incumbent(self, revisions: Mapping[str, int]) -> "Cast":
        """A compiled program as another job's incumbent; `revisions` says what each connection leads to now."""
        lms = {name: lm.model_copy(update={"connection_revision": revisions[lm.connection_id]}) for name, lm in self.lms.items()}
        return replace(self, role=INCUMBENT, lms=lms)

    def for_rollout(self, n: int, rollouts: Rollouts) -> "Cast":
        """The cast of rollout `n`: samples after the first may have a temperature of their own."""
        if n == 0 or rollouts.temperature is None:
            return self
        return replace(self, lms=_with(self.lms, temperature=rollouts.temperature))

    def untrained(self, spec: CompileSpec) -> "Cast":
        """The cast with the default bound on each LM that the job trains. No other has one: models of providers may refuse it."""
        trained = {_place(lm) for lm in spec.lms.values()}
        return replace(self, answer_tokens={name: UNTRAINED_TOKENS for name, lm in self.lms.items() if _place(lm) in trained})


def tuned_tokens(longest_completion: int) -> int:
    """The default bound of a fine-tuned model's answers, from the longest completion that it was trained on."""
    return longest_completion + min(max(longest_completion, _LEAST_MARGIN), _MOST_MARGIN)


def teacher_role(number: int) -> str:
    """The role under which bootstrap records teacher `number` (0-based)."""
    return f"teacher:{number}"


def teacher_number(role: str) -> int:
    """The teacher (0-based) that a role means; evaluation's `teacher` is the first."""
    return int(role.partition(":")[2] or 0)


def teacher_roles(spec: CompileSpec) -> list[str]:
    """The roles whose rollouts become rows: one a teacher, and one where the labels teach."""
    return [teacher_role(number) for number in range(1 if spec.teacher == "labels" else len(spec.teachers))]


def teacher_cast(number: int, spec: CompileSpec, program: ProgramSpec) -> Cast:
    """Teacher `number` (0-based), who runs `program`."""
    return _cast(teacher_role(number), spec, program, _by_predictor(program, spec.teachers[number].lms))


def baseline_cast(spec: CompileSpec, student: ProgramSpec, *, constrained: bool) -> Cast:
    """The student before training; `constrained` tells whether its answers are held to a grammar.

    Compact prompts do not tell an untrained model what to write, so it is asked with the full ones; a model that was tuned before is not.
    """
    lms = _with(_by_predictor(student, spec.lms), constrain=constrained)
    cast = _cast("baseline_constrained" if constrained else "baseline", spec, student, lms)
    return _as_tuned(cast, spec) if all(lm.starts_from for lm in spec.lms.values()) else cast


def compiled_cast(spec: CompileSpec, student: ProgramSpec, models: Mapping[str, str]) -> Cast:
    """The student after training. `models` maps each predictor's name to the id of its fine-tuned model."""
    lms = _by_predictor(student, spec.lms)
    tuned = {name: lm.model_copy(update={"model": models[name]}) for name, lm in lms.items()}
    return _as_tuned(_cast("compiled", spec, compiled_program(spec, student), tuned), spec)


def rendering_cast(spec: CompileSpec, student: ProgramSpec) -> Cast:
    """The student as training rows are rendered for it: the compiled program on its untrained LMs."""
    return _as_tuned(_cast("compiled", spec, compiled_program(spec, student), _by_predictor(student, spec.lms)), spec)


def demos_cast(role: str, spec: CompileSpec, student: ProgramSpec) -> Cast:
    """The untrained student as it would be compiled with its demos, or without them."""
    way = spec.model_copy(update={"demos": "auto" if role == DEMOS_KEPT else "drop"})
    return _cast(role, spec, compiled_program(way, student), _by_predictor(student, spec.lms))


def teacher_rendering_cast(number: int, spec: CompileSpec, student: ProgramSpec, teacher: ProgramSpec) -> Cast:
    """Teacher `number` (0-based) as rows are rendered under `render: "teacher"`: its prompts and prompt adapter, for the student's LMs.

    The LMs decide which fields go through features of their own, and it is the student's that will be asked.
    """
    asked = teacher_cast(number, spec, teacher)
    return Cast(asked.role, compiled_program(spec, teacher), asked.prompt_adapter, _by_predictor(student, spec.lms))


def same_prompts(one: Cast, other: Cast) -> bool:
    """Whether predictors of one name are asked alike: the same signature, demos and prompt adapter."""

    def asked(cast: Cast) -> dict[str, Any]:
        return {predictor.name: (predictor.signature, predictor.demos) for predictor in expand(cast.program).predictors}

    return one.prompt_adapter == other.prompt_adapter and asked(one) == asked(other)


def compiled_program(spec: CompileSpec, student: ProgramSpec) -> ProgramSpec:
    """The program with the demos that rows are rendered with; of the student, it is what the artifact holds.

    Demos: `keep` all, `drop` all, `auto` leaves out those that lack a field; a job whose trial says so goes on as `drop`.
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


def prompt_adapters(lms: Mapping[str, LmSpec]) -> list[str]:
    """The different prompt adapters that LMs ask for, by name; a program has one."""
    named = [(lm.prompt, lm.prompt_adapter) for lm in lms.values() if lm.prompt_adapter]
    return sorted({prompt_adapter_name(compact(own) if prompt == "compact" else own) for prompt, own in named})


def compact(own: PromptAdapterSpec) -> PromptAdapterSpec:
    """The compact prompt adapter in place of a program's own: where tools go stays the same."""
    if own.type == "compact":
        return own
    tools = own.type in _TOOLS_BESIDE_TEXT if own.native_tools is None else own.native_tools
    return PromptAdapterSpec(type="compact", native_tools=tools or None)


def _as_tuned(cast: Cast, spec: CompileSpec) -> Cast:
    """The student with the prompts that its models are tuned on."""
    is_compact = any(lm.prompt == "compact" for lm in spec.lms.values())
    return replace(cast, prompt_adapter=compact(cast.prompt_adapter)) if is_compact else cast


def prompt_adapter_name(prompt_adapter: PromptAdapterSpec) -> str:
    """The type, and what differs from what the type does by itself."""
    chosen = prompt_adapter.model_dump(mode="json")
    named = {name.removeprefix("native_"): value for name, value in chosen.items() if name != "type"}
    return prompt_adapter.type + "".join(f"{'+' if value else '-'}{name}" for name, value in named.items())


def _cast(role: str, spec: CompileSpec, program: ProgramSpec, lms: Mapping[str, LmSpec]) -> Cast:
    named = next((lm.prompt_adapter for lm in lms.values() if lm.prompt_adapter), None)
    return Cast(role, program, named or spec.prompt_adapter or program.prompt_adapter or PromptAdapterSpec(), lms)


def _by_predictor(program: ProgramSpec, lms: Mapping[str, LmSpec]) -> dict[str, LmSpec]:
    return {predictor.name: lms[predictor.lm] for predictor in program.predictors}


def _place(lm: LmSpec) -> tuple[str, str]:
    return lm.connection_id, lm.model


def _with(lms: Mapping[str, LmSpec], **changes: Any) -> dict[str, LmSpec]:
    return {name: lm.model_copy(update=changes) for name, lm in lms.items()}
