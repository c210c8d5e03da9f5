"""Each import contract can be broken: a contract that nothing breaks is no contract."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = {
    **{name: ROOT / name for name in ("app", "workers", "engines", "distill", "migrations", "stack")},
    "stillhouse_programs": ROOT / "programs" / "src" / "stillhouse_programs",
    "stillhouse": ROOT / "client" / "src" / "stillhouse",
}

# contract → (module, forbidden import)
PLANTS = {
    "Two doors, one house, and a starter on top": ("distill.errors", "import workers.celery_app"),
    "The stack starts processes; it imports the house and the migrations": ("stack.errors", "import app.main"),
    "Inside the house": ("distill.errors", "import distill.jobs.status"),
    "Engines, SDK and programs stand alone": ("engines.base_models", "import distill.errors"),
    "The server touches no dspy and no weights": ("distill.jobs.status", "import torch"),
    "The API knows no pipeline and writes no SQL": ("app.errors", "from sqlalchemy import select"),
    "The house knows no web framework; Celery in queue alone": ("distill.jobs.status", "import celery"),
    "Pipeline, rollouts, trainers and relay reach rows through ports": ("distill.pipeline.keys", "import distill.db"),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages side by side, with the contracts."""
    folder = tmp_path_factory.mktemp("packages")
    for name, source in PACKAGES.items():
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def planted(copied: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The copy with one forbidden import in it."""
    module, statement = request.param
    file = copied / (module.replace(".", "/") + ".py")
    original = file.read_text()
    file.write_text(f"{original}\n{statement}\n")
    yield copied
    file.write_text(original)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False)


def test_every_contract_has_a_plant() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == set(PLANTS)


def test_the_code_keeps_every_contract(copied: Path) -> None:
    done = lint(copied)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("planted", "contract"), [(plant, name) for name, plant in PLANTS.items()], indirect=["planted"], ids=PLANTS)
def test_a_planted_import_is_found(planted: Path, contract: str) -> None:
    done = lint(planted)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in " ".join(done.stdout.split())


def test_a_new_module_of_the_house_must_be_given_its_place(copied: Path) -> None:
    stray = copied / "distill" / "helpers.py"
    stray.write_text('"""Belongs nowhere."""\n')
    done = lint(copied)
    stray.unlink()
    assert done.returncode != 0
    assert "distill.helpers" in done.stdout
