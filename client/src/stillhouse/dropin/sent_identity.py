"""What tells code that is sent from other code: of what travels by value also the globals, types and parts of classes that it uses.

What travels by its name is told by it: its file is sent too, and its text is part of the identity. A pickle is not: it is never the same
bytes twice.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pickle
from collections.abc import Mapping
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, get_args, get_origin

import dspy
from pydantic.fields import FieldInfo

from stillhouse.bundling.code import by_reference, code_of, globals_used, unwrapped
from stillhouse.bundling.collect import collect
from stillhouse.bundling.pickling import bare, pickled, too_large
from stillhouse.dropin.identity import PLAIN, Describer, Untold, name_of

Json = dict[str, Any]
_HOLDERS = (Mapping, list, tuple, set, frozenset)
_TOLD = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, dspy.Module, dspy.BaseLM, dspy.Example)
"""What is told in a way of its own, not by how it is pickled."""


def describe_sent(value: Any) -> str:
    """Equal for values of the same code that hold the same, in every process. LMs of predictors are left out. Raises Untold."""
    return repr(_Sent(lms=False).of(value, "itself"))


def identity_of(document: Json, described: str) -> str:
    """Of a document, and of what its pickle holds. The versions of packages are none of it: the server runs its own."""
    told = [document["bundle_version"], document["python"], document.get("files", {}), sorted(document.get("packages", {}))]
    return hashlib.sha256(json.dumps([*told, described], sort_keys=True).encode()).hexdigest()


def identity_if_sent(program: dspy.Module) -> str | None:
    """The identity of the bundle that a program would be sent in; None where it could not be sent, or told from others."""
    if too_large(program):
        return None
    try:
        bared = bare(program)
        return identity_of(collect({"program": pickled(bared, "program")}, as_imported=True).document, describe_sent(bared))
    except Exception:  # it runs here all the same, with traces of its own
        return None


class _Sent(Describer):
    """By what was compiled, since the file may have been edited meanwhile, and a prompt has none."""

    def of(self, value: Any, name: str) -> Any:
        if isinstance(value, Enum):
            return *super().of(value, name), self.of(type(value), name)
        told = super().of(value, name)
        return (told, self._made_of(value, name)) if told[:1] != ("met",) and _is_more(value) else told

    def _function(self, function: FunctionType) -> Any:
        if by_reference(function):
            return "named", name_of(function)
        used = [(name, self.of(each, name)) for name, each in globals_used(function).items()]
        types = self.of(dict(function.__annotations__), "annotation")
        return "function", _compiled(function.__code__), self._held_by(function), used, types

    def _class(self, kind: Any, name: str) -> Any:
        if by_reference(kind):
            return "named", name_of(kind)
        if issubclass(kind, dspy.Signature):
            return super()._class(kind, name), [self.of(info.annotation, field) for field, info in kind.fields.items()]
        return "class", name_of(kind), kind.__doc__, [self.of(base, name) for base in kind.__bases__], self._members(kind)

    def _members(self, kind: type) -> list[Any]:
        """Methods, and what else a class was given; what Python and pydantic add is made of these."""
        held = [(name, each) for name, member in vars(kind).items() for each in unwrapped(member)]
        told = [(name, self.of(each, name)) for name, each in held if isinstance(each, FunctionType) or not _is_added(name, each)]
        types = self.of(inspect.get_annotations(kind), "annotation")
        return [types, *told, *(self._field(*each) for each in getattr(kind, "__pydantic_fields__", {}).items())]

    def _field(self, name: str, info: FieldInfo) -> Any:
        return name, [
            self.of(each, name) for each in (info.annotation, info.default, info.default_factory, info.metadata, info.description)
        ]

    def _generic(self, kind: Any, name: str) -> Any:
        return "type", str(get_origin(kind)), [self.of(each, name) for each in get_args(kind)]

    def _closed(self, value: Any, name: str) -> Any:
        """What shows nothing of its inside but to pickle. Sets in it may come out otherwise next time: then it is sent once more."""
        try:
            return "pickled", hashlib.sha256(pickle.dumps(value, protocol=4)).hexdigest()
        except Exception:
            raise Untold(name) from None


def _is_added(name: str, member: Any) -> bool:
    return name.startswith("__") or name == "_abc_impl" or isinstance(member, (MemberDescriptorType, GetSetDescriptorType))


def _is_more(value: Any) -> bool:
    """Whether a value is more than its text or its members: of a derived class."""
    kind = type(value)
    if kind.__module__ == "builtins" or kind in PLAIN or isinstance(value, _TOLD) or get_origin(value) is not None:
        return False
    return isinstance(value, (*PLAIN, *_HOLDERS))


def _compiled(code: CodeType) -> Any:
    """Beside what it does, how it is called and where it catches, also of the code inside of it."""
    called = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    inner = [_compiled(each) for each in code.co_consts if isinstance(each, CodeType)]
    return code_of(code), called, getattr(code, "co_exceptiontable", b""), code.co_freevars, code.co_cellvars, inner
