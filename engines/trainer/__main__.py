"""``python -m engines.trainer WORK_DIR``: exit 0 done, 2 bad input (error.json), 3 stopped by SIGTERM, else a crash."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from pathlib import Path

EXIT_DONE, EXIT_BAD_INPUT, EXIT_DRAINED = 0, 2, 3
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main(arguments: list[str]) -> int:
    """Train in the given work folder. SIGTERM asks for a checkpoint after the training step under way."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if len(arguments) != 1:
        logging.getLogger(__name__).error("usage: python -m engines.trainer WORK_DIR")
        return EXIT_BAD_INPUT
    if os.environ.get("STILLHOUSE_DIE_WITH_PARENT") == "1":
        _die_with_parent(stop)
    _quiet_libraries()
    return _train(Path(arguments[0]).resolve(), stop)


def _die_with_parent(stop: threading.Event) -> None:
    """On Linux: SIGTERM, so a checkpoint, when the thread that started us ends. Elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it ended before we asked
        stop.set()


def _train(folder: Path, stop: threading.Event) -> int:
    # Imported here: torch takes seconds, and SIGTERM must be heard from the start.
    from engines.trainer.errors import BadInput
    from engines.trainer.files import write_json
    from engines.trainer.run import Drained, run

    for name in ("result.json", "error.json"):
        (folder / name).unlink(missing_ok=True)
    try:
        result = run(folder, stop)
    except BadInput as error:
        logging.getLogger(__name__).error("%s: %s", error.code, error.message)
        write_json(folder / "error.json", {"code": error.code, "message": error.message, "param": error.param})
        return EXIT_BAD_INPUT
    except Drained:
        logging.getLogger(__name__).info("stopped on request")
        return EXIT_DRAINED
    logging.getLogger(__name__).info("done: %d steps, loss %.4f, %.0f s", result.steps, result.final_loss, result.seconds)
    return EXIT_DONE


def _quiet_libraries() -> None:
    """No progress bars in the log, no calls home, and no threads that a tokenizer keeps for itself."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if os.environ.get("STILLHOUSE_ALLOW_HUB") != "1":
        os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
