"""`python -m tools.sbom CYCLONEDX-PY OUT`: what is installed beside this interpreter, as a CycloneDX bill of materials in JSON.

Our own packages are installed from this folder; where it lies is nobody's business, so links to it are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str]) -> int:
    program, out = argv
    command = [program, "environment", sys.executable, "--pyproject", "pyproject.toml", "--output-reproducible", "--output-format", "JSON"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    bill = without_links_to_files(json.loads(done.stdout))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"{len(bill['components'])} packages in {out}")
    return 0


def without_links_to_files(bill: dict[str, Any]) -> dict[str, Any]:
    for component in (bill["metadata"]["component"], *bill["components"]):
        links = component.get("externalReferences", [])
        component["externalReferences"] = [link for link in links if not link["url"].startswith("file:")]
    return bill


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
