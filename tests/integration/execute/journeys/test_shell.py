"""Somebody without Python: `curl` and a shell, from a spec to an answer of the compiled program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.execute.house import CATEGORIES, SUPPORT, field_of
from tests.integration.execute.journeys.conftest import Live

# Lines as the journey has them; what it takes from replies, a reader copies by hand and `id_in` copies here.
SCRIPT = """\
set -euo pipefail
S=$STILLHOUSE_BASE_URL A="Authorization: Bearer $STILLHOUSE_API_KEY"
id_in() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["id"])' "$1"; }

curl -sf $S/v1/spec/schema.json -H "$A" > schema.json
curl -sf $S/v1/programs -H "$A" -d @spec.json > program.json
curl -sf $S/v1/datasets -H "$A" -H 'Content-Type: text/csv' -T train.csv > trainset.json
curl -sf $S/v1/datasets -H "$A" -H 'Content-Type: text/csv' -T gold.csv > valset.json

curl -sf $S/v1/programs/$(id_in program.json)/render -H "$A" -d '{"inputs": {"message": "Hi", "order": "007", "visits": 3}}' > prompts.json

cat > job.json <<EOF
{"program": "$(id_in program.json)", "program_name": "support-router", "trainset": "$(id_in trainset.json)",
 "valset": "$(id_in valset.json)", "metric": {"type": "exact_match", "fields": ["category"]}}
EOF
curl -sf $S/v1/compile_jobs/estimate -H "$A" -d @job.json > estimate.json
curl -sf $S/v1/compile_jobs -H "$A" -H 'Idempotency-Key: 1' -d @job.json > created.json
curl -sf $S/v1/compile_jobs -H "$A" -H 'Idempotency-Key: 1' -d @job.json > again.json
JOB=$(id_in created.json)
curl -sf "$S/v1/compile_jobs/$JOB?wait=30" -H "$A" > changed.json
curl -sN $S/v1/compile_jobs/$JOB/events -H "$A" -H 'Accept: text/event-stream' > events.txt
curl -sf $S/v1/compile_jobs/$JOB -H "$A" > job-now.json

ARTIFACT=$(python3 -c 'import json; print(json.load(open("job-now.json"))["artifact"]["id"])')
curl -sfL $S/v1/artifacts/$ARTIFACT/content -H "$A" -o router.tar.gz
tar -tzf router.tar.gz > files.txt
curl -sf -X PUT $S/v1/aliases/support-router@prod -H "$A" -d "{\\"artifact\\": \\"$ARTIFACT\\"}" > alias.json
curl -sf $S/v1/artifacts/support-router@prod/call -H "$A" \\
  -d '{"inputs": {"message": "I ask about billing", "order": "0815", "visits": 2}}' > answer.json

curl -s $S/v1/artifacts/support-router@prod/call -H "$A" -d '{"inputs": {"message": "I ask about billing"}}' > lacking.json
curl -s $S/v1/programs -H "$A" -H 'Content-Type: text/plain' -d @spec.json > refused.json
curl -s $S/v1/programs -H "$A" -d name=router > no-json.json
curl -s $S/v1/compile_jobs -H "$A" -d "$(sed "s/$(id_in trainset.json)/$(curl -sf $S/v1/datasets -H "$A" \\
  -H 'Content-Type: text/csv' -T bad.csv | id_in /dev/stdin)/" job.json)" > bad.json
"""


def spec() -> dict[str, Any]:
    """The desk of two predictors, of which the first is told an order's number, a text of digits, and a count."""
    body: dict[str, Any] = json.loads(json.dumps(SUPPORT))
    body["predictors"][0]["signature"]["fields"][1:1] = [field_of("order", "input"), field_of("visits", "input", {"type": "integer"})]
    body["steps"][0]["args"].update(order={"from": "input.order"}, visits={"from": "input.visits"})
    return body


def table(first: int, end: int) -> str:
    """Cells with a line break in each, and orders with zeros in front."""
    lines = [f'"Message {n}\nis about {CATEGORIES[n % 3]}",{n:04},{n},{CATEGORIES[n % 3]}\n' for n in range(first, end)]
    return "message,order,visits,category\n" + "".join(lines)


@pytest.mark.slow
class TestShell:
    def test_every_line_does_what_it_says(self, live: Live, desk: Path) -> None:
        (desk / "spec.json").write_text(json.dumps(spec(), indent=1))
        (desk / "train.csv").write_text(table(0, 12))
        (desk / "gold.csv").write_text(table(12, 18))
        (desk / "bad.csv").write_text(f'{table(0, 1)}"Second\nrow",0001,many,billing\n')
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=800, check=False)
        assert done.returncode == 0, done.stderr

        def reply(name: str) -> Any:
            return json.loads((desk / f"{name}.json").read_text())

        self.check_what_is_told_before(reply)
        assert reply("again") == reply("created")
        assert [reply("job-now")[name] for name in ("status", "program_name")] == ["succeeded", "support-router"]
        assert "event: done" in (desk / "events.txt").read_text()
        files = (desk / "files.txt").read_text().split()
        assert {name.rpartition("/")[2] for name in files} >= {"manifest.json", "spec.json", "program.json", "adapter_model.safetensors"}
        assert reply("answer")["outputs"] == {"category": "billing", "answer": "Team billing will help."}
        asked = {call.body["messages"][-1]["content"] for call in live.house.teacher.calls}
        assert any("[[ ## order ## ]]\n0004\n" in prompt for prompt in asked), "digits of a text stay a text"
        self.check_what_is_refused(reply)

    def check_what_is_told_before(self, reply: Any) -> None:
        assert reply("schema")["$schema"].startswith("https://json-schema.org")
        assert [prompt["predictor"] for prompt in reply("program")["prompts"]] == ["classify", "reply"]
        assert "{input.message}" in reply("program")["prompts"][0]["messages"][-1]["content"]
        assert "[[ ## order ## ]]\n007\n" in reply("prompts")["calls"][0]["messages"][-1]["content"]
        assert [reply("trainset")[name] for name in ("rows", "object")] == [12, "dataset"]
        assert reply("trainset")["digest"]
        estimate = {role["role"]: role["calls"] for role in reply("estimate")["roles"]}
        assert estimate["teacher:0"] == 24

    def check_what_is_refused(self, reply: Any) -> None:
        lacking = reply("lacking")["error"]
        assert (lacking["code"], lacking["param"]) == ("invalid_inputs", "inputs.order")
        for name in ("refused", "no-json"):
            error = reply(name)["error"]
            assert (error["code"], "Content-Type: application/json" in error["message"]) == ("unsupported_media_type", True)
        (fault,) = reply("bad")["error"]["details"]
        assert (fault["row"], fault["field"]) == (2, "visits")
