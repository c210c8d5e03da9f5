import json
from pathlib import Path

import pytest

from distill.execute import train_folder
from distill.jobs.models import FineTuneJob
from distill.storage import FolderStore

ROW = b'{"prompt":[],"completion":[],"digest":"v1:a"}\n'


def key(store: FolderStore, *, validated: bool = False, trained: bool = True) -> FineTuneJob:
    return FineTuneJob(
        id="ftjob-1",
        base_model="tiny",
        options={"n_epochs": 2, "early_stopping": {"patience": 2, "min_delta": 0.0}},
        training_file=store.put(ROW) if trained else None,
        validation_file=store.put(ROW * 2) if validated else None,
    )


class TestMake:
    def test_holds_what_the_trainer_reads(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path / "blobs")
        folder, one = tmp_path / "work" / "3", key(store, validated=True)
        train_folder.make(folder, store, one)
        train_folder.describe(folder, one, 7, folder / "resume" / "step-4", 600.0)
        job = json.loads((folder / "job.json").read_text())
        assert (job["base_model"], job["seed"], job["validation_rows"]) == ("tiny", 7, "validation.jsonl")
        assert (job["resume_from"], job["checkpoint_seconds"]) == ("resume/step-4", 600.0)
        assert job["options"]["early_stopping"] == {"patience": 2, "min_delta": 0.0}
        assert (folder / "rows.jsonl").read_bytes() == ROW
        assert (folder / "validation.jsonl").read_bytes() == ROW * 2

    def test_nothing_can_stop_early_without_rows_to_watch(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path / "blobs")
        train_folder.make(tmp_path / "work", store, key(store))
        train_folder.describe(tmp_path / "work", key(store), 0, None, 600.0)
        assert json.loads((tmp_path / "work" / "job.json").read_text())["options"]["early_stopping"] is None

    def test_without_a_training_file_there_is_nothing_to_make(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path / "blobs")
        with pytest.raises(RuntimeError, match="no training file"):
            train_folder.make(tmp_path / "work", store, key(store, trained=False))
