"""What `ops/` gives operators: alert rules that hold their own tests, units for systemd that start what there is."""

import configparser
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from distill.settings import TimerSettings
from stack import cli, plan

OPS = Path(__file__).parents[3] / "ops"
UNITS = sorted((OPS / "systemd").glob("*.service"))


def unit(path: Path) -> dict[str, str]:
    """The settings of its section [Service]; of repeated ones the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return dict(parser["Service"])


def promtool(*words: str, folder: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("promtool is not on PATH: install the package of this name, so that the alert rules are tested")
    done = subprocess.run([str(program), *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alert_rules_pass_their_tests() -> None:
    promtool("test", "rules", "alerts_test.yml", folder=OPS / "prometheus")


def test_dashboard_asks_what_prometheus_can_read(tmp_path: Path) -> None:
    panels = json.loads((OPS / "grafana" / "stillhouse.json").read_text())["panels"]
    asked = sorted({target["expr"] for panel in panels for target in panel.get("targets", ())})
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "rules.yml", folder=tmp_path)


@pytest.mark.parametrize("path", UNITS, ids=[path.stem for path in UNITS])
def test_unit_starts_a_command_with_options_that_exist(path: Path) -> None:
    program, *words = shlex.split(unit(path)["ExecStart"])
    if program.endswith("/python"):
        known = plan.lm_host_command("base", "127.0.0.1", 1, 1)
        assert {word for word in words if word.startswith("-")} <= {*known, "--log-format"}
        return
    verb, *options = [{"%i": "train", "$THREADS": "1"}.get(word, word) for word in words]
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    command = group.commands[verb]
    command.make_context(verb, options)  # raises for an unknown option or a bad value


@pytest.mark.parametrize("path", UNITS, ids=[path.stem for path in UNITS])
def test_unit_gives_its_process_time_to_drain_and_bounds_it(path: Path) -> None:
    service = unit(path)
    assert service["KillMode"] == "mixed"
    assert {"LimitNOFILE", "TasksMax", "MemoryMax"} <= set(service)
    if "worker" in path.stem:
        assert float(service["TimeoutStopSec"]) > TimerSettings().drain_seconds + 10
