"""Which prompts the student of a job is tuned on: `prompt` of the job and of its LMs."""

from __future__ import annotations

from distill.errors import Invalid
from distill.spec import CompileSpec


def with_prompts(spec: CompileSpec) -> CompileSpec:
    """Choose for each LM that leaves it open. Compact prompts have no demos unless these are kept. Raises Invalid."""
    for name, lm in spec.lms.items():
        if lm.prompt == "compact" and spec.render == "teacher":
            param = f"lms.{name}.prompt" if spec.prompt != "compact" else "prompt"
            message = f'{param}: rows with the prompts of the teacher (render: "teacher") are not compact; use render: "student"'
            raise Invalid(message, code="prompts_of_the_teacher", param=param)
    chosen = "compact" if why_full(spec) is None else "full"
    lms = {name: lm.model_copy(update={"prompt": chosen}) if lm.prompt == "auto" else lm for name, lm in spec.lms.items()}
    is_compact = any(lm.prompt == "compact" for lm in lms.values())
    return spec.model_copy(update={"lms": lms, "demos": "drop" if is_compact and spec.demos == "auto" else spec.demos})


def why_full(spec: CompileSpec) -> str | None:
    """Why `prompt: "auto"` means the full prompts; None where it means the compact ones."""
    if spec.render == "teacher":
        return "rows have the prompts of the teacher"
    if spec.demos == "keep":
        return "the demos are kept"
    if any(lm.starts_from for lm in spec.lms.values()):
        return "a model that is trained further may have been tuned on full prompts"
    return None
