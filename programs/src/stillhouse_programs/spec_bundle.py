"""Bundles, version 1: users' own Python as one JSON document. Read here as text; only a runner, in its sandbox, makes code of it.

{"bundle_version": 1, "python": "3.11", "files": {"support/steps.py": "…"}, "packages": {"numpy": "2.3.1"},
 "pickles": {"program": {"makes": "program", "data": "<base64>"}}, "identity": "<64 hex digits>"}
"""

import base64
import binascii
import hashlib
import json
import re
import sys
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator

from stillhouse_programs.spec_errors import SpecError, from_validation
from stillhouse_programs.spec_models import SpecModel
from stillhouse_programs.spec_reference import ReferenceFault

BUNDLE_MODULE = "stillhouse_bundle"
"""Pickles are attributes of this module, which no bundle may bring."""
MAX_BUNDLE_BYTES = 4 * 1024 * 1024
MAX_FILES = 500
DEEPEST_FILE = 8
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHOWN = 100
_OWN = frozenset({BUNDLE_MODULE, "stillhouse_programs", "__main__", "__init__", "conftest", "sitecustomize", "usercustomize"})

PackageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$")]
PackageVersion = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}$")]
PickleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]


class BundlePickle(SpecModel):
    """What a client made by value. `makes` says what comes of it: a program that is copied at each call, or the metric itself."""

    makes: Literal["program", "metric"]
    data: str = Field(min_length=1, description="cloudpickle's bytes in base64.")

    @field_validator("data")
    @classmethod
    def _in_base64(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not base64") from None
        return value


class Bundle(SpecModel):
    """`packages` are what the code imports beside the standard library and itself: each with the version that its client has."""

    bundle_version: Literal[1]
    python: str = Field(pattern=r"^3\.(\d|[1-9]\d)$", description="The minor version that wrote it, as `3.11`.")
    files: dict[str, str] = Field(default_factory=dict, description="Text by relative path; modules end in `.py`.")
    packages: dict[PackageName, PackageVersion] = Field(default_factory=dict, max_length=200)
    pickles: dict[PickleName, BundlePickle] = Field(default_factory=dict, max_length=20)
    identity: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="What its client tells this code from other code by.")

    @staticmethod
    def module_of(path: str) -> str:
        """The name of the module that a `.py` file is."""
        return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def modules(self) -> list[str]:
        """The names of its modules, sorted."""
        return sorted(Bundle.module_of(path) for path in self.files if path.endswith(".py"))

    @property
    def tops(self) -> list[str]:
        """What its code may be imported by: the first part of each module's name."""
        return sorted({name.partition(".")[0] for name in self.modules})

    @property
    def text(self) -> str:
        """The whole as JSON, alike for documents that say the same."""
        plain = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @property
    def digest(self) -> str:
        return "v1:" + hashlib.sha256(self.text.encode()).hexdigest()


def parse_bundle(document: Any) -> Bundle:
    """Read a bundle from parsed JSON. Raises SpecError, whose `param` is the JSON path of the fault; ReferenceFault where it has a code."""
    try:
        bundle = Bundle.model_validate(document)
    except ValidationError as error:
        fault = from_validation(error, document)
        raise SpecError(fault.message.replace("the spec:", "the bundle:"), fault.param) from None
    if not bundle.files and not bundle.pickles:
        raise SpecError("files: a bundle has files or pickles", "files")
    _check_files(bundle)
    if (size := len(bundle.text.encode())) > MAX_BUNDLE_BYTES:
        message = f"the bundle has {size} bytes as JSON, more than {MAX_BUNDLE_BYTES}: leave data out of it, rows go into a dataset"
        raise ReferenceFault("bundle_too_large", message, "files")
    return bundle


def _check_files(bundle: Bundle) -> None:
    if len(bundle.files) > MAX_FILES:
        raise SpecError(f"files: {len(bundle.files)} are more than {MAX_FILES}", "files")
    folders = {folder for path in bundle.files for folder in folders_above(path)}
    for path in bundle.files:
        _check_path(path)
        if path in folders:
            raise _at(path, "is a file and a folder at once")
    seen: set[str] = set()
    for path in sorted(each for each in bundle.files if each.endswith(".py")):
        name = Bundle.module_of(path)
        if not all(part.isidentifier() for part in path.removesuffix(".py").split("/")):
            raise _at(path, "is no name of a module: each part is an identifier")
        if name in seen:
            raise _at(path, f"is the module {name}, which another file is too")
        seen.add(name)
    for top in bundle.tops:
        if top in _OWN or top in sys.stdlib_module_names:
            message = f"files: `{top}` is a module of Python itself or of this server: name yours otherwise"
            raise ReferenceFault("bundle_shadows", message, "files")


def _check_path(path: str) -> None:
    parts = path.split("/")
    if len(parts) > DEEPEST_FILE:
        raise _at(path, f"lies more than {DEEPEST_FILE} deep")
    if not all(_PART.fullmatch(part) for part in parts):
        raise _at(path, "is no relative path of letters, digits and `_.-`, parted by `/`")


def _at(path: str, what: str) -> SpecError:
    return SpecError(f"files: {path[:_SHOWN]!r} {what}", "files")


def folders_above(path: str) -> list[str]:
    """The folders that a file lies in."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
