"""Held-out rows that the job has seen all the same: in what it trains on, or in the demos of a prompt."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from distill.pipeline.plan import row_inputs
from stillhouse_programs.spec import FromRef, ProgramSpec, expand, input_names

SHOWN = 5
"""Row numbers that a warning names."""


def demos_by_inputs(program: ProgramSpec) -> dict[str, list[str]]:
    """`{digest of a row's inputs: the predictors that have a demo of it}`: the demos that hold all inputs that such a row has."""
    found: dict[str, list[str]] = {}
    wired = _wiring(program)
    for predictor in program.predictors:
        fields = wired.get(predictor.name) or {name: name for name in input_names(program)}
        for demo in predictor.demos:
            row = {name: demo[field] for field, name in fields.items() if demo.get(field) is not None}
            if row:
                found.setdefault(row_inputs(program, row), []).append(predictor.name)
    return found


def _wiring(program: ProgramSpec) -> dict[str, dict[str, str]]:
    """`{predictor: {its field: the program's input that goes straight into it}}`."""
    found: dict[str, dict[str, str]] = {}
    for step in expand(program).steps or ():
        for field, source in step.args.items():
            if isinstance(source, FromRef) and source.parts[0] == "input" and len(source.parts) == 2:
                found.setdefault(step.predictor, {})[field] = source.parts[1]
    return found


def warning_of_demos(whose: str, demos: Mapping[str, Sequence[str]], held: Mapping[str, int]) -> list[dict[str, str]]:
    """`held` maps the digests of held-out inputs to their rows (0-based); `whose` is the program that has the demos."""
    leaked = {digest: names for digest, names in demos.items() if digest in held}
    if not leaked:
        return []
    counts = Counter(name for names in leaked.values() for name in names)
    places = ", ".join(f"{name}: {count}" for name, count in counts.items())
    rows = _rows(held[digest] for digest in leaked)
    words = "demo of {} ({}) is a held-out row" if counts.total() == 1 else "demos of {} ({}) are held-out rows"
    what = f"{counts.total()} {words.format(whose, places)} ({rows})"
    text = f"{what}: its scores count examples that stand in its prompts."
    return [{"code": "demos_held_out", "message": text}]


def warning_of_locked(program_name: str, seen: Mapping[int, str]) -> list[dict[str, str]]:
    """`seen` maps rows (0-based) that are trained on to the artifact that was measured on them."""
    if not seen:
        return []
    names = list(dict.fromkeys(seen.values()))
    by = ", ".join(names[-3:]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    text = (
        f"{len(seen)} of the rows that are trained on ({_rows(seen)}) were held out for {by}: "
        f"measured on those rows again, {program_name} would be asked what it has learned."
    )
    return [{"code": "trains_on_held_out", "message": text}]


def _rows(numbers: Iterable[int]) -> str:
    """`rows 3, 17, 20, …`, 1-based."""
    ordered = sorted(set(numbers))
    shown = ", ".join(str(number + 1) for number in ordered[:SHOWN])
    return f"row{'s' if len(ordered) > 1 else ''} {shown}" + (", …" if len(ordered) > SHOWN else "")
