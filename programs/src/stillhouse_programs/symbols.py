"""Stand-ins for values that are known at run time only, for running `forward` once to see its wiring.

A symbol may be passed on, put into text, or taken apart by field; anything else stops the tracing with NotASpec.
"""

import re
from collections.abc import Callable
from typing import Any, NoReturn

import pydantic

from stillhouse_programs.not_a_spec import NotASpec

# Private-use characters around a reference inside a text, as `f"Team: {c.category}"` makes one.
OPEN, CLOSE = "\ue000", "\ue001"
_MARKED = re.compile(f"({OPEN}[^{OPEN}{CLOSE}]*{CLOSE})")

_WORDS = {
    "__bool__": "branches on", "__eq__": "compares", "__ne__": "compares", "__lt__": "compares", "__gt__": "compares",
    "__le__": "compares", "__ge__": "compares", "__hash__": "looks up by", "__iter__": "loops over", "__len__": "takes len() of",
    "__getitem__": "indexes", "__contains__": "searches in", "__int__": "converts", "__float__": "converts", "__index__": "converts",
    "__mod__": "computes with", "__mul__": "computes with", "__rmul__": "computes with", "__sub__": "computes with",
    "__truediv__": "computes with", "__neg__": "computes with", "__call__": "calls", "__reversed__": "loops over",
    "__repr__": "takes repr() of", "__setitem__": "changes", "__setattr__": "changes",
}  # fmt: skip


class Symbol:
    """A value that is not known yet: `reference` is where it comes from, as `input.message` or `s1.order`."""

    reference: str
    annotation: Any

    def __init__(self, reference: str, annotation: Any = Any) -> None:
        object.__setattr__(self, "reference", reference)
        object.__setattr__(self, "annotation", annotation)

    def __str__(self) -> str:
        return f"{OPEN}{self.reference}{CLOSE}"

    def __format__(self, spec: str) -> str:
        return str(self) if not spec else refuse(self, f"formats with :{spec}")

    def __add__(self, other: Any) -> str:
        return str(self) + str(other)

    def __radd__(self, other: Any) -> str:
        return str(other) + str(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        annotation = object.__getattribute__(self, "annotation")
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel) and name in annotation.model_fields:
            return symbol(f"{self.reference}.{name}", annotation.model_fields[name].annotation)
        return refuse(self, f"calls .{name} on")

    def __deepcopy__(self, memo: dict[int, Any]) -> "Symbol":
        return self


class TextSymbol(Symbol, str):
    """A text that is not known yet: it can be joined like any text, but all methods of text are refused."""

    def __new__(cls, reference: str, annotation: Any = str) -> "TextSymbol":
        return str.__new__(cls, f"{OPEN}{reference}{CLOSE}")


def symbol(reference: str, annotation: Any) -> Symbol:
    """Make the symbol for a value of a type."""
    return TextSymbol(reference) if annotation is str else Symbol(reference, annotation)


def refuse(value: Symbol, what: str) -> NoReturn:
    """Stop the tracing: `forward` does `what` with `value`."""
    raise NotASpec(f"{what} {value.reference}, known only at run time. A spec is a straight line")


def _refusal(word: str) -> Callable[..., NoReturn]:
    def refused(self: Symbol, *_: Any, **__: Any) -> NoReturn:
        refuse(self, word)

    return refused


def _close_off() -> None:
    for name, word in _WORDS.items():
        setattr(Symbol, name, _refusal(word))
    for name in dir(str):
        if not name.startswith("__"):
            setattr(TextSymbol, name, _refusal(f"calls .{name} on"))


_close_off()


def is_marked(text: str) -> bool:
    """Whether a text has a symbol put into it."""
    return OPEN in text or CLOSE in text


def split_marked(text: str) -> list[str | dict[str, str]]:
    """Split a text with symbols in it into plain pieces and references. Raises ValueError if a mark was damaged."""
    pieces: list[str | dict[str, str]] = []
    for piece in filter(None, _MARKED.split(text)):
        if _MARKED.fullmatch(piece):
            pieces.append({"from": piece[1:-1]})
        elif is_marked(piece):
            raise ValueError(piece)
        else:
            pieces.append(piece)
    return pieces
