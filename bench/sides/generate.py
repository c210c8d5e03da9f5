"""The other side of the LM host: transformers' generate, one prompt after another, on the same weights in the same precision.

Constrained answers go through `prefix_allowed_tokens_fn`, with the finite set of answers as a tree of tokens. The LoRA adapter is PEFT's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from bench.side import Json, serve
from engines.base_models import resolve

MAX_TOKENS = 32


class Generator:
    """One base model with one LoRA adapter, switched on and off by request."""

    def __init__(self, base_model: str, adapter: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        base = resolve(base_model)
        model: Any = base.load_model(torch.float32)
        if not (adapter / "adapter_config.json").is_file():
            _write_random(base.load_model(torch.float32), adapter)
        self._tokenizer: Any = base.load_tokenizer()
        self._model: Any = PeftModel.from_pretrained(model, str(adapter)).eval()

    def answer(self, request: Json) -> Json:
        """`prompts` answered in order; `model` is base or lora; `answers`, if given, are all that may be said."""
        allowed = _Tree(self._tokenizer, request["answers"]) if request.get("answers") else None
        began = time.monotonic()
        with torch.inference_mode():
            if request["model"] == "base":
                with self._model.disable_adapter():
                    texts = [self._one(prompt, allowed) for prompt in request["prompts"]]
            else:
                texts = [self._one(prompt, allowed) for prompt in request["prompts"]]
        return {"seconds": time.monotonic() - began, "texts": texts}

    def _one(self, prompt: list[Json], allowed: _Tree | None) -> str:
        ids = self._tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        length = ids["input_ids"].shape[1]
        rule = {} if allowed is None else {"prefix_allowed_tokens_fn": lambda _, said: allowed.after(said[length:].tolist())}
        said = self._model.generate(**ids, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=self._tokenizer.pad_token_id, **rule)
        return str(self._tokenizer.decode(said[0, length:], skip_special_tokens=True))


class _Tree:
    """Which tokens may follow what was said: the answers, token by token, each with the end of turn."""

    def __init__(self, tokenizer: Any, answers: list[str]) -> None:
        self._end = int(tokenizer.eos_token_id)
        self._root: dict[int, Any] = {}
        for text in answers:
            node = self._root
            for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], self._end]:
                node = node.setdefault(token, {})

    def after(self, said: list[int]) -> list[int]:
        node = self._root
        for token in said:
            node = node.get(token, {})
        return list(node) or [self._end]


def _write_random(model: Any, folder: Path) -> None:
    """A LoRA adapter of the usual shape with small random weights: no answer is sensible, every product is there."""
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    lora: Any = get_peft_model(model, config)
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=1e-3)
    lora.save_pretrained(str(folder))


if __name__ == "__main__":
    serve(Generator(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])).answer)
