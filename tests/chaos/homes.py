"""Where a world lives: in memory where that can be, since its servers write a lot that nobody reads again."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")


@contextmanager
def home() -> Iterator[Path]:
    """A folder that is removed at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-chaos-", dir=_MEMORY if _MEMORY.is_dir() else None))
    folder.chmod(0o711)  # the database's user must pass
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
