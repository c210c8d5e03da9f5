"""The doctor's looks at this machine: packages, interpreters, disk, device, and what user code may do."""

import http.client
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from distill.redaction import redacted
from distill.relay import api_of
from distill.sandbox import Choice, choose_for
from distill.settings import ConnectionSettings, Settings, TimerSettings
from stack.errors import StackError
from stack.findings import Finding, odd, well, worst_of, wrong

PACKAGES = ("stillhouse-server", "stillhouse-programs", "dspy", "fastapi", "sqlalchemy", "celery", "torch", "transformers", "peft")
LEAST_FREE_GB = 2.0
_INSTALL_TORCH = "install stillhouse-server[train]"
_START_SECONDS = 120.0
_BEATS_A_LEASE = 4
_RUNS_PROGRAMS = "from importlib.metadata import version as v; v('stillhouse-programs'); print('dspy', v('dspy'))"
_TRAINS_ON = "import torch; c = torch.cuda; print('cuda ' + c.get_device_name() if c.is_available() else 'cpu')"


def python() -> Finding:
    return well(f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Finding:
    return well(", ".join(_package(name) for name in PACKAGES))


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


def settings_file(named: str | None) -> Finding:
    """`named` is the variable that names it, where that is set."""
    path = Path(named or "stillhouse.toml").absolute()
    if path.is_file():
        return well(str(path))
    if named is None:
        return well("no stillhouse.toml in this folder: defaults and environment hold")
    return odd(f"{path} is not there: defaults and environment hold", "write it, or mend STILLHOUSE_CONFIG")


def disk(settings: Settings) -> Finding:
    """Of the home, the blobs and the temporary folder, as far as they are different disks."""
    places: dict[int, tuple[Path, float]] = {}
    for folder in (settings.home.expanduser().absolute(), settings.blob_root.expanduser().absolute(), Path(tempfile.gettempdir())):
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        places.setdefault(existing.stat().st_dev, (folder, shutil.disk_usage(existing).free / 1e9))
    return judge_disk(places.values())


def judge_disk(places: Iterable[tuple[Path, float]]) -> Finding:
    """From folders and the GB that are free for each."""
    return worst_of(_room(f"{free:.1f} GB free for {folder}", free) for folder, free in places)


def _room(detail: str, free_gb: float) -> Finding:
    if free_gb >= LEAST_FREE_GB:
        return well(detail)
    return wrong(detail, f"make room: at least {LEAST_FREE_GB:.0f} GB are needed")


def runtimes(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """Whether each interpreter can run programs."""
    for name, interpreter in settings.pythons.items():
        yield f"Runtime {name}", _runtime(interpreter)


def _runtime(interpreter: str) -> Finding:
    advice = "name an interpreter in [runtimes] that has stillhouse-programs[dspy] installed"
    try:
        said = _ask(interpreter, _RUNS_PROGRAMS)
    except (OSError, subprocess.SubprocessError) as error:
        return wrong(f"{interpreter} cannot run programs: {_last_line(error)}", advice)
    return well(f"{interpreter}, {said}")


def timers(asked: TimerSettings) -> Finding:
    """Whether the timers that belong together fit together."""
    detail = f"a beat each {asked.beat_seconds:g} s, a lease of {asked.lease_seconds:g} s"
    if asked.lease_seconds < _BEATS_A_LEASE * asked.beat_seconds:
        advice = f"set [timers] lease_seconds to {_BEATS_A_LEASE * asked.beat_seconds:g} or more: one slow beat would lose the work"
        return wrong(detail, advice)
    return well(detail)


def spans(endpoint: str) -> Finding:
    """Where they go, and whether this installation can send them."""
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        return odd("an endpoint is set, and no spans are sent: OpenTelemetry is not installed", "install stillhouse-server[tracing]")
    return well(f"spans are sent to {redacted(endpoint)}")


def sandbox(settings: Settings) -> Finding:
    """Tried here and now, by who runs this command: a worker that is another user may find another rung."""
    return judge_sandbox(choose_for(settings), settings.references)


def judge_sandbox(choice: Choice, references: Sequence[str]) -> Finding:
    """From what came of the rungs that were tried."""
    if choice.rung is not None:
        return well(choice.why)
    if references:
        return wrong(f"none holds, so programs of {', '.join(references)} are refused; {choice.why}", choice.advice)
    meaning = "no code of users can be allowed, and specs run in a process with network and disk"
    return odd(f"none holds: {meaning}; {choice.why}", choice.advice)


def has_torch() -> bool:
    """Whether this Python can load weights."""
    return find_spec("torch") is not None


def require_lm_host(base_model: str) -> None:
    """Raises StackError where this Python cannot run the embedded LM host."""
    if not has_torch():
        raise StackError(f"the LM host cannot start, since torch is not installed: {_INSTALL_TORCH}, or leave it out with --no-lm-host")
    done = subprocess.run([sys.executable, "-m", "engines.base_models", base_model], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"the LM host cannot start: {done.stderr.strip()} Or leave it out with --no-lm-host")


def require_trainer(other_queues: Sequence[str]) -> None:
    """Raises StackError where this Python cannot train; `other_queues` are those that it was also to take work from."""
    if not has_torch():
        others = f"take work from the others alone with --queues {','.join(other_queues)}" if other_queues else "run this worker elsewhere"
        raise StackError(f"a worker of the queue `train` cannot start, since torch is not installed: {_INSTALL_TORCH}, or {others}")


def device() -> Finding:
    """What a trainer on this machine would use."""
    has_card = shutil.which("nvidia-smi") is not None
    if not has_torch():
        return well("this machine does not train: torch is not installed")
    try:
        return judge_device(_ask(sys.executable, _TRAINS_ON), has_card=has_card)
    except (OSError, subprocess.SubprocessError) as error:
        return wrong(
            f"torch cannot be imported: {_last_line(error)}", "install the extra `train` anew, or run no worker of the queue `train` here"
        )


def judge_device(said: str, *, has_card: bool) -> Finding:
    """From the device that torch chooses."""
    if said == "cpu" and has_card:
        return odd("cpu, though there is a graphics card", "install a torch build for it: TORCH_BACKEND of the Dockerfile")
    return well(said)


def _ask(interpreter: str, script: str) -> str:
    done = subprocess.run([interpreter, "-c", script], capture_output=True, text=True, check=True, timeout=_START_SECONDS)
    return done.stdout.strip()


def _last_line(error: Exception) -> str:
    said = str(getattr(error, "stderr", "") or "").strip() or str(error)
    return said.splitlines()[-1]


def connections(settings: Settings) -> dict[str, ConnectionSettings]:
    found = dict(settings.connections)
    if settings.lmhost_url:
        found.setdefault("house", ConnectionSettings(base_url=settings.lmhost_url, api_key_env="STILLHOUSE_LMHOST_KEY"))
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is for the host that it was given for, as in the relay."""

    def redirect_request(self, *_: object) -> None:
        return None


def connection(asked: ConnectionSettings) -> Finding:
    """Asks for the list of models, which costs nothing."""
    if asked.api_key_env and asked.api_key_env not in os.environ:
        return wrong(f"its key is not set: {asked.api_key_env}", "set this variable for every worker, the API and this command")
    key = os.environ.get(asked.api_key_env or "", "")
    url = f"{api_of(asked.base_url)}/models"
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310 - the operator's address
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=5) as reply:
            return well(f"{url} answers {reply.status}")
    except urllib.error.HTTPError as error:
        with error:
            advice = f"give {asked.api_key_env or 'api_key_env'} a key that this host takes" if error.code in (401, 403) else "see base_url"
            return wrong(f"{url} answers {error.code} {error.reason}", advice)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return wrong(f"{url} is not reached: {getattr(error, 'reason', error)}", "start it, or mend base_url; jobs that need it wait")
