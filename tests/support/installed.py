"""An interpreter of its own with the tests' package installed, as an operator sets one up for programs that run by reference."""

import shutil
import sysconfig
import venv
from pathlib import Path

PACKAGES = Path(__file__).parent / "packages"
PACKAGE = "support_desk"


def make_runtime(folder: Path) -> str:
    """Create the interpreter in `folder` and return its path; it sees everything that this process has installed."""
    venv.create(folder, symlinks=True, with_pip=False)
    folder.chmod(0o755)  # pytest's are closed to the user that runners are
    packages = _site_packages(folder)
    (packages / "everything.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    shutil.copytree(PACKAGES / PACKAGE, packages / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    return str(folder / "bin" / "python")


def module_file(folder: Path, module: str) -> Path:
    """The file of an installed module, to be changed by a test."""
    return _site_packages(folder) / PACKAGE / f"{module}.py"


def _site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))
