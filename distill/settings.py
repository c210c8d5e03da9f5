"""Settings: environment first, then `stillhouse.toml`, then defaults. Reading them touches the disk only inside `get_settings()`."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from distill.errors import StartRefused
from stillhouse_programs.spec import read_prefixes
from stillhouse_programs.spec_models import nearest

RungName = Literal["auto", "bubblewrap", "landlock", "none"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and (unknown := _unknown(given, cls.model_fields)):
            raise ValueError(unknown)
        return given


def _unknown(given: Iterable[str], known: Collection[str]) -> str:
    return "; ".join(f"unknown setting `{name}`{nearest(name, list(known))}" for name in given if name not in known)


class ServerSettings(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=1, le=65_535)
    hosts: list[str] = []
    """Names that clients may call it by. Empty: any, or this machine's own names where it is bound to a loopback address."""
    log_format: Literal["json", "console"] = "console"
    log_level: str = "INFO"


class TimerSettings(_Section):
    """All in seconds."""

    lease_seconds: float = Field(default=120, gt=0)
    beat_seconds: float = Field(default=10, gt=0)
    reap_grace_seconds: float = Field(default=30, ge=0)
    reap_period_seconds: float = Field(default=10, gt=0)
    dispatch_poll_seconds: float = Field(default=1, gt=0)
    resend_seconds: float = Field(default=60, gt=0)
    progress_event_seconds: float = Field(default=1, ge=0)
    silence_seconds: float = Field(default=60, gt=0)
    """Beyond the time that an example may take: a runner that says nothing for longer holds its process, and is ended."""
    finish_seconds: float = Field(default=60, ge=0)
    """How long rollouts under way may take to end when their job is to pause."""
    retry_base_seconds: float = Field(default=10, gt=0)
    retry_cap_seconds: float = Field(default=600, gt=0)
    call_attempt_seconds: float = Field(default=180, gt=0)
    call_idle_seconds: float = Field(default=30, gt=0)
    call_total_seconds: float = Field(default=300, gt=0)
    call_stream_seconds: float = Field(default=1800, gt=0)
    call_pause_seconds: float = Field(default=0.25, gt=0)
    call_pause_cap_seconds: float = Field(default=20, gt=0)
    breaker_seconds: float = Field(default=10, ge=0)
    connection_pause_seconds: float = Field(default=10, gt=0)
    connection_pause_cap_seconds: float = Field(default=300, gt=0)
    connection_retry_after_cap_seconds: float = Field(default=3600, gt=0)
    connection_patience_seconds: float = Field(default=86_400, gt=0)
    worker_seen_seconds: float = Field(default=10, gt=0)
    checkpoint_seconds: float = Field(default=600, gt=0)
    stop_grace_seconds: float = Field(default=90, gt=0)
    """For a trainer's last checkpoint, at a drain, a pause and its deadline."""
    drain_seconds: float = Field(default=110, gt=0)
    """From SIGTERM to the end of a worker, whatever its work is waiting for."""
    stall_seconds: float = Field(default=1800, gt=0)
    """A trainer that tells no progress for so long hangs."""
    max_training_seconds: float = Field(default=604_800, gt=0)
    """Of one fine-tune job, over all its attempts."""
    failed_checkpoints_seconds: float = Field(default=604_800, gt=0)
    """A job that failed so long ago keeps no checkpoints for its retry any more."""
    collect_after_seconds: float = Field(default=86_400, gt=0)
    """Blobs that nothing has pointed at for so long are removed."""
    collect_period_seconds: float = Field(default=3600, gt=0)
    """How often a dispatcher looks for them."""
    kept_reply_seconds: float = Field(default=3600, gt=0)
    """How long a reply is kept whose rollout has no trace yet."""
    webhook_seconds: float = Field(default=15, gt=0)
    """Of one try of a webhook's delivery."""
    webhook_pause_seconds: float = Field(default=5, gt=0)
    """Before the second try; each pause after it is five times as long, up to the next."""
    webhook_pause_cap_seconds: float = Field(default=28_800, gt=0)


class LimitSettings(_Section):
    max_body_mb: int = 64
    max_inline_rows: int = 20_000
    max_num_threads: int = 1000
    max_threads: int | None = Field(default=None, ge=1)
    """What all jobs' rollouts and trainings that run at once may add up to; without end unless given."""
    max_predictors: int = 64
    max_row_bytes: int = 1_000_000
    example_seconds: float = Field(default=900, gt=0)
    """Of one rollout of a program, and of one call of a metric. Time that its LM calls wait for a place does not count."""
    rollout_calls: int = Field(default=500, ge=1)
    """LM calls of one rollout; a spec, whose calls are known, may make them all."""
    max_dataset_mb: int = 1024
    max_dataset_rows: int = 250_000
    requests_per_minute: int = Field(default=12_000, ge=1)
    """Of one API key, over all processes of the API."""
    event_streams: int = Field(default=200, ge=1)
    """Event streams and reads with ?wait= of one project, open at once at one process of the API."""
    kept_replies_mb: int = Field(default=64, ge=0)
    """Of replies that are paid for and not yet traces, what each worker keeps in Redis; 0 keeps none."""
    api_statement_seconds: float = 5
    worker_statement_seconds: float = 60


class BlobSettings(_Section):
    """Where blobs are: in a folder, or in a bucket, whose keys are never here; see `distill.storage.s3`."""

    root: Path | None = None
    bucket: str | None = Field(default=None, min_length=3)
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    timeout_seconds: float = Field(default=20, gt=0)
    cache_gb: float = Field(default=20, ge=0)

    @field_validator("prefix")
    @classmethod
    def _end_prefix(cls, value: str) -> str:
        return f"{value.strip('/')}/" if value.strip("/") else ""

    @field_validator("endpoint")
    @classmethod
    def _hold_no_key(cls, value: str | None) -> str | None:
        if value and "@" in value:
            raise ValueError("holds a user or password; keys are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.root and self.bucket:
            raise ValueError("root and bucket are two places: leave one of them out")
        return self


class LmHostSettings(_Section):
    """The embedded LM host, which is the connection `house`."""

    base_model: str = "smollm2-135m-instruct"
    max_in_flight: int = Field(default=32, ge=1)
    tools: bool = False
    """Its chat template has tool calls; that of the packaged model has none."""


class DeviceSettings(_Section):
    """One `[devices.NAME]` table, for a device on which an LM host and a trainer both run.

    `auto`: both run at once where the device's memory holds both, else the host sleeps while a model is trained. `share`: both run at once.
    `pause`: the host sleeps.
    """

    on_train: Literal["auto", "share", "pause"] = "auto"


class TracingSettings(_Section):
    """Where spans are sent over OTLP/HTTP: the collector's address without `/v1/traces`. Off unless it, or OpenTelemetry's own
    variable, is set. Headers, such as a key, are read from OTEL_EXPORTER_OTLP_HEADERS."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/?#\s@]+(/[^?#\s@]*)?$")


class EgressSettings(_Section):
    """Hosts of the operator's own network that webhooks and projects' connections may go to, also without
    TLS; all others have to be public."""

    hosts: list[str] = []


class BundleSettings(_Section):
    """Users' own Python, which runs in the sandbox alone. `packages`: what it may import beside what dspy brings, where it is installed."""

    accept: bool = True
    packages: list[str] = ["numpy"]


class SandboxSettings(_Section):
    """What programs and metrics are locked into: the best rung that holds on the machine, or a certain one. `none` runs no code."""

    rung: RungName = "auto"


Days = Annotated[int, Field(ge=0, le=10_000)]


class RetentionSettings(_Section):
    """For how many days projects keep what they have, unless a project says otherwise; 0 is for ever."""

    keep_traces_days: Days = 0
    """Since they were made."""
    keep_events_days: Days = 0
    """Since their job was over; details too."""
    keep_job_details_days: Days = 0
    keep_artifacts_days: Days = 0
    """Since they were made, or last had an alias. Those that have one stay; those that are called by their id alone do not."""
    keep_audit_log_days: Days = 0


class ProjectSettings(_Section):
    """One `[projects.NAME]` table: what a project may have of the workers, and its quotas. Those hold for every project.

    `share` is its weight where projects compete. `max_threads`: as many of its rollouts and trainings run at once, over all its jobs.
    `max_jobs`: as many of its jobs are not over at once. Months are UTC's. `scrub`: personal data are taken out of its traces before they
    are stored; a country's code says whose phone numbers are known without their +.
    """

    share: float = Field(default=1, gt=0, allow_inf_nan=False)
    max_threads: int | None = Field(default=None, ge=1)
    max_jobs: int = Field(default=20_000, ge=0)
    month_teacher_usd: float = Field(default=1000, ge=0)
    month_compute_seconds: float = Field(default=2_592_000, ge=0)
    max_blob_gb: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What its blobs may take up; a project above it gets no new jobs and uploads. Without end unless given."""
    scrub: bool | Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = False
    keep_traces_days: Days | None = None
    """This and those below: as `[retention]` says, unless given."""
    keep_events_days: Days | None = None
    keep_job_details_days: Days | None = None
    keep_artifacts_days: Days | None = None
    keep_audit_log_days: Days | None = None


class PriceSettings(_Section):
    """US dollars per million tokens. `cached_input` is for the cached part of a prompt; `input` unless given."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)


class CostSettings(_Section):
    """What is not priced by call."""

    training_hour_usd: float | None = Field(default=None, ge=0)


def _not_our_own(rule: str) -> str:
    if rule.startswith("house/"):
        raise ValueError("begins with `house/`: such names are the server's own, and mean what they say")
    return rule


LmRule = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\s?\[\]]+$"), AfterValidator(_not_our_own)]
"""The name of an LM, with `*` for anything."""


def check_listed(model: str) -> str:
    """The name of one model. Raises ValueError for what is none."""
    if model == "*":
        raise ValueError('is no model\'s name; where any is taken, `models` itself is "*"')
    return model


class ConnectionSettings(_Section):
    """One `[connections.NAME]` table. The key itself is never here: `api_key_env` names the variable that the relay's process reads."""

    kind: Literal["lm_host"] = "lm_host"
    base_url: str
    models: list[str] | Literal["*"] = "*"
    match: list[LmRule] = []
    """The names of LMs in users' programs that it stands for: `openai/gpt-4.1-mini`, or with `*` for anything `openai/gpt-4.1*`."""
    api_key_env: str | None = None
    max_in_flight: int = Field(default=16, ge=1)
    default_student: bool = False
    default_teacher: bool = False
    supports: list[str] = []
    device: str | None = None
    trainer: str | None = None
    prices: dict[str, PriceSettings] = {}
    """By model, `*` for those that are not named. They win over the published prices of a known provider."""

    @field_validator("models")
    @classmethod
    def _check_models(cls, models: list[str] | Literal["*"]) -> list[str] | Literal["*"]:
        if isinstance(models, list):
            for model in models:
                check_listed(model)
        return models


class RuntimeSettings(_Section):
    """One `[runtimes.NAME]` table: the interpreter that runs programs, with the packages that are installed for it."""

    python: Path


class Settings(BaseSettings):
    """Everything an operator sets. Nested names in the environment: `STILLHOUSE_TIMERS__LEASE_SECONDS=5`."""

    model_config = SettingsConfigDict(env_prefix="STILLHOUSE_", env_nested_delimiter="__", extra="ignore", populate_by_name=True)

    home: Path = Path(".stillhouse")
    database_url: str = Field(
        default="postgresql+psycopg://localhost/stillhouse", validation_alias=AliasChoices("DATABASE_URL", "database_url")
    )
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", validation_alias=AliasChoices("REDIS_URL", "redis_url"))
    base_url: str = "http://127.0.0.1:8400"
    api_key: str | None = None
    sealing_key: str | None = None
    """32 bytes in base64, under which secrets are stored; a file in the home unless given. Of several, with commas, the first seals."""
    lmhost_url: str | None = None
    lmhost_key: str | None = None
    server: ServerSettings = ServerSettings()
    timers: TimerSettings = TimerSettings()
    limits: LimitSettings = LimitSettings()
    blobs: BlobSettings = BlobSettings()
    lmhost: LmHostSettings = LmHostSettings()
    costs: CostSettings = CostSettings()
    egress: EgressSettings = EgressSettings()
    tracing: TracingSettings = TracingSettings()
    sandbox: SandboxSettings = SandboxSettings()
    bundles: BundleSettings = BundleSettings()
    connections: dict[str, ConnectionSettings] = {}
    devices: dict[str, DeviceSettings] = {}
    projects: dict[str, ProjectSettings] = {}
    retention: RetentionSettings = RetentionSettings()
    runtimes: dict[str, RuntimeSettings] = {}
    references: Annotated[list[str], NoDecode] = []
    """Packages and modules whose programs and metrics may be named by reference; in the environment parted by commas."""

    @field_validator("references", mode="before")
    @classmethod
    def _read_references(cls, value: Any) -> Any:
        return read_prefixes(value if isinstance(value, str) else ",".join(value))

    @property
    def pythons(self) -> dict[str, str]:
        """The interpreter of each runtime; `default` is the server's own unless it is set."""
        return {"default": sys.executable, **{name: str(runtime.python) for name, runtime in self.runtimes.items()}}

    def project(self, name: str) -> ProjectSettings:
        """Of a project by name, given or the usual ones."""
        return self.projects.get(name) or ProjectSettings()

    @property
    def blob_root(self) -> Path:
        return self.blobs.root or self.home / "blobs"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The file is passed in as keyword arguments by `get_settings`, so the environment comes before it."""
        return env_settings, init_settings


@cache
def get_settings() -> Settings:
    """The process's settings, read once. Raises StartRefused, which names file or variable, setting and fault, and never the value."""
    path = Path(os.environ.get("STILLHOUSE_CONFIG", "stillhouse.toml"))
    if path.is_dir():
        raise StartRefused(
            f"{path} is a directory, not a settings file (a bind mount makes one where there is no file): remove it, "
            "and copy stillhouse.example.toml to this name"
        )
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if unknown := _unknown(given, Settings.model_fields):
            raise StartRefused(f"{path}: {unknown}")
        return Settings(**given)
    except ValidationError as error:
        raise StartRefused("; ".join(_fault(each, path) for each in error.errors())) from None
    except SettingsError as error:
        raise StartRefused(f"a variable is not the JSON that it has to be: {error}") from None
    except (OSError, ValueError) as error:
        raise StartRefused(f"{path} cannot be read: {error}") from None


def _fault(fault: ErrorDetails, path: Path) -> str:
    """The variable wins over the file, so it is the one that is wrong where there are both. A table is put together of both."""
    variable = "STILLHOUSE_" + "__".join(map(str, fault["loc"])).upper()
    parts = [name for name in os.environ if name.startswith(f"{variable}__")]
    place = variable if variable in os.environ else f"{' or '.join([str(path), *parts])}: {'.'.join(map(str, fault['loc']))}"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"
