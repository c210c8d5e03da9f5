"""``python -m engines.trainer WORK_DIR``: exit 0 done, 2 bad input (error.json), 3 stopped by SIGTERM, 4 out of memory
(error.json), else a crash."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path

from engines.process import die_with_parent, quiet_libraries
from engines.sharing import Sign, give_way

EXIT_DONE, EXIT_BAD_INPUT, EXIT_DRAINED, EXIT_OUT_OF_MEMORY = 0, 2, 3, 4


def main(arguments: list[str]) -> int:
    """Train in the given work folder. SIGTERM asks for a checkpoint after the training step under way."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if len(arguments) != 1:
        logging.getLogger(__name__).error("usage: python -m engines.trainer WORK_DIR")
        return EXIT_BAD_INPUT
    if die_with_parent():  # so a checkpoint, where there is one to write
        stop.set()
    training = Sign("training")
    training.show()  # from now on: loading torch and the weights keeps a processor busy too
    _quiet_libraries()
    return _train(Path(arguments[0]).resolve(), stop, training)


def _train(folder: Path, stop: threading.Event, training: Sign) -> int:
    # Imported here: torch takes seconds, and SIGTERM must be heard from the start.
    from engines.trainer.errors import BadInput
    from engines.trainer.files import write_json
    from engines.trainer.memory import shortage
    from engines.trainer.run import Drained, device, run

    if device().type == "cpu":
        give_way()
    else:
        training.show(False)
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
    except (MemoryError, RuntimeError) as error:
        if (message := shortage(error)) is None:
            raise
        logging.getLogger(__name__).error("out of memory: %s", message)
        write_json(folder / "error.json", {"code": "out_of_memory", "message": message, "param": None})
        return EXIT_OUT_OF_MEMORY
    logging.getLogger(__name__).info("done: %d steps, loss %.4f, %.0f s", result.steps, result.final_loss, result.seconds)
    return EXIT_DONE


def _quiet_libraries() -> None:
    quiet_libraries()
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
