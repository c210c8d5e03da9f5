import gc
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from engines.lmhost.engine import Engine
from engines.lmhost.errors import HostError
from engines.lmhost.model import Llama
from engines.lmhost.rows import Piece
from tests.unit.lmhost.asker import Asker, Reference, chat


@pytest.fixture
def copy(lab: Path, tmp_path: Path) -> Path:
    """A LoRA adapter's folder that a test may spoil."""
    return Path(shutil.copytree(lab / "first", tmp_path / "copy"))


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(engine: Engine, folder: Path, name: str = "tuned") -> HostError:
    with pytest.raises(HostError) as caught:
        engine.load(name, folder)
    assert name not in engine.adapters or name == engine.base.id
    return caught.value


class TestLoad:
    def test_our_base_digest_is_taken(self, engine: Engine, copy: Path) -> None:
        edit(copy, base_model_digest=engine.base.digest)
        assert engine.load("tuned", copy).name == "tuned"

    def test_another_base_is_refused(self, engine: Engine, copy: Path) -> None:
        edit(copy, base_model_digest="sha256:other")
        error = refusal(engine, copy)
        assert (error.status, error.code) == (400, "wrong_base_model")

    def test_a_missing_folder_is_404(self, engine: Engine, tmp_path: Path) -> None:
        assert refusal(engine, tmp_path / "nowhere").status == 404

    def test_wrong_shapes_are_refused(self, engine: Engine, copy: Path) -> None:
        weights = load_file(str(copy / "adapter_model.safetensors"))
        save_file({key: value[:, :-1].contiguous() for key, value in weights.items()}, str(copy / "adapter_model.safetensors"))
        assert refusal(engine, copy).code == "wrong_shape"

    def test_changes_outside_the_known_projections_are_refused(self, engine: Engine, copy: Path) -> None:
        weights = load_file(str(copy / "adapter_model.safetensors"))
        key = next(iter(weights))
        weights["base_model.model.lm_head.lora_A.weight"] = weights[key].clone()
        save_file(weights, str(copy / "adapter_model.safetensors"))
        assert refusal(engine, copy).code == "unsupported_lora"

    @pytest.mark.parametrize("option", [{"use_dora": True}, {"peft_type": "IA3"}, {"bias": "all"}])
    def test_unsupported_options_are_refused(self, engine: Engine, copy: Path, option: dict[str, Any]) -> None:
        edit(copy, **option)
        assert refusal(engine, copy).code == "unsupported_lora"

    def test_a_broken_file_is_refused(self, engine: Engine, copy: Path) -> None:
        (copy / "adapter_model.safetensors").write_bytes(b"not safetensors")
        assert refusal(engine, copy).code == "bad_lora"

    def test_the_base_models_name_is_taken(self, engine: Engine, copy: Path) -> None:
        assert refusal(engine, copy, engine.base.id).code == "lora_name_in_use"

    def test_the_same_weights_again_change_nothing(self, engine: Engine, lab: Path) -> None:
        assert engine.load("tuned", lab / "first").uid == engine.load("tuned", lab / "first").uid

    def test_other_weights_under_the_name_need_an_unload_first(self, engine: Engine, lab: Path, reference: Reference) -> None:
        engine.load("tuned", lab / "first")
        asker = Asker(engine)
        asker.ask("Who?", lora="tuned")
        with pytest.raises(HostError, match="unload it first"):
            engine.load("tuned", lab / "second")
        engine.unload("tuned").result(30)
        engine.load("tuned", lab / "second")
        assert asker.ask("Who?", lora="tuned").text == reference(chat("Who?"), "second", 12)


class TestUnload:
    def test_the_name_is_gone(self, engine: Engine, lab: Path) -> None:
        engine.load("tuned", lab / "first")
        engine.unload("tuned").result(30)
        with pytest.raises(HostError) as caught:
            engine.adapter_of("tuned")
        assert caught.value.status == 404

    def test_an_unknown_name_is_404(self, engine: Engine) -> None:
        with pytest.raises(HostError) as caught:
            engine.unload("never")
        assert caught.value.status == 404

    def test_rows_in_flight_finish(self, engine: Engine, lab: Path, reference: Reference) -> None:
        engine.load("tuned", lab / "first")
        pieces: list[Piece] = []
        engine.submit([Asker(engine).request("Who?", pieces.append, lora="tuned", max_tokens=60)]).result()
        engine.unload("tuned").result(30)
        assert pieces[0].text == reference(chat("Who?"), "first", 60)


class TestSleep:
    def test_running_requests_finish_and_new_ones_are_refused(self, engine: Engine, lab: Path) -> None:
        engine.load("tuned", lab / "first")
        asker, done = Asker(engine), threading.Event()
        engine.submit([asker.request("Who?", lambda piece: done.set(), max_tokens=60)]).result()
        asleep = engine.sleep()
        with pytest.raises(HostError) as caught:
            engine.adapter_of(engine.base.id)
        assert (caught.value.status, caught.value.code) == (503, "sleeping")
        assert caught.value.retry_after
        asleep.result(30)
        assert done.is_set()

    def test_waking_brings_the_base_back_without_lora_adapters(self, engine: Engine, lab: Path, reference: Reference) -> None:
        engine.load("tuned", lab / "first")
        engine.sleep().result(30)
        engine.wake()
        assert not engine.sleeping
        assert not engine.adapters
        engine.load("tuned", lab / "first")
        assert Asker(engine).ask("Who?", lora="tuned").text == reference(chat("Who?"), "first", 12)

    def test_the_weights_are_really_gone(self, engine: Engine) -> None:
        before = _models_in_memory()
        engine.sleep().result(30)
        assert _models_in_memory() == before - 1

    def test_sleeping_twice_and_waking_twice(self, engine: Engine) -> None:
        engine.sleep().result(30)
        engine.sleep().result(30)
        engine.wake()
        engine.wake()
        assert Asker(engine).ask("Who?", max_tokens=2).completion_tokens == 2


def _models_in_memory() -> int:
    gc.collect()
    return sum(type(thing) is Llama for thing in gc.get_objects())
