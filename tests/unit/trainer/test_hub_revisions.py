"""A hub model pinned to a revision is read from that revision, by the processes of the trainer too."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.trainers import LocalTrainer
from engines.base_models import BaseModelError, resolve

NAME, OLD, NEW = "maker/model", "1" * 40, "2" * 40


@pytest.fixture
def trainer() -> Iterator[LocalTrainer]:
    opened = LocalTrainer()
    yield opened
    opened.close()


def download(cache: Path, revision: str) -> str:
    """Put a model into the hub cache as a download by commit does, which writes no `refs/main`; the digest of its weights."""
    folder = cache / "hub" / "models--maker--model" / "snapshots" / revision
    folder.mkdir(parents=True)
    weights = revision.encode()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return "sha256:" + hashlib.sha256(weights).hexdigest()


def test_the_trainer_reads_the_revision_that_is_pinned(trainer: LocalTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {revision: download(tmp_path, revision) for revision in (OLD, NEW)}
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert trainer.base_digest(NAME) is None
    for revision, digest in digests.items():
        monkeypatch.setenv("STILLHOUSE_HUB_REVISIONS", f"other/model@main,{NAME}@{revision}")
        assert trainer.base_digest(NAME) == digest


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (f"{NAME}@{OLD}", f"Revision {OLD} of base model '{NAME}' is not in the hub cache: hf download {NAME} --revision {OLD}"),
        (NAME, f"STILLHOUSE_HUB_REVISIONS has '{NAME}': write NAME@REVISION, with commas between several"),
    ],
)
def test_a_pin_that_leads_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch, pins: str, message: str) -> None:
    monkeypatch.setenv("STILLHOUSE_HUB_REVISIONS", pins)
    with pytest.raises(BaseModelError) as refused:
        resolve(NAME)
    assert str(refused.value) == message
