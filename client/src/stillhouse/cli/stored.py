"""`stillhouse programs …`, `artifacts …`, `models …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse._references import not_beaten
from stillhouse.cli.files import FileProblem, parse_pairs, read_document
from stillhouse.cli.output import Json, Limit, connected, console, show_deleted, show_json, show_one, show_rows, show_table, when
from stillhouse.resources.artifacts import ArtifactListParams
from stillhouse.types import Artifact, Program

Name = Annotated[str | None, typer.Option(help="A name to find it by.")]
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]

programs = typer.Typer(no_args_is_help=True, help="Program specs.")
artifacts = typer.Typer(no_args_is_help=True, help="Results of succeeded jobs.")
models = typer.Typer(no_args_is_help=True, help="Models that the server answers for.")


@programs.command("create")
def create_program(file: File, name: Name = None, as_json: Json = False) -> None:
    """Store a program spec, or a reference to code (JSON or YAML)."""
    with connected() as client:
        document = _object_of(file, "that is a program")
        code = isinstance(document.get("reference"), str)
        program = (
            client.programs.create(**{**document, "name": name or document.get("name")})
            if code
            else client.programs.create(document, name=name)
        )
        show_one(program, program.id, _fields(program), as_json)


@programs.command("list")
def list_programs(limit: Limit = 20, as_json: Json = False) -> None:
    """List programs, newest first."""
    with connected() as client:
        show_rows(
            client.programs.list(limit=limit).data,
            [
                ("ID", lambda program: program.id),
                ("NAME", lambda program: program.name),
                ("PREDICTORS", lambda program: " ".join(program.predictors)),
                ("CREATED", lambda program: when(getattr(program, "created_at", None))),
            ],
            as_json,
        )


@programs.command("get")
def get_program(program_id: str, as_json: Json = False) -> None:
    """Show one program."""
    with connected() as client:
        program = client.programs.retrieve(program_id)
        show_one(program, program.id, f"{program.name or ''}  {_fields(program)}", as_json)


@programs.command("delete")
def delete_program(program_id: str, as_json: Json = False) -> None:
    """Delete a program; jobs that used it keep it."""
    with connected() as client:
        client.programs.delete(program_id)
        show_deleted(program_id, as_json)


@programs.command("render")
def render_program(program_id: str, inputs: Annotated[list[str], typer.Argument(help="field=value")], as_json: Json = False) -> None:
    """Show the messages that a program would send; no LM is called."""
    with connected() as client:
        rendered = client.programs.render(program_id, parse_pairs(inputs))
        if as_json:
            show_json(rendered)
            return
        for call in rendered.calls:
            console.rule(call["predictor"])
            for message in call["messages"]:
                console.print(f"[bold]{message['role']}[/bold]", highlight=False)
                console.print(message["content"], markup=False, highlight=False)


@artifacts.command("list")
def list_artifacts(
    program: Annotated[str | None, typer.Option(help="Only of this program name.")] = None, limit: Limit = 20, as_json: Json = False
) -> None:
    """List artifacts, newest first."""
    with connected() as client:
        asked: ArtifactListParams = {"limit": limit}
        if program is not None:
            asked["program"] = program
        found = client.artifacts.list(**asked).data
        show_rows(
            found,
            [
                ("ID", lambda artifact: artifact.id),
                ("NAME", lambda artifact: artifact.name),
                ("JOB", lambda artifact: artifact.compile_job_id),
                ("CREATED", lambda artifact: when(getattr(artifact, "created_at", None))),
            ],
            as_json,
        )


@artifacts.command("get")
def get_artifact(artifact_id: str, as_json: Json = False) -> None:
    """Show one artifact, by its id or an alias (NAME@ALIAS)."""
    with connected() as client:
        found = client.artifacts.retrieve(artifact_id)
        show_one(found, found.id, _about(found), as_json)


def _about(artifact: Artifact) -> str:
    """Where it is from, its models, whether it is better than what was before, and its metadata."""
    models = [f"{predictor} is {model}" for predictor, model in artifact.models.items()]
    evaluation = artifact.evaluation or {}
    delta, references = evaluation.get("delta"), evaluation.get("references")
    than = "against" if delta and delta["verdict"] == "inconclusive" else "than"
    said = [f"{delta['verdict']} {than} {delta['against']}{not_beaten(delta, references)}"] if delta else []
    pairs = [f"{name}={value}" for name, value in artifact.metadata.items()]
    return "; ".join([f"{artifact.name} of {artifact.compile_job_id}", *models, *said, *pairs])


@artifacts.command("download")
def download_artifact(
    artifact_id: str,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to make; default ./<id>.")] = None,
    as_json: Json = False,
) -> None:
    """Download an artifact into a folder and check every file's digest."""
    with connected() as client:
        folder = client.artifacts.download(artifact_id, output or Path(artifact_id))
        show_json({"id": artifact_id, "folder": str(folder)}) if as_json else console.print(str(folder), highlight=False)


@artifacts.command("call")
def call_artifact(
    artifact_id: str,
    inputs: Annotated[list[str] | None, typer.Argument(help="field=value, as text")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Inputs as a JSON object, for values that are not text.")] = None,
    as_json: Json = False,
) -> None:
    """Run a compiled program on the server."""
    with connected() as client:
        values = {**_inputs_of(file), **parse_pairs(inputs or [])}
        called = client.artifacts.call(artifact_id, values)
        if as_json:
            show_json(called)
            return
        show_table(called.outputs.items(), [("FIELD", lambda pair: pair[0]), ("VALUE", lambda pair: pair[1])])


@artifacts.command("promote")
def promote_artifact(
    artifact_id: str,
    alias: Annotated[str, typer.Option(help="The alias to move, such as prod.")],
    against: Annotated[str | None, typer.Option(help="Only if better than what this alias points at.")] = None,
    min_delta: Annotated[float, typer.Option(help="By more than this, with 95 % confidence.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Point an alias of the artifact's program at it. Exits with 5 when it is worse than --against, 6 when nobody can say."""
    with connected() as client:
        name = client.artifacts.retrieve(artifact_id).name
        moved = client.aliases.move(
            f"{name}@{alias}", artifact_id, against=None if against is None else f"{name}@{against}", min_delta=min_delta
        )
        show_one(moved, moved.name, moved.artifact, as_json)


@artifacts.command("delete")
def delete_artifact(artifact_id: str, as_json: Json = False) -> None:
    """Delete an artifact; refused while an alias points at it."""
    with connected() as client:
        client.artifacts.delete(artifact_id)
        show_deleted(artifact_id, as_json)


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models that the gateway takes."""
    with connected() as client:
        found = client.models.list().data
        show_rows(
            found,
            [
                ("ID", lambda model: model.id),
                ("STATUS", lambda model: model.status),
                ("BASE", lambda model: model.parent),
                ("CONNECTION", lambda model: model.connection),
            ],
            as_json,
        )


@models.command("get")
def get_model(model_id: str, as_json: Json = False) -> None:
    """Show one model, and whether it would answer now."""
    with connected() as client:
        found = client.models.retrieve(model_id)
        base = f"on {found.parent}, " if found.parent else ""
        show_one(found, found.id, f"{found.status}; {base}of {found.connection}", as_json)


def _fields(program: Program) -> str:
    return f"inputs {', '.join(program.inputs)}; outputs {', '.join(program.outputs)}"


def _inputs_of(file: Path | None) -> dict[str, Any]:
    return _object_of(file, "of inputs") if file else {}


def _object_of(file: Path, what: str) -> dict[str, Any]:
    loaded = read_document(file)
    if not isinstance(loaded, dict):
        raise FileProblem(f"{file}: expected an object {what}")
    return loaded


@models.command("delete")
def delete_model(model_id: str, as_json: Json = False) -> None:
    """Delete a fine-tuned model; refused while a job or an alias needs it."""
    with connected() as client:
        client.models.delete(model_id)
        show_deleted(model_id, as_json)
