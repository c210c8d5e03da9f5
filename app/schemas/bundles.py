"""Bundles: users' own Python, as it is sent and as it is told of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app import examples
from app.schemas.common import Body, Reply


class PickleIn(Body):
    """What a client made by value."""

    makes: Literal["program", "metric"] = Field(description="A program is copied at each call; a metric is the function itself")
    data: str = Field(description="cloudpickle's bytes in base64")


class BundleCreate(Body):
    """Python code and what it needs. It is kept as text, and opened in a sandbox when a program or metric of it runs."""

    model_config = examples.shown(**examples.BUNDLE_DOCUMENT)

    bundle_version: Literal[1]
    python: str = Field(description="The minor version that wrote it, as `3.11`: it runs where programs run under the same")
    files: dict[str, str] = Field(default_factory=dict, description="Text by relative path: `support/steps.py`; at most 500")
    packages: dict[str, str] = Field(
        default_factory=dict, description="What the code imports beside the standard library and itself: each with the client's version"
    )
    pickles: dict[str, PickleIn] = Field(default_factory=dict, description="By name: `program` is named `stillhouse_bundle:program`")
    identity: str | None = Field(default=None, description="64 hex digits, by which its client tells this code from other code")

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
