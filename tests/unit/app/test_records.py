"""Training records in the shapes that others train with."""

import json
from pathlib import Path
from typing import Any

from app.records import RecordFormat, records

ROW: dict[str, Any] = {
    "prompt": [
        {"role": "system", "content": "Route."},
        {"role": "user", "content": "a demo"},
        {"role": "assistant", "content": "billing"},
        {"role": "user", "content": "häuslich"},
    ],
    "completion": [{"role": "assistant", "content": "account"}],
    "digest": "v1:1",
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def read(tmp_path: Path, form: RecordFormat, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [json.loads(line) for line in b"".join(records(path.open("rb"), form)).splitlines()]


class TestRecords:
    def test_trl_gets_prompt_and_completion(self, tmp_path: Path) -> None:
        assert read(tmp_path, "trl", ROW, ROW) == [{"prompt": ROW["prompt"], "completion": ROW["completion"]}] * 2

    def test_openai_gets_messages_and_no_loss_on_demos(self, tmp_path: Path) -> None:
        (record,) = read(tmp_path, "openai", ROW)
        assert list(record) == ["messages"]
        assert [message.get("weight") for message in record["messages"]] == [None, None, 0, None, None]
        assert record["messages"][-1] == {"role": "assistant", "content": "account"}

    def test_tools_go_along(self, tmp_path: Path) -> None:
        assert read(tmp_path, "openai", {**ROW, "tools": TOOLS})[0]["tools"] == TOOLS
        assert read(tmp_path, "trl", {**ROW, "tools": TOOLS})[0]["tools"] == TOOLS
