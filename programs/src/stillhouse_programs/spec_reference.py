"""Which code a reference may name: that of the packages which the operator allows. Checked before anything is imported."""

import re
from collections.abc import Iterable, Sequence

from stillhouse_programs.spec_errors import SpecError
from stillhouse_programs.spec_models import TARGET_PATTERN

# The variable with the allowed packages, in the environment of server and runner alike.
REFERENCES_VARIABLE = "STILLHOUSE_REFERENCES"
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class ReferenceFault(SpecError):
    """A reference that cannot be used; `code` says why: reference_not_allowed, reference_not_found, reference_failed, source_changed."""

    def __init__(self, code: str, message: str, param: str) -> None:
        super().__init__(message, param)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, self.message, self.param)


def read_prefixes(text: str) -> list[str]:
    """Read the operator's list of packages and modules, parted by commas. Raises ValueError for what names neither."""
    prefixes = [part.strip() for part in text.split(",") if part.strip()]
    for prefix in prefixes:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} is not the name of a package or module")
    return prefixes


def split_target(target: str) -> tuple[str, list[str]]:
    """Split `package.module:Class.make` into the module's name and the names inside it. Raises SpecError."""
    if not re.match(TARGET_PATTERN, target) or target.endswith("\n"):
        raise SpecError("reference: expected `package.module:name`", "reference")
    module, _, path = target.partition(":")
    return module, path.split(".")


def lies_in(module: str, prefixes: Iterable[str]) -> bool:
    """Whether a module is one of the allowed ones, or inside of one. `acme` allows `acme.tools`, not `acmetools`."""
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def check_allowed(target: str, prefixes: Sequence[str], param: str = "reference") -> None:
    """Check a reference against the operator's list. Raises ReferenceFault."""
    if lies_in(split_target(target)[0], prefixes):
        return
    allowed = f"allowed are {', '.join(prefixes)}" if prefixes else "none is allowed"
    message = f"{param}: {target} is in no package that this server may import ({allowed}; the operator sets {REFERENCES_VARIABLE})"
    raise ReferenceFault("reference_not_allowed", message, param)
