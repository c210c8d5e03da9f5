"""``python -m engines.resolver``: the options that a training of these rows would run with, by the trainer's own code; no torch.

On stdin one ResolveRequest a line, then the rows, one TrainingRow a line. On stdout the ResolvedOptions.
"""

from __future__ import annotations

import json
import sys

from engines.base_models import resolve
from engines.process import die_with_parent, quiet_libraries
from engines.schemas import ResolveRequest
from engines.trainer.facts import facts_of
from engines.trainer.options import resolve_options
from engines.trainer.start import kept_options


def main() -> int:
    """Answer once. Raises what a training would be refused for, and ends with a traceback then."""
    die_with_parent()
    quiet_libraries()
    request = ResolveRequest.model_validate_json(sys.stdin.buffer.readline())
    base = resolve(request.base_model)
    context = json.loads((base.folder() / "config.json").read_text())["max_position_embeddings"]
    given = request.options if request.start is None else kept_options(request.start, base, request.options)
    sys.stdout.write(resolve_options(given, facts_of(sys.stdin.buffer), context).model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
