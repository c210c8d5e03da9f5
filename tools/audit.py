"""`python -m tools.audit`: look every locked package up in the advisories that PyPI keeps (https://github.com/pypa/advisory-database).

Exit status: 0 nothing found but what is accepted, 1 a finding, 2 no advisories could be reached, so that nothing is known; 0 in that case
with `--allow-unreachable`, for machines without a way out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCKS = ("constraints.txt", "bench/requirements.txt", "tools/requirements.txt")
CLEAN, FOUND, UNKNOWN = 0, 1, 2


@dataclass(frozen=True)
class Finding:
    """`package` and its locked version, the advisory's ids, and the versions that mend it."""

    package: str
    ids: tuple[str, ...]
    mended_in: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.package}: {', '.join(self.ids)}; mended in {', '.join(self.mended_in) or 'no release'}"


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    found, unknown = list[Finding](), False
    for lock in LOCKS:
        told = _ask(options.program, lock)
        if told is None or not any("vulns" in package for package in told):
            print(f"NOT AUDITED: no advisories could be reached, so nothing is known about the packages of {lock}", file=sys.stderr)
            unknown = True
        else:
            found += findings(told)
    left = [each for each in found if not accepted(each, date.today())]
    for each in left:
        print(each, file=sys.stderr)
    return FOUND if left else UNKNOWN if unknown and not options.allow_unreachable else CLEAN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description="Look every locked package up in the known advisories.")
    parser.add_argument("program", help="pip-audit")
    parser.add_argument("--allow-unreachable", action="store_true", help="succeed where no advisories can be reached")
    return parser


def _ask(program: str, lock: str) -> list[dict[str, Any]] | None:
    """pip-audit's `dependencies`; it exits with 1 when it found something, and its report is whole all the same."""
    command = [program, "--requirement", lock, "--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return packages


def findings(packages: Sequence[dict[str, Any]]) -> list[Finding]:
    return [
        Finding(f"{package['name']} {package['version']}", (each["id"], *each.get("aliases", ())), tuple(each.get("fix_versions", ())))
        for package in packages
        for each in package.get("vulns", ())
    ]


def accepted(finding: Finding, today: date, path: Path = HERE / "accepted-findings.toml") -> bool:
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("finding", [])
    return any(entry["id"] in finding.ids and entry["reason"] and today <= entry["until"] for entry in entries)


if __name__ == "__main__":
    sys.exit(main())
