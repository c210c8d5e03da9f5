"""A program as its readers see it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.hosting import Preview
from app.schemas.programs import ProgramMade, ProgramRead, RenderedCall
from app.views.convert import seconds
from distill.catalog import programs
from distill.catalog.models import Program
from stillhouse_programs.spec import input_names, lm_roles, output_names, predictor_names


def program_read(row: Program) -> ProgramRead:
    """The program with what its spec says about inputs, outputs, predictors and LM roles."""
    spec = programs.spec_of(row)
    return ProgramRead(
        id=row.id,
        created_at=seconds(row.created_at),
        name=row.name,
        digest=row.digest,
        inputs=input_names(spec),
        outputs=output_names(spec),
        predictors=predictor_names(spec),
        lms=lm_roles(spec),
        spec=json.loads(row.spec),
        metadata=row.user_metadata,
    )


def program_made(row: Program, preview: Preview) -> ProgramMade:
    """The program with its prompts."""
    prompts = None if preview.messages is None else rendered(preview.messages)
    return ProgramMade(**program_read(row).model_dump(), prompts=prompts, note=preview.why_not)


def rendered(messages: Mapping[str, list[dict[str, Any]]]) -> list[RenderedCall]:
    """What a runner says of the prompts of predictors, by predictor."""
    return [RenderedCall(predictor=name, messages=sent) for name, sent in messages.items()]
