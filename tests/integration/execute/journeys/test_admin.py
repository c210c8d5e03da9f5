"""An operator with one box and a team of ten: settings, doctor, keys for all of them, quotas, and who used it this week.

No container runs here: the commands are those that docker-compose.yml gives its services, on the test's servers. That every one of these
services starts and ends is in tests/integration/stack/test_commands.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from distill.settings import get_settings
from tests.integration.execute.house import field_of
from tests.integration.execute.journeys.conftest import Live

ROOT = Path(__file__).parents[4]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PROGRAM = {
    "predictors": [
        {
            "name": "self",
            "lm": "student",
            "signature": {"instructions": "Answer.", "fields": [field_of("question", "input"), field_of("answer", "output")]},
        }
    ]
}
ROWS = [{"question": "Is it on?", "answer": "yes"}, {"question": "Is it off?", "answer": "no"}]
TEAM = ["ana", "bo", "chen", "dara", "eli", "fay", "gus", "hana", "ivo", "jun"]


def compose_exec(service: str, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """`docker compose exec -T SERVICE COMMAND`: the program of the service's image, in this environment."""
    assert SERVICES[service]["build"]["target"] == "api"
    program, *arguments = command
    here = Path(sys.executable).with_name(program)
    return subprocess.run([here, *arguments], input=stdin, capture_output=True, text=True, timeout=300, check=False)


def usage(live: Live, key: str, path: str = "") -> Any:
    reply = httpx.get(f"{live.url}/v1/usage{path}", headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.slow
class TestAdmin:
    def test_from_the_settings_to_who_used_it(self, live: Live, desk: Path) -> None:
        self.check_settings(desk)
        self.check_doctor()
        keys = self.check_keys()
        self.check_use(live, keys)

    def check_settings(self, desk: Path) -> None:
        """`cp stillhouse.example.toml stillhouse.toml` is taken as it is, and every service reads it from where compose puts it."""
        settings = desk / "stillhouse.toml"
        settings.write_text((ROOT / "stillhouse.example.toml").read_text())
        done = subprocess.run(
            [sys.executable, "-c", "from distill.settings import get_settings; print(get_settings().project('support').max_jobs)"],
            env={"STILLHOUSE_CONFIG": str(settings)}, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout.strip() == str(get_settings().project("support").max_jobs), done.stderr
        mounted = re.search(r"STILLHOUSE_CONFIG=(\S+)", (ROOT / "Dockerfile").read_text())
        assert mounted is not None
        assert all(f"./stillhouse.toml:{mounted[1]}:ro" in SERVICES[name]["volumes"] for name in ("api", "worker-train", "lm-agent"))

    def check_doctor(self) -> None:
        done = compose_exec("api", "stillhouse-server", "doctor")
        assert done.returncode == 0, done.stdout
        for name in ("PostgreSQL", "Migrations", "Redis", "Blob store", "Runtime default", "Connection openai"):
            assert re.search(rf"^[✓!] {name} ", done.stdout, flags=re.MULTILINE), done.stdout

    def check_keys(self) -> dict[str, str]:
        command = ("stillhouse-server", "create-key", "--project", "support", "--scopes", "jobs:read,jobs:write,models:use")
        done = compose_exec("api", *command, "--labels", "-", stdin="".join(f"{name}\n" for name in TEAM))
        assert done.returncode == 0, done.stderr
        keys = dict(line.split("\t") for line in done.stdout.splitlines())
        assert list(keys) == TEAM
        assert len(set(keys.values())) == len(TEAM)
        return keys

    def check_use(self, live: Live, keys: dict[str, str]) -> None:
        """Quotas hold for a project that nobody has given any; each person's jobs are told apart."""
        assert {name: usage(live, keys["ana"])["quotas"][name] for name in ("max_jobs", "month_teacher_usd", "month_compute_seconds")} == {
            "max_jobs": 20_000,
            "month_teacher_usd": 1_000,
            "month_compute_seconds": 2_592_000,
        }
        body = {
            "program": PROGRAM,
            "trainset": [{"question": "Is it on?", "answer": "yes"}] * 2,
            "metric": "exact_match",
            "auto_start": False,
        }
        for name in ("bo", "bo", "ana"):
            headers = {"Authorization": f"Bearer {keys[name]}"}
            made = httpx.post(f"{live.url}/v1/compile_jobs", json=body, headers=headers, timeout=60)
            assert made.status_code == 201, made.text
        week = usage(live, keys["jun"], "/keys")
        assert {row["label"]: row["jobs"] for row in week["data"]} == {"bo": 2, "ana": 1}
        shown = subprocess.run(
            [Path(sys.executable).with_name("stillhouse"), "usage", "--days", "7"],
            env={"STILLHOUSE_BASE_URL": live.url, "STILLHOUSE_API_KEY": keys["jun"], "COLUMNS": "160"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert re.search(r"^bo +key-\S+ +0 +0\.00 +2 ", shown.stdout, flags=re.MULTILINE), shown.stdout + shown.stderr
