"""Whether a chat's prompt is one that the fine-tuned model was trained on: to any other it answers noise."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Annotated, Any, Literal

from fastapi import Header

from app.errors import ApiError
from distill.catalog import artifacts
from distill.catalog.targets import Resolved
from distill.db import unit_of_work
from distill.messages import system_prompt_digest

HEADER = "stillhouse-prompt-check"
PromptCheck = Annotated[Literal["off"] | None, Header(alias=HEADER, description="`off`: take any prompt for a compiled program's model")]


def check(found: Resolved, first: Any, param: str) -> None:
    """Raises ApiError 400 `not_a_rendered_prompt`; only for a model that knows its system prompts. `first` is the first message; None where
    there are no messages, as in a text completion."""
    if found.system_prompts and not _is_rendered(found.system_prompts, first):
        raise _refusal(str(found.job_id), param)


def _is_rendered(known: Set[str], first: Any) -> bool:
    if not isinstance(first, Mapping) or first.get("role") not in ("system", "developer"):
        return False
    return system_prompt_digest(_text(first.get("content"))) in known


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content)


def _refusal(job_id: str, param: str) -> ApiError:
    with unit_of_work("api") as session:
        artifact = artifacts.of_job(session, job_id)
    address = f"/v1/artifacts/{artifact.id}/call" if artifact else f"…/call of the artifact that /v1/compile_jobs/{job_id} makes"
    message = (
        "This model answers the prompts of its program alone, and this is none of them: its system message is another. "
        f'POST {address} with {{"inputs": {{…}}}} renders it, and so does stillhouse.load. To ask all the same, send `{HEADER}: off`.'
    )
    return ApiError(400, "not_a_rendered_prompt", message, param=param)
