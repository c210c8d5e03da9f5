"""Compose file, Dockerfile, example settings and make targets agree with the code."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core
import yaml
from typer.testing import CliRunner

from distill.settings import Settings
from stack import cli, plan
from stack.network import free_port
from tests.support import databases

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GPU_SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service and "entrypoint" not in service]
FILES = ("docker-compose.yml", "docker-compose.gpu.yml")
READERS = ["base-model", "vllm", "worker-train", "worker-rollouts"]
ENGINE_OPTIONS = {word for word in plan.lm_host_command("base", "127.0.0.1", 1, 1) if word.startswith("--")}


class TestCompose:
    def test_docker_accepts_it(self, tmp_path: Path) -> None:
        """Where Docker is at hand it reads the file; elsewhere every variable that must be set is at least explained."""
        names = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
        assert names == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "STILLHOUSE_LMHOST_KEY"}
        if docker := shutil.which("docker"):
            env_file = tmp_path / "env"
            env_file.write_text("".join(f"{name}=x\n" for name in names))
            done = subprocess.run(
                [docker, "compose", "--env-file", env_file, "config", "-q"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("name", OURS)
    def test_every_command_exists_with_its_options(self, name: str) -> None:
        verb, *options = SERVICES[name]["command"]
        group = typer.main.get_command(cli.app)
        assert isinstance(group, typer.core.TyperGroup)
        command = group.commands[verb]
        command.make_context(verb, options)  # raises for an unknown option or a bad value

    def test_the_lm_host_is_started_as_the_stack_starts_it(self) -> None:
        service = SERVICES["lm-host"]
        assert service["entrypoint"] == ["python", "-m", "engines.lmhost"]
        assert {word for word in service["command"] if word.startswith("--")} == ENGINE_OPTIONS

    def test_every_queue_has_a_worker(self) -> None:
        queues = [SERVICES[name]["command"][2] for name in OURS if SERVICES[name]["command"][0] == "worker"]
        assert sorted(queues) == sorted(plan.QUEUES)

    def test_images_are_targets_of_the_dockerfile(self) -> None:
        targets = set(re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
        assert {service["build"]["target"] for service in SERVICES.values() if "build" in service} <= targets

    def test_every_service_that_answers_has_a_health_check_and_every_other_an_init(self) -> None:
        assert [name for name, service in SERVICES.items() if "healthcheck" in service] == ["postgres", "redis", "api", "lm-host"]
        assert not [name for name in OURS if SERVICES[name].get("init") is not True]

    def test_what_is_ours_has_no_powers_and_gets_none(self) -> None:
        """And the default profile of system calls, under which the sandbox is tried: `tests/security/contained.py`."""
        ours = [*OURS, "lm-host"]
        assert {str(SERVICES[name].get("cap_drop")) for name in ours} == {"['ALL']"}
        assert {str(SERVICES[name].get("security_opt")) for name in ours} == {"['no-new-privileges:true']"}
        assert not [name for name in ours if {"privileged", "cap_add", "user", "pid"} & SERVICES[name].keys()]
        stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]
        last = {stage.split()[2]: re.findall(r"^USER (\w+)$", stage, flags=re.MULTILINE)[-1:] for stage in stages}
        assert last == {"core": [], "server": ["stillhouse"], "api": [], "worker": ["stillhouse"], "engine": ["stillhouse"]}

    def test_no_secret_is_written_down(self) -> None:
        for service in SERVICES.values():
            for name, value in service.get("environment", {}).items():
                if re.search("PASSWORD|KEY", name):
                    assert re.fullmatch(r"\$\{\w+:[?-].*\}", value), name


class TestComposeWithAGpu:
    """No test here has a GPU or Docker: the file says what it has to say."""

    def environment(self, name: str) -> dict[str, str]:
        return {**GPU_SERVICES[name]["environment"]}

    def test_docker_accepts_both_files(self, tmp_path: Path) -> None:
        names = set(re.findall(r"\$\{(\w+):\?", "".join((ROOT / file).read_text() for file in FILES)))
        assert names == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "STILLHOUSE_LMHOST_KEY", "VLLM_API_KEY"}
        if docker := shutil.which("docker"):
            env_file = tmp_path / "env"
            env_file.write_text("".join(f"{name}=x\n" for name in names))
            files = [word for file in FILES for word in ("-f", file)]
            command = [docker, "compose", "--env-file", str(env_file), *files, "config", "-q"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

    def test_host_and_trainer_have_one_and_the_same_gpu(self) -> None:
        reserved = {
            name: service["deploy"]["resources"]["reservations"]["devices"] for name, service in GPU_SERVICES.items() if "deploy" in service
        }
        assert set(reserved) == {"worker-train", "vllm"}
        assert reserved["vllm"] == reserved["worker-train"]
        assert reserved["vllm"][0]["device_ids"] == ["0"]

    def test_the_trainer_gets_a_torch_for_it(self) -> None:
        (argument,) = GPU_SERVICES["worker-train"]["build"]["args"]
        assert f"ARG {argument}=cpu" in (ROOT / "Dockerfile").read_text()
        assert re.fullmatch(r"\$\{TORCH_BACKEND:-cu\d+\}", GPU_SERVICES["worker-train"]["build"]["args"][argument])

    def test_whoever_reads_the_base_model_reads_the_one_that_was_fetched(self) -> None:
        """The token counter is in the workers of rollouts."""
        places = {
            (self.environment(name)["HF_HOME"], "data:/data" in (GPU_SERVICES[name] | SERVICES.get(name, {}))["volumes"])
            for name in READERS
        }
        assert places == {("/data/huggingface", True)}
        for name in READERS[1:]:
            assert GPU_SERVICES[name]["depends_on"] == {"base-model": {"condition": "service_completed_successfully"}}
        assert GPU_SERVICES["vllm"]["command"][0] == f"--model={GPU_SERVICES['base-model']['command'][0]}"
        assert [name for name in GPU_SERVICES if "HF_TOKEN" in GPU_SERVICES[name].get("environment", {})] == ["base-model"]

    def test_the_host_can_sleep_and_load_adapters(self) -> None:
        assert {"--enable-sleep-mode", "--enable-lora"} <= set(GPU_SERVICES["vllm"]["command"])
        assert self.environment("vllm")["VLLM_SERVER_DEV_MODE"] == "1"
        assert self.environment("vllm")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
        assert "ports" not in GPU_SERVICES["vllm"]

    def test_versions_are_pinned(self) -> None:
        assert re.fullmatch(r"vllm/vllm-openai:\$\{VLLM_VERSION:-v\d+\.\d+\.\d+\}", GPU_SERVICES["vllm"]["image"])
        model, option, revision = GPU_SERVICES["base-model"]["command"]
        assert option == "--revision"
        assert re.fullmatch(r"\$\{VLLM_REVISION:-[0-9a-f]{40}\}", revision)
        assert {f"--revision={revision}", f"--tokenizer-revision={revision}"} <= set(GPU_SERVICES["vllm"]["command"])
        for name in ("worker-train", "worker-rollouts"):
            assert self.environment(name)["STILLHOUSE_HUB_REVISIONS"] == f"{model}@{revision}"

    def test_every_process_of_ours_knows_vllm_and_no_embedded_host(self) -> None:
        for name in {*OURS, "lm-agent-vllm"} - {"lm-agent"}:
            assert self.environment(name)["STILLHOUSE_LMHOST_URL"] == ""
            assert self.environment(name)["VLLM_API_KEY"] == "${VLLM_API_KEY:?set VLLM_API_KEY in .env}"
        assert [name for name, service in GPU_SERVICES.items() if "profiles" in service] == ["lm-host", "lm-agent"]


class TestExampleSettings:
    TEXT = (ROOT / "stillhouse.example.toml").read_text()

    def test_what_is_shown_is_the_default(self) -> None:
        assert Settings(**tomllib.loads(self.TEXT)) == Settings()

    @pytest.mark.parametrize("section", ["server", "timers", "limits", "lmhost", "retention"])
    def test_every_setting_is_shown(self, section: str) -> None:
        """With what it is for, or a name that says it."""
        lines = self.TEXT.partition(f"[{section}]\n")[2].partition("\n[")[0]
        assert set(re.findall(r"^#?(\w+) = ", lines, flags=re.MULTILINE)) >= set(type(getattr(Settings(), section)).model_fields)

    def test_the_examples_in_it_are_valid(self) -> None:
        uncommented = re.sub(r"^#(?=\S)", "", self.TEXT, flags=re.MULTILINE)
        settings = Settings(**tomllib.loads(uncommented))
        assert set(settings.connections) == {"openai", "vllm"}


class TestMakefile:
    def test_help_lists_every_target_for_people(self) -> None:
        done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
        listed = {row.split()[0] for row in done.stdout.splitlines()}
        assert {"setup", "demo", "serve", "test", "test-slow", "check", "bench", "clean"} <= listed

    @pytest.mark.parametrize("target", ["demo", "serve", "test", "test-slow", "check", "bench", "lock"])
    def test_every_target_can_be_planned(self, target: str) -> None:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_pinned_packages_carry_hashes_and_no_address(self) -> None:
        text = (ROOT / "constraints.txt").read_text()
        pinned = re.findall(r"^([a-z0-9.-]+)==", text, flags=re.MULTILINE)
        assert len(pinned) > 100
        assert text.count("--hash=sha256:") >= len(pinned)
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)
        assert not [name for name in pinned if name.startswith(("torch", "nvidia"))]


class TestCommandLine:
    def run(self, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stack.cli", *arguments, "--home", str(home)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_an_unknown_queue_is_refused_with_the_known_ones(self, tmp_path: Path) -> None:
        done = self.run("worker", "--queues", "ligth", home=tmp_path)
        assert done.returncode == 1
        assert "ligth" in done.stderr
        assert "light, rollouts, train" in done.stderr

    def test_down_without_a_stack_says_so(self, tmp_path: Path) -> None:
        done = self.run("down", home=tmp_path)
        assert (done.returncode, done.stdout) == (0, "No stack runs on this home.\n")


class TestWhatAnOperatorCanMend:
    """It is one line that says what to do, and no traceback."""

    def run(self, *arguments: str) -> str:
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.stderr.startswith("stillhouse-server: "), done.output
        assert done.output.count("\n") == 1, done.output
        return done.stderr

    @pytest.mark.parametrize("command", ["up", "down", "api"])
    def test_a_home_that_cannot_be_made(self, tmp_path: Path, command: str) -> None:
        (tmp_path / "file").write_text("")
        home = tmp_path / "file" / "home" if command != "down" else tmp_path / "home"
        if command == "down":
            (home / "lock").mkdir(parents=True)
        assert f"{home} cannot be used as the home: " in self.run(command, "--home", str(home))

    def test_a_setting(self, tmp_path: Path) -> None:
        (tmp_path / "stillhouse.toml").write_text("[timers]\nlease_second = 60\n")
        assert "did you mean `lease_seconds`?" in self.run("up")

    def test_a_database_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", f"postgresql://127.0.0.1:{free_port()}/stillhouse")
        databases.forget_settings()
        assert "Start the server (`stillhouse-server up`) or your PostgreSQL, or mend DATABASE_URL" in self.run("create-key")

    def test_a_home_without_a_server_has_none_to_stop(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli.app, ["down", "--home", str(tmp_path / "none")])
        assert (done.exit_code, done.output) == (0, "No stack runs on this home.\n")


def test_help_names_sections_of_the_settings() -> None:
    assert "[server] port, 8400" in " ".join(CliRunner().invoke(cli.app, ["up", "--help"]).output.replace("│", "").split())
