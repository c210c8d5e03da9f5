"""The server's models for dspy: `dspy.LM("house/…")`, where `…` is any id that the gateway takes."""

from __future__ import annotations

import importlib.abc
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from stillhouse._config import DEFAULT_BASE_URL, look_up
from stillhouse._exceptions import ConfigError
from stillhouse._extras import extra

PREFIX = "house"
_KEY = "STILLHOUSE_API_KEY"
_elsewhere = threading.RLock()


def LM(model: str, **options: Any) -> Any:
    """A `dspy.LM` of a model of the server: `house/smollm2-135m-instruct`, a fine-tuned model's id, or `connection/model`.

    The key is STILLHOUSE_API_KEY as it is at each call, else the one that the SDK finds; never the key of another provider. `options`
    are those of `dspy.LM`. Needs `pip install stillhouse[dspy]`.
    """
    with extra("dspy"):
        import dspy  # noqa: F401 - whether it is there

    url, key = look_up()
    return lm_of(url, key, model.removeprefix(f"{PREFIX}/"), **options)


def lm_of(url: str, key: str | None, model: str, **options: Any) -> Any:
    """A `dspy.LM` of a model of the server at `url`; `key` counts where the environment has another, or none."""
    import dspy

    if key is not None and os.environ.get(_KEY) != key:
        options.setdefault("api_key", key)
    with prefixes_restored():
        register(url)
        return dspy.LM(f"{PREFIX}/{model}", **options)


def register(base_url: str) -> None:
    """Let `dspy.LM("house/…")` ask the server at `base_url`. LMs that were made before keep their address."""
    from dspy.lm15 import AccessPolicy, EndpointSupport, ModelSupport, OpenAIChatCompat, ProviderDefinition, register_provider

    supports = EndpointSupport(complete=True, stream=True)
    access = AccessPolicy(provider=PREFIX, env_keys=(_KEY,), base_url=f"{base_url.rstrip('/')}/v1", supports=supports)
    definition = ProviderDefinition.chat(access, compat=OpenAIChatCompat())
    register_provider(definition, supports=ModelSupport(function_calling=False, reasoning=False, response_schema=False), replace=True)


@contextmanager
def prefixes_restored() -> Iterator[None]:
    """Inside, prefixes may be registered for the LMs of another server; afterwards they mean the app's own again.

    Else LMs that the app makes next would ask that server, with the key that the environment has for its own.
    """
    with _elsewhere:
        try:
            yield
        finally:
            _register()


def register_beside_dspy() -> None:
    """Register the prefixes now if dspy is imported, else as soon as it is: importing it takes seconds, and not everybody needs it."""
    if "dspy" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterDspy())


def _register() -> None:
    """An app that uses a dspy without such providers, or has credentials that cannot be read, is not kept from importing us.

    With the extra `dspy` also `tune/`, so that a compiled program which was saved as dspy's own state is loaded by dspy alone.
    """
    try:
        url = look_up()[0]
    except ConfigError:
        url = DEFAULT_BASE_URL
    with suppress(ImportError):
        register(url)
        from stillhouse_programs.artifact import register_models

        register_models(url)


class _AfterDspy(importlib.abc.MetaPathFinder):
    """Finds nothing by itself: it lets the first import of dspy be followed by the registration. To ask for it is no import."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "dspy":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, finder: _AfterDspy) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _register()
