"""What we are made of: packages pinned by their hashes, nothing that runs at every start of Python, known advisories looked up."""

from __future__ import annotations

import re
import stat
import sysconfig
import tomllib
from datetime import date
from pathlib import Path

import pytest

from tools import audit, sbom

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / name for name in (*audit.LOCKS, "model.txt")]

#: Releases that carried somebody else's code; a lock that names one was made on a bad day.
DENIED = {"litellm==1.82.7", "litellm==1.82.8", "ultralytics==8.3.41", "ultralytics==8.3.42"}


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_every_package_has_one_version_and_its_hashes(self, lock: Path) -> None:
        entries = re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", lock.read_text()))
        for entry in filter(str.strip, entries):
            assert re.match(r"[A-Za-z0-9._\[\]-]+(==\S+| @ )", entry), entry
            assert "--hash=sha256:" in entry, entry

    @pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_no_release_that_is_known_to_be_hostile(self, lock: Path) -> None:
        assert not DENIED & set(re.findall(r"(?m)^\S+==[^ \\\n;]+", lock.read_text()))


#: What `.pth` files may run: setuptools for itself, and setuptools for a package of ours that is installed from its folder.
RUNS = re.compile(
    r"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get\(var, 'local'\) == 'local'; "
    r"enabled and __import__\('_distutils_hack'\)(\.add_shim\(\))?;? *"
    r"|import (__editable___stillhouse_\w+_finder); \2\.install\(\)"
)


@pytest.mark.record("litellm-1.82.8")
def test_nothing_of_others_runs_at_every_start_of_python() -> None:
    """A `.pth` file's lines that begin with `import` are run by every process: that is how litellm 1.82.8 read its victims' keys."""
    files = Path(sysconfig.get_path("purelib")).glob("*.pth")
    lines = {line for path in files for line in path.read_text().splitlines() if line.startswith(("import ", "import\t"))}
    assert {line for line in lines if not RUNS.fullmatch(line)} == set()


class TestAudit:
    VULNERABLE = (
        '{"dependencies": [{"name": "jinja2", "version": "3.1.2", '
        '"vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.1.3"]}]}]}'
    )
    SKIPPED = '{"dependencies": [{"name": "jinja2", "skip_reason": "Dependency not found on PyPI"}]}'
    CLEAN = '{"dependencies": [{"name": "jinja2", "version": "3.1.6", "vulns": []}]}'

    @pytest.mark.parametrize(
        ("report", "options", "status", "says"),
        [
            (CLEAN, [], 0, ""),
            (VULNERABLE, [], 1, "jinja2 3.1.2: PYSEC-1, CVE-1; mended in 3.1.3"),
            (SKIPPED, [], 2, "NOT AUDITED"),
            ("a proxy's page", [], 2, "NOT AUDITED"),
            (SKIPPED, ["--allow-unreachable"], 0, "NOT AUDITED"),
            (VULNERABLE, ["--allow-unreachable"], 1, "PYSEC-1"),
        ],
    )
    def test_tells_what_it_knows(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], report: str, options: list[str], status: int, says: str
    ) -> None:
        program = tmp_path / "pip-audit"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{report}\nEND\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        assert audit.main([str(program), *options]) == status
        assert says in capsys.readouterr().err

    def test_what_is_known_is_told_where_the_rest_is_not(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        program = tmp_path / "pip-audit"
        program.write_text(f"#!/bin/sh\ncase $2 in constraints.txt) echo '{self.VULNERABLE}';; *) echo '{self.SKIPPED}';; esac\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        assert audit.main([str(program), "--allow-unreachable"]) == 1
        told = capsys.readouterr().err
        assert "PYSEC-1" in told
        assert told.count("NOT AUDITED") == 2

    def test_a_finding_is_accepted_for_a_time_and_for_a_reason(self, tmp_path: Path) -> None:
        entries = tmp_path / "accepted.toml"
        entries.write_text('[[finding]]\nid = "CVE-1"\nreason = "never called"\nuntil = 2026-12-01\n')
        finding = audit.Finding("jinja2 3.1.2", ("PYSEC-1", "CVE-1"), ())
        assert audit.accepted(finding, date(2026, 12, 1), entries)
        assert not audit.accepted(finding, date(2026, 12, 2), entries)
        assert not audit.accepted(audit.Finding("jinja2 3.1.2", ("PYSEC-2",), ()), date(2026, 12, 1), entries)

    def test_what_is_accepted_here_is_still_found_in_time(self) -> None:
        entries = tomllib.loads((ROOT / "tools/accepted-findings.toml").read_text()).get("finding", [])
        assert all(len(entry["reason"]) > 10 and isinstance(entry["until"], date) for entry in entries)


def test_a_bill_of_materials_names_no_folder_of_ours() -> None:
    links = [{"type": "distribution", "url": "file:///home/ana/stillhouse"}, {"type": "website", "url": "https://example.com"}]
    bill = {"metadata": {"component": {"name": "stillhouse-server"}}, "components": [{"name": "stillhouse", "externalReferences": links}]}
    assert sbom.without_links_to_files(bill)["components"][0]["externalReferences"] == links[1:]
