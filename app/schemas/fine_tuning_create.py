"""What OpenAI's clients send to have a model trained."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app import examples
from app.schemas.common import Body, Metadata
from app.schemas.rules import NULL, declared, needs, ruled
from distill.spec_training import TrainOptions

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Suffix = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
FileId = Annotated[str, Field(max_length=64)]


class Supervised(Body):
    hyperparameters: TrainOptions | None = None


class Method(Body):
    """The only method is `supervised`."""

    type: Annotated[str, declared(const="supervised")]
    supervised: Supervised | None = None

    @model_validator(mode="before")
    @classmethod
    def _supervised_alone(cls, value: Any) -> Any:
        if isinstance(value, dict) and (value.get("type") not in ("supervised", None) or {"dpo", "reinforcement"} & value.keys()):
            raise PydanticCustomError("unsupported", "this server trains by `supervised` alone")
        return value


_OPTIONS_IN_METHOD = {
    "required": ["method"],
    "properties": {
        "method": {
            "type": "object",
            "required": ["supervised"],
            "properties": {"supervised": {"type": "object", **needs("hyperparameters", "object")}},
        }
    },
}


class FineTuneJobCreate(Body):
    """OpenAI's body. `hyperparameters` and `method.supervised.hyperparameters` mean the same, and take our train options too."""

    model_config = ruled(
        examples.shown(model=examples.BASE_MODEL, training_file=examples.FILE, suffix="support", hyperparameters={"n_epochs": 3}),
        {"if": _OPTIONS_IN_METHOD, "then": {"properties": {"hyperparameters": NULL}}},
    )

    model: str = Field(min_length=1, max_length=256, description="A base model, as `connection/model` or by its own name")
    training_file: FileId
    validation_file: FileId | None = None
    hyperparameters: TrainOptions | None = None
    method: Method | None = None
    suffix: Suffix | None = Field(default=None, description="Part of the model's name")
    seed: Seed | None = Field(default=None, description="0 when absent")
    metadata: Metadata | None = None
    integrations: list[Any] | None = Field(
        default=None, description="None is offered: must be empty or absent", json_schema_extra={"maxItems": 0}
    )

    @field_validator("integrations")
    @classmethod
    def _none_is_offered(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise PydanticCustomError("unsupported", "no integration is offered here; leave it out")
        return value

    @model_validator(mode="after")
    def _said_once(self) -> FineTuneJobCreate:
        own, other = self.hyperparameters, self.method.supervised.hyperparameters if self.method and self.method.supervised else None
        if own is not None and other is not None and own != other:
            raise PydanticCustomError("said_twice", "hyperparameters and method.supervised.hyperparameters differ; give one of them")
        return self

    @property
    def train_options(self) -> TrainOptions:
        supervised = self.method.supervised if self.method else None
        return self.hyperparameters or (supervised.hyperparameters if supervised else None) or TrainOptions()
