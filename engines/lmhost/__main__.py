"""``python -m engines.lmhost --base NAME --port N``: serve one base model and its LoRA adapters."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> int:
    """Serve until told to stop; exit status 2 where torch is not installed."""
    if find_spec("torch") is None:
        print("torch is not installed: install the extra `train` of stillhouse-server", file=sys.stderr)
        return 2
    from engines.lmhost.serve import main as serve  # loads torch

    return serve()


if __name__ == "__main__":
    sys.exit(main())
