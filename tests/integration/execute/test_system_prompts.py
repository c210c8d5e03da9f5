"""What a model will be asked with is known where its rows show all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.execute import system_prompts
from distill.messages import system_prompt_digest
from distill.storage import FolderStore


def texts(*systems: str, role: str = "system") -> bytes:
    return b"".join(json.dumps({"prompt": [{"role": role, "content": text}]}).encode() + b"\n" for text in systems)


class TestDigests:
    def found(self, folder: Path, content: bytes, expected: int) -> Any:
        store = FolderStore(folder)
        return system_prompts.digests(store, store.put(content), expected)

    def test_one_a_predictor(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, texts("a", "b", "a"), 2) == sorted(map(system_prompt_digest, "ab"))

    def test_none_where_they_are_not_all_there_or_more(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, texts("a", "a"), 2) is None
        assert self.found(tmp_path, texts("a", "b"), 1) is None
        assert self.found(tmp_path, texts("a", role="user"), 1) is None
