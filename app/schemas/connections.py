"""A project's own connections: what is sent to make and to change one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr

from app import examples
from app.schemas.common import Body, Name, Reply
from app.schemas.rules import declared
from distill.settings import LmRule, check_listed
from distill.spec_faults import WEB_ADDRESS

_BEARER = re.compile(r"[A-Za-z0-9._~+/=:-]{1,4096}")


def _check_key(key: SecretStr) -> SecretStr:
    if not _BEARER.fullmatch(key.get_secret_value()):
        raise ValueError("has 1 to 4096 letters, digits and characters of ._~+/=:-")
    return key


BaseUrl = Annotated[
    str,
    Field(min_length=1, max_length=2048, description="The OpenAI base, `https://api.example.com/v1`; public"),
    declared(pattern=WEB_ADDRESS),
]
ModelName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
ListedName = Annotated[ModelName, AfterValidator(check_listed)]
Models = Annotated[list[ListedName], Field(min_length=1, max_length=1000)] | Literal["*"]
Rules = Annotated[
    list[Annotated[LmRule, declared(pattern=r"^[!->@-Z\\^-~]+$")]],
    Field(max_length=100, description="Names of LMs in users' programs that it stands for; `*` is anything"),
]
Feature = Literal["structured_outputs", "tools", "reasoning"]
Usd = Annotated[float, Field(ge=0, le=1e6)]
Places = Annotated[int, Field(ge=1, le=10_000, description="Calls at once from one process of the server")]
ApiKey = Annotated[
    SecretStr,
    AfterValidator(_check_key),
    Field(description="The Bearer token of each call; sealed, never returned"),
    declared(pattern=f"^{_BEARER.pattern}$"),
]


class Price(Body):
    """US dollars per million tokens; `cached_input` is for the cached part of a prompt, `input` unless given."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None


Prices = Annotated[dict[ModelName, Price], Field(max_length=1000, description="By model, `*` for those that are not named")]


class ConnectionCreate(Body):
    """An LM host of the project's own, for teachers."""

    model_config = examples.shown(
        name="provider", base_url="https://api.example.com/v1", models=["large-model"], api_key="a-key-of-the-provider"
    )

    name: Name = Field(description="What jobs call it")
    kind: Literal["lm_host"] = "lm_host"
    base_url: BaseUrl
    models: Models = "*"
    match: Rules = Field(default_factory=list)
    supports: list[Feature] = Field(default_factory=list)
    prices: Prices = Field(default_factory=dict)
    max_in_flight: Places = 16
    default_teacher: bool = Field(default=False, description="Taken by the project's jobs that name no teacher's connection")
    api_key: ApiKey | None = None

    def columns(self) -> dict[str, Any]:
        return _columns(self.model_dump(exclude={"name", "api_key"}))

    def key(self) -> str | None:
        return self.api_key.get_secret_value() if self.api_key else None


class ConnectionUpdate(Body):
    """What is left out, or null, stays; only `api_key: null` takes the key away. With another address the key is given again."""

    model_config = examples.shown(api_key="another-key-of-the-provider", max_in_flight=8)

    base_url: BaseUrl | None = None
    models: Models | None = None
    match: Rules | None = None
    supports: list[Feature] | None = None
    prices: Prices | None = None
    max_in_flight: Places | None = None
    default_teacher: bool | None = None
    api_key: ApiKey | None = None

    def changes(self) -> dict[str, Any]:
        changes = _columns(self.model_dump(exclude={"api_key"}, exclude_none=True))
        if "api_key" in self.model_fields_set:
            changes["api_key"] = self.api_key.get_secret_value() if self.api_key else None
        return changes


class ConnectionTest(Body):
    """Which model is asked; the first that the connection lists unless given, and with neither the host is asked for its models."""

    model_config = examples.shown(model="large-model")

    model: ModelName | None = None


class ConnectionTestRead(Reply):
    """What came of it. Nothing of what the host wrote is passed on."""

    object: Literal["connection.test"] = "connection.test"
    connection: str
    ok: bool
    code: str = Field(
        description="`ok`, or what failed: `address_not_allowed`, `name_not_found`, `refused`, `tls`, `broken`, `timeout`, `redirect`, "
        "`unauthorized`, `key_missing`, `key_unreadable`, `model_not_found`, `quota_exhausted`, `rate_limited`, `unavailable`, "
        "`bad_request`, `not_openai_shaped`, `too_large`"
    )
    message: str
    model: str | None = Field(description="The model that was asked; null where the host was asked for its models")
    seconds: float


def _columns(given: dict[str, Any]) -> dict[str, Any]:
    """As the table has them: no list of models where any name is taken, no price that was left out."""
    if given.get("models") == "*":
        given["models"] = None
    if "prices" in given:
        given["prices"] = {model: {name: usd for name, usd in price.items() if usd is not None} for model, price in given["prices"].items()}
    return given
