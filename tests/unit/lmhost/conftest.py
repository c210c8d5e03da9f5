"""One tiny random model, two LoRA adapters with weights that change answers, and engines over them."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.base_models import BaseModel, resolve
from engines.lmhost.core import Limits
from engines.lmhost.engine import Engine, EngineOptions
from tests.support.tiny_model import build_tiny_model
from tests.unit.lmhost.asker import MakeEngine, Reference


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lmhost")
    # A sharper head than a fresh model has: greedy choices must not hang on rounding.
    model_folder = build_tiny_model(folder / "tiny", seed=3)
    _sharpen(model_folder)
    for seed, name in enumerate(("first", "second")):
        _write_lora(folder / name, model_folder, seed)
    return folder


@pytest.fixture
def base(lab: Path) -> BaseModel:
    return resolve(str(lab / "tiny"))


@pytest.fixture
def make_engine(base: BaseModel) -> Iterator[MakeEngine]:
    """Engines in float32 that are closed after the test; keywords are those of Limits, and ``cache``, ``jump`` and ``drafts``."""
    engines: list[Engine] = []

    def make(cache: bool = True, jump: bool = True, drafts: bool = True, dtype: str = "float32", **limits: Any) -> Engine:
        engines.append(Engine(base, EngineOptions(dtype, limits=Limits(**limits), cache=cache, jump=jump, drafts=drafts)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()


@pytest.fixture(scope="session")
def reference(lab: Path) -> Reference:
    """The answer of transformers' (and PEFT's) own greedy generate: (messages, LoRA adapter's name or None, max tokens)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in an outdated way
        return _reference(lab)


def _reference(lab: Path) -> Reference:
    from peft import PeftModel

    plain = resolve(str(lab / "tiny")).load_model(torch.float32)
    tuned = PeftModel.from_pretrained(resolve(str(lab / "tiny")).load_model(torch.float32), str(lab / "first"), adapter_name="first")
    tuned.load_adapter(str(lab / "second"), "second")
    tokenizer: Any = resolve(str(lab / "tiny")).load_tokenizer()

    def answer(messages: list[dict[str, str]], lora: str | None, max_tokens: int) -> str:
        model: Any = plain
        if lora is not None:
            tuned.set_adapter(lora)
            model = tuned
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False)
        text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return text

    return answer


def _sharpen(folder: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(str(folder))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(11)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn_like(parameter) * (0.25 if parameter.shape[0] != model.config.vocab_size else 0.4))
    model.save_pretrained(str(folder))


def _write_lora(folder: Path, base: Path, seed: int) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(str(base))
    targets = "all-linear" if seed == 0 else ["q_proj", "v_proj", "down_proj", "up_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        tuned = get_peft_model(model, LoraConfig(r=4 + 4 * seed, lora_alpha=8, target_modules=targets, use_rslora=seed == 1))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(100 + seed)
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    tuned.save_pretrained(str(folder))
