"""LMs and teachers of a compile job's request. The other parts are the compile spec's own (`distill.spec`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.schemas.common import Body
from app.schemas.programs import ProgramDocument, PromptAdapterIn, StoredProgram
from distill.spec import NativeFeature, Prompt
from distill.spec_training import TrainOptions

LmName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]


class LmIn(Body):
    """One LM role: where it answers, what is trained, how it generates."""

    connection: str | None = Field(default=None, description="A connection's name; the default student or teacher connection if absent")
    model: str | None = None
    base_model: str | None = None
    trainer: str | None = None
    train_options: TrainOptions | None = None
    prompt_adapter: PromptAdapterIn | None = None
    prompt: Prompt | None = Field(default=None, description="Of the student: which prompts it is tuned on; the job's if absent")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    native: tuple[NativeFeature, ...] | None = Field(default=None, description="What goes beside the text: `tools`, `reasoning`")
    constrain: bool | None = Field(default=None, description="Ask the LM host to let only answers through that parse")


class TeacherIn(Body):
    """A teacher: another program, or the student's own with other LMs."""

    program: StoredProgram | ProgramDocument | None = None
    lms: dict[LmName, LmIn] = Field(default_factory=dict)
