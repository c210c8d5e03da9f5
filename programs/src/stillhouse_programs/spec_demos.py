"""Which demos a student runs and is trained with. `render` says the same of live predictors."""

from typing import Literal, TypeAlias

from stillhouse_programs.spec_errors import SpecError
from stillhouse_programs.spec_models import JsonObject, PredictorSpec, ProgramSpec

DemosMode: TypeAlias = Literal["keep", "drop", "auto"]


def with_demos(spec: ProgramSpec, mode: DemosMode | None = None) -> ProgramSpec:
    """Return an expanded spec with the demos it has after it is compiled: what rows are rendered with, and what the artifact holds.

    `auto` (and None) leaves out incomplete demos, those without a value for every field; `drop` leaves out all; `keep` keeps all and
    raises SpecError for an incomplete one, from which dspy would render an answer of "Not supplied for this particular example."
    """
    predictors = [each.model_copy(update={"demos": _kept(each, mode, f"predictors[{at}]")}) for at, each in enumerate(spec.predictors)]
    return spec.model_copy(update={"predictors": predictors})


def _kept(predictor: PredictorSpec, mode: DemosMode | None, path: str) -> list[JsonObject]:
    if mode == "drop":
        return []
    names = [field.name for field in predictor.signature.fields]
    incomplete = [at for at, demo in enumerate(predictor.demos) if any(demo.get(name) is None for name in names)]
    if mode == "keep" and incomplete:
        place = f"{path}.demos[{incomplete[0]}]"
        raise SpecError(f"{place}: predictor {predictor.name} has an incomplete demo; `auto` leaves such demos out", place)
    return [demo for at, demo in enumerate(predictor.demos) if at not in incomplete]
