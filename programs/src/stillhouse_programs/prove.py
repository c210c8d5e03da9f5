"""The proof that two programs are the same: a scripted run without any LM, every rendered byte of it kept and compared."""

import contextlib
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import dspy
import pydantic

from stillhouse_programs import prompts
from stillhouse_programs.build import build_program
from stillhouse_programs.fake_values import fake_value
from stillhouse_programs.not_a_spec import NotASpec
from stillhouse_programs.pinning import unpin
from stillhouse_programs.spec import PROMPT_ADAPTERS, ProgramSpec
from stillhouse_programs.types import type_name

SEEDS = range(6)
HASH_VERSION = "v1:"

# A prompt adapter as dspy's object, as a spec, by name, or None for the default; dspy is untyped.
PromptAdapterLike: TypeAlias = Any


class ScriptedAdapter(dspy.Adapter):
    """Stands in for a prompt adapter: keeps what would be sent, and answers with made-up outputs read back by the real parser."""

    def __init__(self, real: dspy.Adapter, seed: int) -> None:
        super().__init__()
        self.real = real
        self.rnd = random.Random(seed)  # noqa: S311 - made-up answers, not secrets
        self.sent: list[str] = []

    def __call__(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: list[Any], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Record one call and answer it."""
        planned = prompts.plan(self.real, lm, lm_kwargs, signature, inputs)
        messages = prompts.messages_of(self.real, planned, demos, inputs)
        self.sent.append(_text([messages, lm_kwargs]))
        outputs = {name: fake_value(field.annotation, self.rnd) for name, field in planned.output_fields.items()}
        answer = prompts.render_answer(self.real, planned, outputs)
        self.sent.append(answer)
        # Types that the prompt adapter cannot read back go on as they were made up.
        with contextlib.suppress(prompts.Unparsable):
            outputs = prompts.parse(self.real, planned, answer)
        return [{**dict.fromkeys(signature.output_fields), **outputs}]

    async def acall(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: list[Any], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Record one call and answer it."""
        return self(lm, lm_kwargs, signature, demos, inputs)


def transcript(program: dspy.Module, sample: Mapping[str, Any], prompt_adapter: dspy.Adapter, seed: int) -> list[str]:
    """Run `program` on scripted answers and return everything it sends, its answers, and its outputs or error, as text.

    `program` must be unpinned and have the LMs of `scripted_copy`.
    """
    scripted = ScriptedAdapter(prompt_adapter, seed)
    with dspy.context(adapter=scripted, trace=[], track_usage=False, callbacks=[]):
        try:
            result = program(**sample)
        except Exception as error:
            return [*scripted.sent, f"{type(error).__name__}: {error}"]
    return [*scripted.sent, _text(dict(result.items()) if isinstance(result, dspy.Prediction) else repr(result))]


def scripted_copy(program: dspy.Module) -> dspy.Module:
    """Return a copy of `program` without pins, on LMs that stand in: what a proof shows must not depend on the LMs."""
    copied = unpin(program.deepcopy())
    copied.set_lm(prompts.stand_in_lm())
    return copied


def prompt_hash(program: dspy.Module, samples: Sequence[Mapping[str, Any]], prompt_adapter: PromptAdapterLike = None) -> str:
    """Return `v1:` + SHA-256 over scripted runs of `program`: every sample with every seed, under one prompt adapter.

    Equal for equal programs in every process; a change of prompt, wiring, demos or LM options changes it. `samples` are dicts of
    the program's inputs. No LM is called.
    """
    real = prompt_adapter if isinstance(prompt_adapter, dspy.Adapter) else prompts.make_prompt_adapter(prompt_adapter)
    copied = scripted_copy(program)
    digest = hashlib.sha256()
    for sample in samples:
        for seed in SEEDS:
            digest.update(_text(transcript(copied, sample, real, seed)).encode())
    return HASH_VERSION + digest.hexdigest()


def predictors_hash(program: dspy.Module, prompt_adapter: PromptAdapterLike = None) -> str:
    """Return `v1:` + SHA-256 over the prompts of every predictor on made-up inputs: the hash of a program that is code.

    Its `forward` is not run, since that may use tools, the clock or chance; only what its predictors would say is in the hash.
    """
    real = prompt_adapter if isinstance(prompt_adapter, dspy.Adapter) else prompts.make_prompt_adapter(prompt_adapter)
    digest = hashlib.sha256()
    for name, predictor in program.named_predictors():
        for seed in SEEDS:
            digest.update(_text([name, *_prompt(predictor, real, random.Random(seed))]).encode())  # noqa: S311 - made-up inputs
    return HASH_VERSION + digest.hexdigest()


def _prompt(predictor: dspy.Predict, real: dspy.Adapter, rnd: random.Random) -> list[Any]:
    """The messages that a predictor would send, its options, and the form of its answer."""
    inputs = {name: _made_up(info.annotation, rnd) for name, info in predictor.signature.input_fields.items()}
    try:
        rendered = prompts.render(real, predictor, None, predictor.demos, inputs)
    except prompts.CannotRender:
        # A made-up value is no value of every type, of a conversation for instance; such a field is left out.
        texts = {name: inputs[name] for name, info in predictor.signature.input_fields.items() if info.annotation is str}
        rendered = prompts.render(real, predictor, None, predictor.demos, texts)
    options = {name: value for name, value in predictor.config.items() if isinstance(value, (str, int, float, bool, list))}
    outputs = {name: _made_up(info.annotation, rnd) for name, info in rendered.signature.output_fields.items()}
    answer = None
    # An output that no answer can hold (a native one) is in no text.
    with contextlib.suppress(Exception):
        answer = prompts.render_answer(real, rendered.signature, outputs)
    return [rendered.messages, options, answer]


def _made_up(annotation: Any, rnd: random.Random) -> Any:
    try:
        return fake_value(annotation, rnd)
    except pydantic.PydanticUserError:
        return f"{type_name(annotation)}-{rnd.randint(0, 99)}"


def hash_prompts(
    program: dspy.Module, spec: ProgramSpec, samples: Sequence[Mapping[str, Any]], prompt_adapter: PromptAdapterLike = None
) -> str:
    """Return the prompt hash of a program with this spec: of scripted runs, or of its predictors alone where it is code."""
    if spec.code is not None:
        return predictors_hash(program, prompt_adapter)
    return prompt_hash(program, samples, prompt_adapter)


def prove(program: dspy.Module, spec: ProgramSpec, samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Prove that `spec` rebuilds `program`: equal names, and equal bytes on all samples under every prompt adapter.

    Returns the prompt hash by prompt adapter type. Raises NotASpec with the first difference. Samples should be real rows: a
    branch that no sample reaches is not seen.
    """
    rebuilt = build_program(spec)
    names = [[name for name, _ in each.named_predictors()] for each in (program, rebuilt)]
    if sorted(names[0]) != sorted(names[1]):
        raise NotASpec(f"the rebuilt program has the predictors {names[1]}, the original {names[0]}")
    mine, theirs = scripted_copy(program), scripted_copy(rebuilt)
    for kind in sorted(PROMPT_ADAPTERS):
        real = prompts.make_prompt_adapter(kind)
        for number, sample in enumerate(samples):
            _compare(mine, theirs, sample, real, f"sample {number + 1} under the prompt adapter {kind}")
    return {kind: prompt_hash(program, samples, kind) for kind in sorted(PROMPT_ADAPTERS)}


def _compare(mine: dspy.Module, theirs: dspy.Module, sample: Mapping[str, Any], real: dspy.Adapter, where: str) -> None:
    for seed in SEEDS:
        one, two = transcript(mine, sample, real, seed), transcript(theirs, sample, real, seed)
        if one != two:
            raise NotASpec(f"the rebuilt program does something else on {where}: {_first_difference(one, two)}")


def _first_difference(one: list[str], two: list[str]) -> str:
    for mine, theirs in zip(one, two, strict=False):
        if mine != theirs:
            at = next((at for at, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
            start = max(0, at - 20)
            return f"the original has {mine[start : at + 30]!r}, the rebuilt one {theirs[start : at + 30]!r}"
    return f"the original makes {len(one) // 2} calls, the rebuilt one {len(two) // 2}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, dspy.Example):
        return value.toDict()
    return pydantic.TypeAdapter(type(value)).dump_python(value, mode="json", fallback=str)
