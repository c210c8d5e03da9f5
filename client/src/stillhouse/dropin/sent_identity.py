"""What tells code that is sent from other code: of what travels by value also the globals, types and parts of classes that it uses.

What travels by its name is told by it: its file is sent too, and its text is part of the identity. A pickle is not: it is never the same
bytes twice.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pickle
from enum import Enum
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, get_args, get_origin

import dspy
from pydantic.fields import FieldInfo

from stillhouse.bundling.code import by_reference, globals_used, unwrapped
from stillhouse.dropin.identity import Describer, Untold, code_of, name_of

Json = dict[str, Any]


def describe_sent(value: Any) -> str:
    """Equal for values of the same code that hold the same, in every process. LMs of predictors are left out. Raises Untold."""
    return repr(_Sent(lms=False).of(value, "itself"))


def identity_of(document: Json, described: str) -> str:
    """Of a document, and of what its pickle holds. The versions of packages are none of it: the server runs its own."""
    told = [document["bundle_version"], document["python"], document.get("files", {}), sorted(document.get("packages", {}))]
    return hashlib.sha256(json.dumps([*told, described], sort_keys=True).encode()).hexdigest()


class _Sent(Describer):
    """By what was compiled, since the file may have been edited meanwhile, and a prompt has none."""

    def of(self, value: Any, name: str) -> Any:
        return (*super().of(value, name), self.of(type(value), name)) if isinstance(value, Enum) else super().of(value, name)

    def _function(self, function: FunctionType) -> Any:
        if by_reference(function):
            return "named", name_of(function)
        used = [(name, self.of(each, name)) for name, each in globals_used(function).items()]
        return "function", code_of(function.__code__), self._held_by(function), used, self.of(dict(function.__annotations__), "annotation")

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
