"""Load a compiled program as a normal dspy.Module, from a folder or from the server."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

from stillhouse._archive import is_intact
from stillhouse._client import Stillhouse
from stillhouse._config import look_up
from stillhouse._exceptions import APIConnectionError, ServerError
from stillhouse._extras import extra
from stillhouse._house import prefixes_restored
from stillhouse._lock import alone
from stillhouse.types import ArtifactFile

_log = logging.getLogger(__name__)
T = TypeVar("T")


def load(
    ref: str | Path,
    program: Any | None = None,
    *,
    follow: float | None = None,
    strict: bool = False,
    warm: bool = False,
    fallback: Literal["teacher"] | None = None,
    client: Stillhouse | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """A ready `dspy.Module`, its files verified and its prompt adapter pinned.

    `ref` is an artifact's folder, its id (`art-…`) or an alias (`support-router@prod`); it is downloaded once into `cache_dir` (default
    `~/.cache/stillhouse/artifacts`). Where an alias points is asked at each load; while the server is down, its last answer counts.
    With `follow` it is asked again every so many seconds, and after a promotion the whole program is another: a call never meets the
    predictors of two. `program` is an instance of the caller's own class with the same predictors; without it the program is built from
    its spec. With `strict` a call that lacks an input is a TypeError, before anything is paid. Needs `pip install stillhouse[dspy]`.

    With `warm` it returns once the server has the program's own models loaded, for up to two minutes, so that no first call has to
    wait; with `follow` the program stays as it is until those of the next are. Without it the server need not be there.

    The program's calls raise ModelUnavailable when a model does not answer. With `fallback="teacher"` such a call is made once more, as a
    whole, with the LMs of the teacher at the server's gateway; the program counts these calls in `fallbacks`, and logs each.

    Raises:
        DamagedArtifact: a downloaded file does not have its digest.
        NotFoundError: no such artifact or alias in the key's project.
        FileNotFoundError: a path without a folder.
        ModelUnavailable: with `warm`, a model that is not loaded in time, or a server that is away.
        ValueError: an artifact that cannot be used; with `fallback`, one that names no teacher.
        ImportError: the `dspy` extra is not installed.
    """
    with extra("dspy"):
        from stillhouse._fallback import Fallbacks, with_teacher
        from stillhouse._follow import Follower, Following
        from stillhouse._outage import one_error
        from stillhouse._warm import wait_for_models
        from stillhouse_programs.artifact import load_artifact
        from stillhouse_programs.artifact_files import read_manifest

    _check(ref, follow, fallback)
    counted = Fallbacks()

    def ready(folder: Path) -> Any:
        url, key = (client.base_url, client.api_key) if client else look_up()
        with prefixes_restored():
            loaded = load_artifact(folder, base_url=url, api_key=key, program=program, strict=strict, guard=one_error)
        if warm:
            _asking(client, lambda asked: wait_for_models(loaded, asked))
        return loaded if fallback is None else with_teacher(loaded, read_manifest(folder), url, key, counted)

    if follow is None:
        return ready(Path(ref) if _is_folder(ref) else _asking(client, lambda asked: resolve(str(ref), asked, cache_dir)))
    follower = Follower(
        lambda: _asking(client, lambda asked: _named(str(ref), asked, cache_dir)),
        lambda artifact: ready(_asking(client, lambda asked: fetch(artifact, asked, cache_dir))),
        follow,
    )
    return Following(follower, counted)


def _check(ref: str | Path, follow: float | None, fallback: str | None) -> None:
    if (isinstance(ref, Path) or os.sep in ref) and not Path(ref).is_dir():
        raise FileNotFoundError(f"there is no folder {ref}")
    if fallback not in (None, "teacher"):
        raise ValueError(f'fallback={fallback!r}: there is "teacher"')
    if follow is not None and (_is_folder(ref) or "@" not in str(ref)):
        raise ValueError(f"{ref} never changes: follow= takes an alias, such as support-router@prod")


def fetch(artifact_id: str, client: Stillhouse, cache_dir: str | Path | None = None) -> Path:
    """The folder of a downloaded artifact. Artifacts never change, so an intact copy is used without asking the server.

    Of processes that start together one downloads it, and the others wait.
    """
    base = _cache(cache_dir)
    folder, listing = base / artifact_id, base / f"{artifact_id}.files.json"
    if _intact(folder, listing):
        return folder
    with alone(listing):
        if not _intact(folder, listing):
            shutil.rmtree(folder, ignore_errors=True)
            files = client.artifacts.retrieve(artifact_id).files
            client.artifacts.download(artifact_id, folder)
            _write(listing, json.dumps([file.model_dump() for file in files]))
    return folder


def derive(
    program: Any, sample: Mapping[str, Any], lm_names: Mapping[str, str] | None = None, *, rows: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The spec of a dspy program, made by running its `forward` once on symbols, and proved; `sample` holds one example's inputs.

    The proof runs the program and the one that the spec builds on scripted answers, no LM asked, and compares every byte of their
    prompts on `sample` and `rows` (inputs alone): give rows that take different branches. `lm_names` gives the role of each
    predictor's LM (default `student`). Needs `pip install stillhouse[dspy]`.

    Raises:
        stillhouse_programs.not_a_spec.NotASpec: the program cannot travel as a spec; the text says at which line, or on which row.
        ImportError: the `dspy` extra is not installed.
    """
    with extra("dspy"):
        from stillhouse_programs import derive as deriving
        from stillhouse_programs import prove as proving
        from stillhouse_programs import spec as specs

    derived = deriving.derive(program, dict(sample), dict(lm_names or {}))
    proving.prove(program, derived, [dict(sample), *map(dict, rows)])
    result: dict[str, Any] = json.loads(specs.canonical_json(derived))
    return result


def _asking(client: Stillhouse | None, ask: Callable[[Stillhouse], T]) -> T:
    """With the given client, or with one of its own that is closed again."""
    if client is not None:
        return ask(client)
    with Stillhouse() as own:
        return ask(own)


def resolve(ref: str, client: Stillhouse, cache_dir: str | Path | None = None) -> Path:
    """The folder of the artifact that an id or an alias names."""
    return fetch(_named(ref, client, cache_dir), client, cache_dir)


def _named(ref: str, client: Stillhouse, cache_dir: str | Path | None) -> str:
    """The id of what `ref` names. The answer is remembered, so that a service restarts while the server is down."""
    if "@" not in ref:
        return ref
    remembered = _cache(cache_dir) / f"{ref}.{_origin(client)}.alias"
    try:
        artifact_id = client.aliases.retrieve(ref).artifact
    except (APIConnectionError, ServerError) as error:
        if not remembered.is_file():
            raise
        artifact_id = remembered.read_text(encoding="utf-8").strip()
        _log.warning("the server does not say where %s points (%s); loading %s, as it last did", ref, error, artifact_id)
        return artifact_id
    remembered.parent.mkdir(parents=True, exist_ok=True)
    _write(remembered, artifact_id)
    return artifact_id


def _write(path: Path, text: str) -> None:
    """Whole or not at all, also for whoever reads it meanwhile."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _origin(client: Stillhouse) -> str:
    """An alias means another artifact on another server, and for a key of another project."""
    return sha256(f"{client.base_url} {client.api_key}".encode()).hexdigest()[:16]


def _intact(folder: Path, listing: Path) -> bool:
    if not (folder.is_dir() and listing.is_file()):
        return False
    try:
        files = [ArtifactFile.model_validate(file) for file in json.loads(listing.read_text(encoding="utf-8"))]
    except ValueError:
        return False
    return is_intact(folder, files)


def _cache(cache_dir: str | Path | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stillhouse" / "artifacts"


def _is_folder(ref: str | Path) -> bool:
    return isinstance(ref, Path) or Path(ref).is_dir()
