"""`stillhouse-server`: start the whole stack or one process of it, and look after a server."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from distill.settings import Settings, get_settings
from stack import plan
from stack.console import Shown, literal
from stack.errors import StackError
from stack.home import HomeLock, open_home, read_state
from stack.machine_checks import require_lm_host, require_trainer
from stack.processes import is_running, pause
from stack.supervisor import Stack


class _Commands(TyperGroup):
    """What is in an operator's hands is told in one line; only our own faults are tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        from distill.db import is_outage
        from distill.errors import StillhouseError, in_one_line

        try:
            return super().invoke(ctx)
        except (StackError, StillhouseError) as error:
            _fail(str(error))
        except Exception as error:
            if not is_outage(error):
                raise
            _fail(f"{in_one_line(error)}. Start the server (`stillhouse-server up`) or your PostgreSQL, or mend DATABASE_URL")


app = typer.Typer(name="stillhouse-server", help="The Stillhouse server.", no_args_is_help=True, add_completion=False, cls=_Commands)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

Home = Annotated[Path | None, typer.Option("--home", help="Folder with all data. Default: $STILLHOUSE_HOME, then .stillhouse")]


@app.command()
def up(
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Address that the API listens on. Default: \\[server] host, 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port of the API. Default: \\[server] port, 8400")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Slices of rollouts that run side by side.")] = 2,
    lm_host: Annotated[bool, typer.Option("--lm-host/--no-lm-host", help="Start the embedded LM host.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every line of every part.")] = False,
) -> None:
    """Start everything: servers, API, dispatcher, workers, LM host. Ctrl-C stops it; data stay in the home."""
    settings = _settings(home)
    if lm_host:
        require_lm_host(settings.lmhost.base_model)
    stack = Stack(
        settings.home,
        host=host or settings.server.host,
        port=port or settings.server.port,
        rollout_workers=workers,
        lm_host=lm_host,
        base_model=settings.lmhost.base_model,
        log_format=settings.server.log_format,
        tracing_endpoint=settings.tracing.endpoint,
        drain_seconds=settings.timers.drain_seconds,
        reporter=Shown(_out, verbose=verbose),
    )
    with _stopped_by_signals(stack):
        began = time.monotonic()
        try:
            stack.start()
            _welcome(stack, time.monotonic() - began)
            stack.wait()
        except StackError:
            if not stack.stop_asked:
                raise
        finally:
            _say_stopped(stack.stop())


def _welcome(stack: Stack, seconds: float) -> None:
    home = literal(str(stack.home))
    _out.print(f"\n[bold green]Stillhouse is ready[/] after {seconds:.1f} s: [bold]{stack.base_url}[/]")
    _out.print(f"  API key   {home}/credentials.json (the SDK and `stillhouse` read it)", soft_wrap=True)
    _out.print(f"  API docs  {stack.base_url}/docs")
    _out.print(f"  Logs      {home}/logs", soft_wrap=True)
    _out.print("  Ctrl-C stops it.\n")


def _say_stopped(seconds: float) -> None:
    if seconds:
        _out.print(f"Stopped in {seconds:.1f} s.")


@contextmanager
def _stopped_by_signals(stack: Stack) -> Iterator[None]:
    """Ctrl-C, `kill` and a closed terminal ask for an orderly stop; asking again does not hurry it."""

    def ask(number: int, _frame: object) -> None:
        if not stack.stop_asked:
            _out.print(f"\nStopping ({signal.Signals(number).name}) …")
        stack.ask_to_stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
def down(home: Home = None, seconds: Annotated[float, typer.Option(help="How many seconds to wait for its end.")] = 60) -> None:
    """Stop the stack that runs on a home, from another terminal."""
    folder = _settings(home).home
    pid = HomeLock(folder).running_pid() if folder.is_dir() else None
    if pid is None:
        _out.print("No stack runs on this home.")
        return
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + seconds
    while is_running(pid):  # not our child: nothing tells us when it ends
        if time.monotonic() > end:
            _fail(f"process {pid} still runs after {seconds:.0f} s")
        pause(0.1)
    _out.print("Stopped.")


@app.command()
def api(
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Address that it listens on. Default: \\[server] host, 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Its port. Default: \\[server] port, 8400")] = None,
) -> None:
    """Run the API alone."""
    server = _settings(home).server
    _become(plan.api_command(host or server.host, port or server.port))


@app.command()
def worker(
    home: Home = None,
    queues: Annotated[str, typer.Option(help="Queues to take work from, with commas.")] = ",".join(plan.QUEUES),
    threads: Annotated[int, typer.Option(min=1, help="Work items side by side.")] = 4,
) -> None:
    """Run one Celery worker."""
    _settings(home)
    names = [name.strip() for name in queues.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(plan.QUEUES)):
        _fail(f"unknown queue {', '.join(unknown)}; there are {', '.join(plan.QUEUES)}")
    if "train" in names:
        require_trainer([name for name in names if name != "train"])
    _become(plan.worker_command(names, threads))


@app.command()
def dispatcher(home: Home = None) -> None:
    """Run the dispatcher alone: outbox to Celery, and the reaper of lost leases."""
    _settings(home)
    _become(plan.dispatcher_command())


@app.command(name="lm-agent")
def lm_agent(home: Home = None, connection: Annotated[str, typer.Option(help="The LM host's connection.")] = "house") -> None:
    """Run the agent beside an LM host: it loads tuned models and hands the device over for training."""
    _settings(home)
    _become(plan.lm_agent_command(connection))


@app.command()
def migrate(
    home: Home = None,
    to: Annotated[str | None, typer.Option(help="An older revision, to go back to an older release. Default: the newest")] = None,
) -> None:
    """Bring the database to the newest revision, or with `--to` back to an older one."""
    _settings(home)
    from distill.catalog.key_rotation import warning_of_lost_key
    from distill.db import unit_of_work
    from migrations.runner import head, step_down, upgrade

    if to is not None:
        step_down(to)
        _out.print(f"The database is at revision {to}.")
        return
    upgrade()
    _out.print(f"The database is at revision {head()}.")
    with unit_of_work("api") as session:
        if warning := warning_of_lost_key(session):
            _err.print(f"[bold yellow]warning:[/] {literal(warning)}", soft_wrap=True)


@app.command(name="create-key")
def create_key(
    home: Home = None,
    project: Annotated[str, typer.Option(help="Made when it does not exist.")] = "default",
    label: Annotated[str | None, typer.Option(help="Who or what will use the key. Default: cli")] = None,
    scopes: Annotated[str, typer.Option(help="With commas.")] = "",
    labels: Annotated[
        typer.FileText | None, typer.Option(help="A key for each line of this file (- is standard input), printed as label and key.")
    ] = None,
) -> None:
    """Make an API key, or one for each label of a file, and print it; it is shown only this once."""
    _settings(home)
    from stack.keys import has_project, labels_of, make_key, make_keys

    asked = [name.strip() for name in scopes.split(",") if name.strip()]
    if label is not None and labels is not None:
        _fail("--label and --labels do not go together")
    known = has_project(project)
    if labels is None:
        _out.print(make_key(project, label or "cli", asked), soft_wrap=True)
    else:
        for each, token in make_keys(project, labels_of(labels), asked):
            typer.echo(f"{each}\t{token}")
    if not known:
        _err.print(f"The project {literal(project)} was made: there was none of this name.", soft_wrap=True)


@app.command(name="rotate-key")
def rotate_key(home: Home = None) -> None:
    """Seal stored secrets (keys of connections, secrets of webhooks) under a new key, while the server goes on. Safe to repeat."""
    _settings(home)
    from stack.keys import rotate_sealing_key

    done = rotate_sealing_key()
    _out.print(f"{done.sealed_anew} of {done.secrets} secrets were sealed anew.")
    if done.closed:
        _fail(f"under none of the keys can be opened, and stay as they are: {', '.join(done.closed)}. Give those secrets again")


@app.command()
def drain(
    home: Home = None,
    reason: Annotated[str | None, typer.Option(help="Callers whose jobs are refused read it.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when no work item is held any more.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="With --wait: fail after so many seconds; the server stays drained.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take jobs again.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Change nothing; print how it stands.")] = False,
) -> None:
    """Refuse new jobs, and have workers give back their work and take none, until `--undo`. Reading and calls of models go on."""
    if undo + status > 1 or ((undo or status) and (wait or reason)):
        _fail("--undo and --status go with no other option")
    if timeout is not None and not wait:
        _fail("--timeout goes with --wait")
    _settings(home)
    from stack import maintenance

    if undo or status:
        typer.echo(maintenance.end() if undo else maintenance.status())
        return
    found = maintenance.begin(reason)
    typer.echo(maintenance.wait(timeout, lambda line: typer.echo(line, err=True)) if wait else found)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Made when it is not there. A later backup adds what is new.")], home: Home = None
) -> None:
    """Copy database, blobs and keys to a folder, while the server runs or not."""
    settings = _settings(home)
    from stack.backup import back_up

    back_up(settings, folder, typer.echo)
    typer.echo(f"The backup is in {folder}.")


@app.command()
def restore(folder: Annotated[Path, typer.Argument(help="A backup.", exists=True)], home: Home = None) -> None:
    """Put a backup into an empty home, or with DATABASE_URL into an empty database and a home; then start the server as usual."""
    settings = _settings(home)
    from stack.backup import restore as put_back

    put_back(settings, folder, typer.echo)
    typer.echo(f"Restored to {settings.home}. `stillhouse-server up` starts it, and migrates where this version is newer.")


@app.command()
def doctor(home: Home = None) -> None:
    """Check servers, schema, blobs, disk, device and connections, and say what to do; exit code 1 when something must be mended."""
    settings = _settings(home)
    from stack.doctor import examine
    from stack.findings import as_table

    found = list(examine(settings))
    # Where nobody looks at a terminal, a line is a line.
    (_out if _out.is_terminal else Console(width=1000)).print(as_table(found))
    raise typer.Exit(int(any(each.level == "wrong" for _, each in found)))


def _settings(home: Path | None) -> Settings:
    """The settings of a home. A stack that runs on it lends its addresses to commands in other terminals."""
    if home is not None:
        os.environ["STILLHOUSE_HOME"] = str(home)
    folder = get_settings().home.expanduser().resolve()
    os.environ["STILLHOUSE_HOME"] = str(folder)
    if folder.is_dir() and HomeLock(folder).running_pid():
        for name, value in read_state(folder).get("environment", {}).items():
            os.environ.setdefault(name, value)
    get_settings.cache_clear()
    return get_settings()


def _become(command: tuple[str, ...]) -> NoReturn:
    """Replace this process, so that signals of a service manager reach the command itself."""
    home = open_home(get_settings().home)
    environment = plan.part_environment(home, os.environ)
    os.chdir(home)
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted


def _fail(message: str) -> NoReturn:
    _err.print(f"[bold red]stillhouse-server:[/] {literal(message)}", soft_wrap=True)
    raise typer.Exit(1)


def main(*arguments: Any) -> None:
    """For `python -m stack.cli`."""
    app(*arguments)


if __name__ == "__main__":
    main()
