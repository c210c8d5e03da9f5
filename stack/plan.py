"""The parts of a whole stack, in the order in which they start."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stack.network import LOOPBACK, reached_at
from stack.parts import Part, line, reachable

QUEUES = ("light", "rollouts", "train")
_LM_HOST, _WORK, _API = 1, 2, 3
_SECRETS = ("DATABASE_URL", "REDIS_URL", "STILLHOUSE_API_KEY", "STILLHOUSE_LMHOST_KEY", "LMHOST_API_KEY")


@dataclass(frozen=True)
class Layout:
    """What the parts need to know about the stack they belong to.

    Attributes:
        home: absolute.
        port: of the API.
        host: the address that the API listens on; the other parts are reached on the loopback address alone.
        database_url, redis_url: of the servers.
        rollout_workers: work items of the queue `rollouts` that run side by side.
        lm_port, lm_key: where the LM host listens and what it asks for; no LM host without a port.
        base_model: the LM host's base model; None leaves it to the settings.
        log_format, tracing_endpoint: of the LM host, which does not read the settings.
        drain_seconds: after which a worker that was asked to stop ends by itself.
        extra: more variables for the server's parts.
    """

    home: Path
    port: int
    database_url: str
    redis_url: str
    host: str = LOOPBACK
    rollout_workers: int = 2
    lm_port: int | None = None
    lm_key: str = ""
    base_model: str = "smollm2-135m-instruct"
    log_format: str = "console"
    tracing_endpoint: str | None = None
    drain_seconds: float = 110.0
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        """Where this machine reaches the API."""
        return f"http://{reached_at(self.host)}:{self.port}"

    @property
    def lm_url(self) -> str | None:
        return f"http://{LOOPBACK}:{self.lm_port}" if self.lm_port else None

    def server_environment(self) -> dict[str, str]:
        """For parts that are the server: they hold its secrets."""
        found = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "STILLHOUSE_BASE_URL": self.base_url,
            "STILLHOUSE_LMHOST__BASE_MODEL": self.base_model,
            **self.extra,
        }
        if self.lm_url:
            found |= {"STILLHOUSE_LMHOST_URL": f"{self.lm_url}/v1", "STILLHOUSE_LMHOST_KEY": self.lm_key}
        return found


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for parts that are not the server; those that are get its secrets back one by one."""
    return {name: value for name, value in environment.items() if name not in _SECRETS and not name.startswith(("PG", "AWS_"))}


def bucket_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """What opens the bucket of the blob store."""
    return {name: value for name, value in environment.items() if name.startswith("AWS_")}


def part_environment(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """For every part: paths made absolute, since parts run in the home folder.

    They trust only installed packages, so a user's own package called `app` never meets ours.
    """
    config = Path(environment.get("STILLHOUSE_CONFIG", "stillhouse.toml")).resolve()
    ours = {"STILLHOUSE_HOME": str(home), "STILLHOUSE_CONFIG": str(config), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    return {**environment, **ours}


def standard_parts(layout: Layout) -> list[Part]:
    """API, dispatcher, Celery workers and, unless there is none, the LM host with its agent."""
    parts = [_lm_host(layout), _lm_agent(layout)] if layout.lm_port else []
    threads = {"light": 4, "rollouts": layout.rollout_workers, "train": 1}
    parts += [_dispatcher(layout), *(_worker(layout, queue, threads[queue]) for queue in QUEUES), _api(layout)]
    return parts


def _lm_host(layout: Layout) -> Part:
    # All cores: a trainer beside it gives way to it, see engines/sharing.py.
    threads = os.cpu_count() or 1
    environment = {"LMHOST_API_KEY": layout.lm_key}
    if layout.tracing_endpoint:
        environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{layout.tracing_endpoint.rstrip('/')}/v1/traces"
    return Part(
        name="lm-host",
        command=lm_host_command(layout.base_model, LOOPBACK, layout.lm_port or 0, threads, layout.log_format),
        tier=_LM_HOST,
        ready=reachable(f"{layout.lm_url}/health"),
        environment=environment,
        ready_seconds=300,
        workdir=layout.home,
    )


def _lm_agent(layout: Layout) -> Part:
    return _server_part(layout, "lm-agent", lm_agent_command("house"), _WORK)


def _dispatcher(layout: Layout) -> Part:
    return _server_part(layout, "dispatcher", dispatcher_command(), _WORK)


def _worker(layout: Layout, queue: str, threads: int) -> Part:
    grace = layout.drain_seconds + _AFTER_DRAIN_SECONDS
    return _server_part(layout, f"worker-{queue}", worker_command([queue], threads), _WORK, grace_seconds=grace)


def _api(layout: Layout) -> Part:
    return Part(
        name="api",
        command=api_command(layout.host, layout.port),
        tier=_API,
        ready=reachable(f"{layout.base_url}/livez"),
        environment=layout.server_environment(),
        workdir=layout.home,
    )


_AFTER_DRAIN_SECONDS = 10.0
"""A worker that has not drained in its time ends by itself; this is for the end."""


def _server_part(layout: Layout, name: str, command: tuple[str, ...], tier: int, grace_seconds: float = 10.0) -> Part:
    # Each of them writes one line with the word "ready" once it takes work.
    return Part(
        name=name,
        command=command,
        tier=tier,
        ready=line(r"\bready\b"),
        environment=layout.server_environment(),
        grace_seconds=grace_seconds,
        workdir=layout.home,
    )


def api_command(host: str, port: int) -> tuple[str, ...]:
    """The API on uvicorn, whose options are in `app.serve`."""
    return (sys.executable, "-m", "app.serve", "--host", host, "--port", str(port))


def dispatcher_command() -> tuple[str, ...]:
    """Outbox to Celery, and the reaper of lost leases."""
    return (sys.executable, "-m", "workers.dispatcher")


def worker_command(queues: list[str], threads: int) -> tuple[str, ...]:
    """A Celery worker; nothing in it is user code or torch, so threads are enough."""
    name = "-".join(queues)
    options = ("-Q", ",".join(queues), "--pool", "threads", "-c", str(threads), "-n", f"{name}-{os.getpid()}@%h")
    quiet = ("--without-gossip", "--without-mingle", "-l", "info")
    return (sys.executable, "-m", "celery", "--quiet", "-A", "workers.celery_app", "worker", *options, *quiet)


def lm_agent_command(connection: str) -> tuple[str, ...]:
    """Loads tuned models into the LM host of a connection."""
    return (sys.executable, "-m", "workers.lm_agent", "--connection", connection)


def lm_host_command(base_model: str, host: str, port: int, threads: int, log_format: str = "console") -> tuple[str, ...]:
    """The embedded LM host."""
    place = ("--host", host, "--port", str(port))
    return (sys.executable, "-m", "engines.lmhost", "--base", base_model, *place, "--threads", str(threads), "--log-format", log_format)
