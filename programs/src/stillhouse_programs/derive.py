"""A spec from a live program: its predictors are read, and `forward` is run once on symbols to see the wiring."""

import asyncio
import contextvars
import json
import sysconfig
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pydantic

from stillhouse_programs import prompts, symbols
from stillhouse_programs.not_a_spec import NotASpec
from stillhouse_programs.pinning import pinned_prompt_adapter, unpin
from stillhouse_programs.spec import DEFAULT_PROMPT_ADAPTER, ProgramSpec, SpecError, expand, parse_spec
from stillhouse_programs.symbols import Symbol, symbol
from stillhouse_programs.types import schema_to_type, type_name, type_to_schema

DEFAULT_LM = "student"
_REFUSED_MODULES = frozenset(
    {"ReAct", "ReActV2", "ProgramOfThought", "CodeAct", "BestOfN", "Refine", "RLM", "Parallel", "MultiChainComparison"}
)
_OWN_ARGUMENTS = frozenset({"config", "signature", "demos", "lm"})
_LIBRARIES = tuple(
    Path(path).resolve() for path in (*(Path(str(module.__file__)).parent for module in (dspy, pydantic)), Path(__file__).parent)
)
_STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"]).resolve()


def derive(program: dspy.Module, sample: Mapping[str, Any], lm_names: Mapping[str, str] | None = None) -> ProgramSpec:
    """Derive the spec of `program`, expanded.

    `sample` is one dict of inputs: its names and the types of its values count, not the values. `lm_names` maps predictors to LM
    roles, `student` if left out. Raises NotASpec with the line of the user's code that a spec cannot express. The result is to be
    proved with `prove`: a look at the clock or an `is None` leaves no trace on symbols.

    The prompt adapter is the one that the program would run with here: pinned to it, or set with `dspy.configure(adapter=…)`. The
    spec names none for the default. Raises NotASpec for one that no rows can be rendered for.
    """
    roles = lm_names or {}
    _check_modules(program)
    body: dict[str, Any] = {
        "spec_version": 1,
        "predictors": [_predictor(name, each, roles.get(name, DEFAULT_LM)) for name, each in program.named_predictors()],
    }
    if not isinstance(program, dspy.Predict):
        body |= _Trace(program, sample).wiring()
    try:
        return expand(parse_spec(body | _prompt_adapter(program)))
    except SpecError as error:
        raise NotASpec(error.message) from None


def _prompt_adapter(program: dspy.Module) -> dict[str, Any]:
    found = pinned_prompt_adapter(program) or dspy.settings.adapter
    described = DEFAULT_PROMPT_ADAPTER if found is None else prompts.describe_prompt_adapter(found)
    return {} if described == DEFAULT_PROMPT_ADAPTER else {"prompt_adapter": described}


def _check_modules(program: dspy.Module) -> None:
    if not program.named_predictors():
        raise NotASpec(f"{type(program).__name__} has no predictors")
    for _, part in program.named_sub_modules():
        if type(part).__name__ in _REFUSED_MODULES:
            raise NotASpec(f"{type(part).__name__} cannot travel as a spec")
    for name, predictor in program.named_predictors():
        if type(predictor) is not dspy.Predict and pinned_prompt_adapter(predictor) is None:
            raise NotASpec(f"predictor {name} is a {type(predictor).__name__}, not a plain Predict")


# ------------------------------------------------------------------ predictors


def _predictor(name: str, predictor: dspy.Predict, role: str) -> dict[str, Any]:
    if predictor.fields or predictor.callbacks:
        raise NotASpec(f"predictor {name} has decision criteria or callbacks, which cannot travel")
    fields = [_field(name, each, info) for each, info in predictor.signature.fields.items()]
    body: dict[str, Any] = {"name": name, "lm": role, "signature": {"instructions": predictor.signature.instructions, "fields": fields}}
    if predictor.config:
        body["config"] = predictor.config
    if predictor.demos:
        body["demos"] = [{key: _jsonable(value) for key, value in dict(demo).items()} for demo in predictor.demos]
    return body


def _field(predictor: str, name: str, info: Any) -> dict[str, Any]:
    extra = info.json_schema_extra
    body = {"name": name, "role": extra["__dspy_field_type"], "schema": _schema(predictor, name, info.annotation), "desc": extra["desc"]}
    if not info.is_required():
        body["default"] = _jsonable(info.get_default(call_default_factory=True))
    if extra.get("constraints"):
        body["constraints"] = extra["constraints"]
    return body


def _schema(predictor: str, name: str, annotation: Any) -> dict[str, Any]:
    try:
        schema = type_to_schema(annotation)
    except NotASpec as error:
        raise NotASpec(f"predictor {predictor}, field {name}: {error.reason}") from None
    before, after = prompts.annotation_name(annotation), prompts.annotation_name(schema_to_type(schema, name))
    if before != after:
        raise NotASpec(f"predictor {predictor}, field {name}: the type {before} would come back as {after}")
    return schema


def _jsonable(value: Any) -> Any:
    if isinstance(value, dspy.Example):
        return value.toDict()
    try:
        return pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")
    except (pydantic.PydanticUserError, ValueError):
        raise NotASpec(f"a {type_name(type(value))} in a demo or default cannot travel as JSON") from None


# ------------------------------------------------------------------ wiring


class _Trace:
    """One run of `forward` on symbols, with every predictor replaced by a recorder."""

    def __init__(self, program: dspy.Module, sample: Mapping[str, Any]) -> None:
        self.program = unpin(program.deepcopy())
        self.inputs = {name: symbol(f"input.{name}", type(value)) for name, value in sample.items()}
        self.known = {f"input.{name}" for name in sample}
        self.steps: list[dict[str, Any]] = []
        self.settings = self._switched()

    def wiring(self) -> dict[str, Any]:
        for name, predictor in self.program.named_predictors():
            self._record(name, predictor)
        try:
            result = self._run()
        except NotASpec as error:
            raise NotASpec(_line_of(error) + error.reason) from None
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise NotASpec(f"{_line_of(error)}{type(error).__name__} while tracing: {str(error)[:120]}") from None
        if not isinstance(result, dspy.Prediction):
            kind = "a bare value" if isinstance(result, (Symbol, str)) else type_name(type(result))
            raise NotASpec(f"forward() returns {kind}, not a dspy.Prediction")
        return {"steps": self.steps, "outputs": {name: self._reference(value, f"output {name}") for name, value in result.items()}}

    def _run(self) -> Any:
        if callable(getattr(type(self.program), "forward", None)):
            return self.program(**self.inputs)
        # Async only; in a thread of its own, since a notebook already runs a loop.
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(context.run, asyncio.run, self.program.acall(**self.inputs)).result()

    def _record(self, name: str, predictor: dspy.Predict) -> None:
        own_lm = predictor.lm

        def forward(**arguments: Any) -> dspy.Prediction:
            if self._switched() != self.settings or predictor.lm is not own_lm:
                raise NotASpec(f"{name}: the LM or prompt adapter is switched inside forward()")
            return self._call(name, predictor, arguments)

        async def aforward(**arguments: Any) -> dspy.Prediction:
            return forward(**arguments)

        predictor.forward, predictor.aforward = forward, aforward

    def _call(self, name: str, predictor: dspy.Predict, arguments: dict[str, Any]) -> dspy.Prediction:
        own = sorted(_OWN_ARGUMENTS & set(arguments))
        if own:
            raise NotASpec(f"{name} is called with {own[0]}= inside forward()")
        extra = sorted(set(arguments) - set(predictor.signature.input_fields))
        if extra:
            raise NotASpec(f"{name} is called with {extra[0]}=, which is not an input field")
        step = f"s{len(self.steps) + 1}"
        args = {field: self._reference(value, f"{name}({field}=…)") for field, value in arguments.items()}
        self.steps.append({"id": step, "predictor": name, "args": args})
        outputs = predictor.signature.output_fields
        self.known.update(f"{step}.{field}" for field in outputs)
        return dspy.Prediction(**{field: symbol(f"{step}.{field}", info.annotation) for field, info in outputs.items()})

    def _reference(self, value: Any, where: str) -> dict[str, Any]:
        if isinstance(value, Symbol):
            return {"from": value.reference}
        if isinstance(value, str) and symbols.is_marked(value):
            return {"template": self._template(value, where)}
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            kind = type_name(type(value))
            raise NotASpec(f"{where} gets a {kind}, which is neither an input, an output nor a JSON constant") from None
        return {"value": value}

    def _template(self, text: str, where: str) -> list[str | dict[str, str]]:
        changed = NotASpec(f"{where}: the text around a run-time value is changed after it was put in")
        try:
            pieces = symbols.split_marked(text)
        except ValueError:
            raise changed from None
        references = [piece["from"] for piece in pieces if isinstance(piece, dict)]
        if any(".".join(each.split(".")[:2]) not in self.known for each in references):
            raise changed
        return pieces

    @staticmethod
    def _switched() -> tuple[int, int]:
        return id(dspy.settings.lm), id(dspy.settings.adapter)


def _line_of(error: BaseException) -> str:
    """`support.py:14 'if c.category == "billing":' ` for the innermost line of the user's own code, or an empty text."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if not frames:
        return ""
    line = (frames[-1].line or "").strip()
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} '{line[:80]}' "


def _is_users(filename: str) -> bool:
    path = Path(filename).resolve()
    if any(path.is_relative_to(library) for library in _LIBRARIES):
        return False
    return not path.is_relative_to(_STANDARD_LIBRARY) or "site-packages" in path.parts
