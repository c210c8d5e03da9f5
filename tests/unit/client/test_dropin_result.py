"""What the drop-in returns: a copy, or the student itself, that asks as the models were trained to be asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import dspy
import httpx
import pytest
from dspy.lm15 import unregister_provider

import stillhouse
from stillhouse_programs.prove import prompt_hash
from tests.unit.client.dropin_server import Server
from tests.unit.programs.samples import SAMPLES, Support
from tests.unit.programs.scripted_server import scripted_server
from tests.unit.programs.test_artifact import files_of, write


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Its job has succeeded, and its artifact, made under JSON prompts, was downloaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "stillhouse" / "artifacts"
    folder = cache / "art-1"
    folder.mkdir(parents=True)
    write(folder, files_of(), prompt_adapter={"type": "json"}, prompt_hash=prompt_hash(Support(), SAMPLES, "json"))
    listed = [
        {
            "path": str(path.relative_to(folder)),
            "size_bytes": path.stat().st_size,
            "digest": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        }
        for path in folder.rglob("*")
        if path.is_file()
    ]
    (cache / "art-1.files.json").write_text(json.dumps(listed))
    return Server(jobs=[{"id": "cjob-9", "status": "succeeded", "created_at": 1}], succeeded={"cjob-9": "art-1"})


@pytest.mark.parametrize("inplace", [False, True])
def test_it_asks_with_the_prompts_that_were_trained(server: Server, inplace: bool) -> None:
    student = Support()
    try:
        with (
            scripted_server() as lm,
            stillhouse.Stillhouse(lm.base_url, "sh_a_b", transport=httpx.MockTransport(server)) as client,
        ):
            optimizer = stillhouse.BootstrapFinetune(adapter=dspy.JSONAdapter(), client=client, inplace=inplace)
            for _ in range(2):  # the second time of what is pinned already
                student.set_lm(dspy.LM("house/tiny"))
                tuned = optimizer.compile(student, [dspy.Example(message="m", category="billing").with_inputs("message")])
                assert (tuned is student) == inplace
                tuned(message="hi")
            prompts = ["".join(message["content"] for message in body["messages"]) for _, _, body in lm.requests]
    finally:
        unregister_provider("tune")
    assert len(prompts) == 4
    assert all("Respond with a JSON object" in prompt for prompt in prompts)
