"""The engine's thread, its queue of commands, and the life of base model and LoRA adapters."""

from __future__ import annotations

import ctypes
import gc
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engines.base_models import BaseModel
from engines.lmhost.core import Core, Limits, Stats
from engines.lmhost.errors import asleep, bad_request, unknown_model
from engines.lmhost.guidance import Guidance
from engines.lmhost.linear import Kernel, choose_kernel
from engines.lmhost.lora import LoraAdapter, load_lora
from engines.lmhost.model import Llama, ModelShape
from engines.lmhost.rows import AnswerText, Request, Row
from engines.sharing import Sign

logger = logging.getLogger(__name__)
# Requests that arrive together should be computed together: an idle engine waits this long for company.
GATHER_SECONDS = 0.002
# Beside a trainer, background rows have the processor for one part in REST of the time; a row that is older is not held back, or its
# caller would give up.
REST = 14
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class EngineOptions:
    """How to run: dtype "auto", "float32" or "bfloat16"; a torch device; caches, jump-forward and drafts can be turned off to compare."""

    dtype: str = "auto"
    device: str = "cpu"
    limits: Limits = field(default_factory=Limits)
    cache: bool = True
    jump: bool = True
    drafts: bool = True


class Engine:
    """One base model with its LoRA adapters. Public methods may be called from any thread."""

    def __init__(self, base: BaseModel, options: EngineOptions | None = None) -> None:
        self.base, self._options = base, options or EngineOptions()
        self.tokenizer = base.load_tokenizer()
        self.adapters: dict[str, LoraAdapter] = {}
        self.sleeping = False
        self.stats = Stats()
        self._device = torch.device(self._options.device)
        self._core: Core | None = None
        self._kernel: Kernel | None = None
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answering, self._training = Sign("answering"), Sign("training")
        self._rest_until = 0.0
        self._waits: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self._wake()
        self.guidance = Guidance(self.tokenizer, self.shape.vocab, self.end_tokens)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; rows in flight are dropped."""
        self._commands.put(None)
        self._thread.join()
        self.guidance.close()

    def adapter_of(self, model: str) -> LoraAdapter | None:
        """The LoRA adapter that a request's ``model`` names, None for the base. Raises HostError 404, or 503 while asleep."""
        if self.sleeping:
            raise asleep()
        if model == self.base.id:
            return None
        if model not in self.adapters:
            raise unknown_model(model)
        return self.adapters[model]

    def submit(self, requests: list[Request]) -> Future[list[Row]]:
        """Queue samples; the rows come back so that they can be cancelled."""
        return self._call(lambda: [self._awake().submit(request) for request in requests])

    def cancel(self, rows: list[Row]) -> None:
        """Drop rows whose caller has gone."""
        self._commands.put(lambda: self._core.cancel(rows) if self._core else None)

    def load(self, name: str, folder: Path) -> LoraAdapter:
        """Load a LoRA adapter under a name. The same weights again change nothing. Raises HostError."""
        if self.sleeping:
            raise asleep()
        if name == self.base.id:
            raise bad_request(f"{name!r} is the base model's name.", "lora_name", "lora_name_in_use")
        dtype = self._kernel.dtype if self._kernel else torch.float32
        adapter = load_lora(name, folder, self.shape, self.base.digest, dtype, self._device)
        registered: LoraAdapter = self._call(lambda: self._register(adapter)).result()
        return registered

    def unload(self, name: str) -> Future[None]:
        """Refuse the name from now on; done when its rows have finished and its caches are dropped. Raises HostError 404."""
        adapter = self.adapters.pop(name, None)
        if adapter is None:
            raise unknown_model(name)
        return self._when(lambda core: not core.uses(adapter.uid), lambda: self._core.forget(adapter.uid) if self._core else None)

    def sleep(self) -> Future[None]:
        """Refuse new requests, finish the running ones, then give the memory back."""
        self.sleeping = True
        return self._when(lambda core: not core.busy, self._release)

    def wake(self) -> None:
        """Load the base model again. LoRA adapters are for the caller to load again."""
        if self.sleeping:
            self._call(self._wake).result()

    def _register(self, adapter: LoraAdapter) -> LoraAdapter:
        known = self.adapters.get(adapter.name)
        if known is not None and known.digest != adapter.digest:
            message = f"{adapter.name!r} is loaded with other weights; unload it first."
            raise bad_request(message, "lora_name", "lora_name_in_use")
        return self.adapters.setdefault(adapter.name, adapter)

    def _awake(self) -> Core:
        if self._core is None or self.sleeping:
            raise asleep()
        return self._core

    def _wake(self) -> None:
        """Load the base model. An error leaves the engine asleep."""
        hf_model = self.base.load_model(torch.float32)
        self.shape = ModelShape.of(hf_model.config)
        # Measured once: an answer must not change because the host slept.
        kernel = self._kernel = self._kernel or choose_kernel(self._options.dtype, self._device, self.shape.hidden, self.shape.inner)
        self.end_tokens = _end_tokens(hf_model, self.tokenizer)
        answers = AnswerText(self.tokenizer, self.end_tokens, self._options.jump)
        model, options = Llama(hf_model, kernel, self._device), self._options
        self._core = Core(model, answers, options.limits, cache=options.cache, drafts=options.drafts, stats=self.stats)
        self.sleeping = False
        logger.info("base model %s loaded: %s%s", self.base.id, kernel.dtype, ", packed" if kernel.packed else "")

    def _release(self) -> None:
        self._core = None
        self.adapters.clear()
        gc.collect()
        _trim()

    def _call(self, action: Callable[[], Any]) -> Future[Any]:
        """Run ``action`` on the engine's thread."""
        future: Future[Any] = Future()

        def command() -> None:
            try:
                future.set_result(action())
            except Exception as error:
                future.set_exception(error)

        self._commands.put(command)
        return future

    def _when(self, ready: Callable[[Core], bool], action: Callable[[], None]) -> Future[None]:
        """Run ``action`` on the engine's thread as soon as ``ready``; at once where there is no core."""
        future: Future[None] = Future()

        def finish() -> None:
            action()
            future.set_result(None)

        self._commands.put(lambda: self._waits.append((lambda: self._core is None or ready(self._core), finish)))
        return future

    def _run(self) -> None:
        while self._drain():
            if self._core is not None and self._core.busy and not self._rest_seconds():
                self._step(self._core)
            self._settle()

    def _step(self, core: Core) -> None:
        """One round. A trainer on the same processor makes room for rows that somebody waits for, and has it before all others."""
        shares = self._device.type == "cpu"
        self._answering.show(shares and core.is_urgent)
        begun = time.monotonic()
        core.step()
        self._answering.show(shares and core.is_urgent)
        now = time.monotonic()
        self._rest_until = now + (REST - 1) * (now - begun) if shares and self._training.is_shown() else 0.0

    def _rest_seconds(self) -> float:
        """How long to leave the processor to a trainer before the next round."""
        now, core = time.monotonic(), self._core
        if core is None or core.is_urgent or now - core.oldest > PATIENCE_SECONDS:
            return 0.0
        return max(0.0, self._rest_until - now)

    def _settle(self) -> None:
        due = [wait for wait in self._waits if wait[0]()]
        self._waits = [wait for wait in self._waits if wait not in due]
        for _, finish in due:
            finish()

    def _drain(self) -> bool:
        """Run the commands that have arrived; idle or at rest, wait for one. False at the end."""
        idle = self._core is None or not self._core.busy
        try:
            command = self._commands.get(timeout=None if idle else self._rest_seconds())
            end = time.monotonic() + (GATHER_SECONDS if idle else 0)
            while command is not None:
                command()
                command = self._commands.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return True
        return False


def _end_tokens(hf_model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the generation config's and the tokenizer's."""
    configured = hf_model.generation_config.eos_token_id
    tokens = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*tokens, tokenizer.eos_token_id) if token is not None})


def _trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
