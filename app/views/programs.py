"""A program as its readers see it."""

from __future__ import annotations

import json

from app.schemas.programs import ProgramRead
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
