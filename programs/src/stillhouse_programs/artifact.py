"""Artifacts on the user's side: verify the files, build the program, point it at its tuned models, pin its prompts.

An artifact is a folder of `manifest.json`, `program.json` (dspy program state), `spec.json`, `README.md` and LoRA weights. No pickle:
what is read from it are texts, demos, and LM options from a fixed list.
"""

import contextlib
import copy
import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import dspy
from dspy.lm15 import AccessPolicy, EndpointSupport, ModelSupport, register_provider

from stillhouse_programs import prompts
from stillhouse_programs.artifact_files import ArtifactError, read_json, read_manifest, verify_files
from stillhouse_programs.build import build_program
from stillhouse_programs.constrain import CallOptions
from stillhouse_programs.grammar import NoGrammar, derive_grammar
from stillhouse_programs.pinning import CallConfig, Guard, pin, unpin
from stillhouse_programs.prove import hash_prompts
from stillhouse_programs.spec import ProgramSpec, parse_spec, required_input_names
from stillhouse_programs.spec_reference import ReferenceFault
from stillhouse_programs.tuned_provider import OFF, PROMPT_CHECK, PROVIDER, provider

logger = logging.getLogger(__name__)

KEY_VARIABLE = "STILLHOUSE_API_KEY"
LM_OPTIONS = ("temperature", "max_tokens", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "reasoning_effort")


class PromptMismatch(ArtifactError):
    """This program renders other prompts here than the ones its models were trained on."""


def load_artifact(
    folder: str | Path,
    base_url: str,
    api_key: str | None = None,
    program: dspy.Module | None = None,
    *,
    strict: bool = False,
    guard: Guard = contextlib.nullcontext,
) -> dspy.Module:
    """Return the compiled program of an artifact's folder, ready to call.

    `base_url` is the server that serves the tuned models. The key is read from STILLHOUSE_API_KEY at each call; `api_key` is used
    where it is given and that variable does not hold it. `program` is an instance of the user's own class with the same predictors,
    which is copied; without it the program is built from `spec.json`, or made by the installed package that it names. Answers are
    constrained where those of the job were. With `strict` a call that lacks an input is a TypeError; `guard` is entered around each call.

    Raises ArtifactError for a missing, changed or unknown file and for answers to be constrained that no grammar holds, and
    PromptMismatch if the prompts rendered here are not those that the models were trained on.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify_files(folder, manifest["files"])
    spec = parse_spec(read_json(folder, "spec.json"))
    loaded = _build(spec) if program is None else unpin(program.deepcopy())
    register_models(base_url, check_prompts=False)
    try:
        apply_state(loaded, read_json(folder, "program.json"), api_key)
    finally:
        register_models(base_url)
    prompt_adapter = prompts.make_prompt_adapter(manifest["prompt_adapter"])
    _check_prompts(loaded, spec, manifest, prompt_adapter)
    _make_native(loaded, manifest)
    required = required_input_names(spec) if strict else ()
    return pin(loaded, prompt_adapter, _call_options(loaded, manifest, prompt_adapter), guard=guard, required=required)


def _build(spec: ProgramSpec) -> dspy.Module:
    if spec.client is not None:
        raise ArtifactError("The program is code of your own, which is in no artifact: pass an instance as `program=`")
    try:
        return build_program(spec)
    except ReferenceFault as fault:
        raise ArtifactError(f"{fault.message}. The program is code: install its package here, or pass `program=`") from None


def register_models(base_url: str, *, check_prompts: bool = True) -> None:
    """Register the provider `tune/` with dspy, for the models that the server at `base_url` serves.

    An LM keeps the registration that stands when it is built, so programs of two servers can be used side by side. Without
    `check_prompts` its model answers instructions that it was not trained on: a loaded program has the prompt adapter of its models, and
    its instructions may be changed on purpose, as dspy's optimizers do.
    """
    address = base_url.rstrip("/")
    access = AccessPolicy(
        provider=PROVIDER,
        env_keys=(KEY_VARIABLE,),
        base_url=address if address.endswith("/v1") else f"{address}/v1",
        supports=EndpointSupport(complete=True, stream=True),
        headers=() if check_prompts else ((PROMPT_CHECK, OFF),),
    )
    # With a response schema, dspy would constrain the answers of the JSON prompt adapter, unasked and with a schema of its own.
    supports = ModelSupport(function_calling=False, reasoning=False, response_schema=False)
    register_provider(provider(access), supports=supports, replace=True)


def _check_prompts(program: dspy.Module, spec: ProgramSpec, manifest: Mapping[str, Any], prompt_adapter: dspy.Adapter) -> None:
    here = hash_prompts(program, spec, manifest["prompt_samples"], prompt_adapter)
    trained, installed = manifest.get("dspy_version"), version("dspy")
    if here != manifest["prompt_hash"]:
        raise PromptMismatch(
            f"the prompts rendered here differ from those that {manifest['program_name']} was trained on: {here}, not "
            f"{manifest['prompt_hash']}. It was made with dspy {trained}; this is dspy {installed}. A program of your own class must have "
            "the same signatures as the compiled one"
        )
    if trained != installed:
        logger.debug("artifact made with dspy %s, loaded with %s; the prompts are the same", trained, installed)


class NativeLM(dspy.LM):
    """A tuned model that tools and reasoning go beside the text to; dspy asks the LM for them when it plans a call."""

    native: tuple[str, ...] = ()

    @property
    def supports_function_calling(self) -> bool:
        return "tools" in self.native

    @property
    def supports_reasoning(self) -> bool:
        return "reasoning" in self.native


def _make_native(program: dspy.Module, manifest: Mapping[str, Any]) -> None:
    """Ask the models of the roles that were trained so as they were trained."""
    roles = {name: entry["lm_role"] for name, entry in manifest.get("predictors", {}).items()}
    made: dict[tuple[Any, tuple[str, ...]], NativeLM] = {}
    for name, predictor in program.named_predictors():
        features = tuple(manifest.get("lms", {}).get(roles.get(name), {}).get("native") or ())
        if features and predictor.lm is not None:
            if (predictor.lm, features) not in made:
                made[predictor.lm, features] = _native_lm(predictor.lm, features)
            predictor.lm = made[predictor.lm, features]


def _native_lm(lm: dspy.LM, features: tuple[str, ...]) -> NativeLM:
    # The LiteLLM route would look the model up in a table that does not know it.
    native = lm.copy(engine="lm15")
    native.__class__ = NativeLM
    native.native = features
    return cast(NativeLM, native)


def _call_options(program: dspy.Module, manifest: Mapping[str, Any], prompt_adapter: dspy.Adapter) -> dict[str, CallConfig]:
    """What the calls of each predictor take along. Answers are constrained, and bounded by default, where they were in the job."""
    entries, lms = manifest.get("predictors", {}), manifest.get("lms", {})
    configs: dict[str, CallConfig] = {}
    made: dict[Any, dspy.LM] = {}
    for name, predictor in program.named_predictors():
        entry = entries.get(name, {})
        lm = lms.get(entry.get("lm_role"), {})
        held_by = prompt_adapter if lm.get("constrain") else None
        bound = None if "max_tokens" in (lm.get("options") or {}) else entry.get("answer_tokens")
        if predictor.lm is None or (held_by is None and bound is None):
            continue
        if held_by is not None:
            _check_grammar(name, predictor, prompt_adapter)
            # The LiteLLM route, which dspy takes for options that are not its own, would drop the grammar; this engine refuses them.
            if predictor.lm not in made:
                made[predictor.lm] = predictor.lm.copy(engine="lm15")
            predictor.lm = made[predictor.lm]
        configs[name] = CallOptions(predictor.lm.model, held_by, bound)
    return configs


def _check_grammar(name: str, predictor: dspy.Predict, prompt_adapter: dspy.Adapter) -> None:
    try:
        derive_grammar(predictor.signature, prompt_adapter)
    except NoGrammar as error:
        raise ArtifactError(f"the answers of predictor {name} are to be constrained, and cannot be: {error}") from None


# ------------------------------------------------------------------ program state


def apply_state(program: dspy.Module, state: Mapping[str, Any], api_key: str | None = None) -> None:
    """Take instructions, field descriptions, demos and LMs from a dspy program state, and nothing else.

    dspy's own `load_state` sets every key of the file as an attribute. LM caches are off: a model's answers are to be its own.
    Raises ArtifactError if the predictors differ.
    """
    states, made = _by_predictor(program, state), dict[str, dspy.LM]()
    for name, predictor in program.named_predictors():
        known = states[name]
        if len(known["signature"]["fields"]) != len(predictor.signature.fields):
            raise ArtifactError(
                f"predictor {name} has {len(predictor.signature.fields)} fields here, {len(known['signature']['fields'])} there"
            )
        predictor.signature = predictor.signature.load_state(known["signature"])
        predictor.demos = [dspy.Example(demo) for demo in known["demos"]]
        predictor.lm = _lm_once(made, known["lm"], api_key) if known.get("lm") else None


def _by_predictor(program: dspy.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    here = [name for name, _ in program.named_predictors()]
    # The state of a bare Predict is not under its name.
    states = {"self": dict(state)} if "signature" in state else {name: each for name, each in state.items() if name != "metadata"}
    if set(here) != set(states):
        raise ArtifactError(f"the artifact has the predictors {sorted(states)}, this program has {sorted(here)}")
    return states


def _lm_once(made: dict[str, dspy.LM], state: Mapping[str, Any], api_key: str | None) -> dspy.LM:
    """One object for equal LMs: `get_lm` of dspy's modules tells LMs apart by identity, and BestOfN and Refine ask it."""
    options = json.dumps(state, sort_keys=True)
    if options not in made:
        made[options] = _lm(state, api_key)
    return made[options]


def _lm(state: Mapping[str, Any], api_key: str | None) -> dspy.LM:
    options = {name: state[name] for name in LM_OPTIONS if state.get(name) is not None}
    own = str(state["model"]).startswith(f"{PROVIDER}/")
    if own and api_key is not None and os.environ.get(KEY_VARIABLE) != api_key:
        options["api_key"] = api_key
    return dspy.LM(state["model"], cache=False, num_retries=int(state.get("num_retries", 3)), **options)


def program_state(program: dspy.Module, lms: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the content of `program.json` for a program: dspy program state that `Module.load` takes too.

    `lms` maps predictors to `{"model": "tune/sh-…", "temperature": …, …}`; only sampling options are kept. A predictor without
    one has no LM in the state, and uses the one the app configures.
    """
    states = {name: _state_of(predictor, (lms or {}).get(name)) for name, predictor in program.named_predictors()}
    state = states["self"] if isinstance(program, dspy.Predict) else states
    return {**state, "metadata": {"dependency_versions": {"dspy": version("dspy")}}}


def _state_of(predictor: dspy.Predict, options: Mapping[str, Any] | None) -> dict[str, Any]:
    bare = copy.copy(predictor)
    bare.lm = None
    state: dict[str, Any] = bare.dump_state(json_mode=True)
    return {**state, "lm": None if options is None else lm_state(options)}


def lm_state(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of one LM: its model string and sampling options, the cache off."""
    kept = {name: options[name] for name in LM_OPTIONS if options.get(name) is not None}
    return {"model": options["model"], "model_type": "chat", "cache": False, "num_retries": 3, **kept}
