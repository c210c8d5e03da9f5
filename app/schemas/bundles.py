"""Bundles: users' own Python, as it is sent and as it is told of."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from app import examples
from app.schemas.common import Body, Reply
from app.schemas.rules import declared, ruled
from stillhouse_programs.spec_bundle import PackageName, PackageVersion, PickleName

_PATH = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}){0,7}$"
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)$"


def _pattern_of(name: Any) -> dict[str, Any]:
    """What such names look like, as the bundle's reader has it."""
    return {"type": "string", "pattern": get_args(name)[1].pattern}


class PickleIn(Body):
    """What a client made by value."""

    makes: Literal["program", "metric"] = Field(description="A program is copied at each call; a metric is the function itself")
    data: Annotated[str, declared(pattern=_BASE64)] = Field(description="cloudpickle's bytes in base64")


_HAS_PICKLES = {"required": ["pickles"], "properties": {"pickles": {"minProperties": 1}}}
Packages = Annotated[dict[str, str], declared(propertyNames=_pattern_of(PackageName), additionalProperties=_pattern_of(PackageVersion))]
Pickles = Annotated[dict[str, PickleIn], declared(propertyNames=_pattern_of(PickleName))]


class BundleCreate(Body):
    """Python code and what it needs. It is kept as text, and opened in a sandbox when a program or metric of it runs."""

    model_config = ruled(
        examples.shown(**examples.BUNDLE_DOCUMENT),
        {"if": {"required": ["files"], "properties": {"files": {"minProperties": 1}}}, "then": {}, "else": _HAS_PICKLES},
    )

    bundle_version: Literal[1]
    python: str = Field(
        pattern=r"^3\.([0-9]|[1-9][0-9])$",
        description="The minor version that wrote it, as `3.11`: it runs where programs run under the same",
    )
    files: Annotated[dict[str, str], declared(propertyNames={"pattern": _PATH})] = Field(
        default_factory=dict, description="Text by relative path: `support/steps.py`; at most 500"
    )
    packages: Packages = Field(
        default_factory=dict, description="What the code imports beside the standard library and itself: each with the client's version"
    )
    pickles: Pickles = Field(default_factory=dict, description="By name: `program` is named `stillhouse_bundle:program`")
    identity: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="64 hex digits, by which its client tells this code from other code"
    )

    def document(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True)


Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Only of this identity")]


class BundleRead(Reply):
    """What is known of a bundle without opening it."""

    id: str
    object: Literal["bundle"] = "bundle"
    created_at: int
    created_by: str | None
    digest: str = Field(description="What specs name it by")
    python: str
    modules: list[str]
    packages: dict[str, str]
    pickles: list[str]
    identity: str | None
    size: int = Field(description="Bytes of the document")
