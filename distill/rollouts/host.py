"""The program host: warm runners that answer `call` and `render` for people who wait. One project a runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distill.rollouts.bundles import divided, joined, named_bundles
from distill.rollouts.errors import RunnerDied
from distill.rollouts.events import Json
from distill.rollouts.pool import RunnerPool
from distill.rollouts.runner import Runner
from distill.rollouts.turns import Turns

_HOST = "program-host"
_DESCRIBER = "describe"
DESCRIBE_SECONDS = 120.0
TRY_SECONDS = 60.0
_SLACK_SECONDS = 10.0


@dataclass(frozen=True)
class HostedProgram:
    """A program as `open` takes it. `key` must change with anything in it: it is what a warm runner knows it by.

    `python` is the minor version of a bundle's code.
    """

    key: str
    program: Json
    lms: Json
    prompt_adapter: Json | None = None
    python: str = ""


@dataclass
class ProgramHost:
    """Thread-safe. At most `max_running` requests run at once, not all of one project; others wait up to their own time limit."""

    pool: RunnerPool
    max_running: int = 4
    _turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self._turns = Turns(self.max_running)

    def call(self, project: str, hosted: HostedProgram, token: str, inputs: Json, *, time_limit_seconds: float = 120.0) -> Json:
        """Run the program once: `{"outputs", "usage", "seconds"}`. Raises RunnerError, RunnerDied, TimeoutError."""
        reply = self._ask(project, hosted, "call", time_limit_seconds, token=token, inputs=inputs, time_limit_seconds=time_limit_seconds)
        return {name: reply[name] for name in ("outputs", "usage", "seconds")}

    def render(
        self,
        project: str,
        hosted: HostedProgram,
        inputs: Json | None = None,
        *,
        time_limit_seconds: float = 30.0,
        patience_seconds: float | None = None,
    ) -> Json:
        """The messages that each predictor would be sent, by predictor; without `inputs` with references in their places. No LM call.

        `patience_seconds`: how long it waits for its turn; the time limit unless given. Raises as `call`.
        """
        body = {} if inputs is None else {"inputs": inputs}
        reply = self._ask(project, hosted, "render", time_limit_seconds, patience_seconds, **body)
        messages: Json = reply["messages"]
        return messages

    def describe(self, project: str, reference: Json, *, python: str = "") -> Json:
        """What a runner says of code that is named: `reference` is `{"reference", "kwargs", …}` as the `describe` op takes it.

        `{"program": spec}`, or `{"source": …}` of a metric. Runners of its own: programs that are open elsewhere keep their modules.
        Raises as `call`.
        """
        reply = self._ask_apart(project, "describe", reference, python)
        wanted = "source" if reference.get("metric") else "program"
        return {wanted: reply[wanted]}

    def validate(self, project: str, questions: Json, *, python: str = "") -> Json:
        """What a runner says of the programs of a job: `questions` and reply are those of the `validate` op. Raises as `call`."""
        return joined(self._ask_apart(project, "validate", part, python) for part in divided(questions))

    def try_metric(self, project: str, metric: Json, examples: list[Json], predictions: list[Json], *, python: str = "") -> list[Json]:
        """The score of each pair of a row and the outputs for it. Raises as `call`."""
        body = {"metric": metric, "examples": examples, "predictions": predictions}
        scores: list[Json] = self._ask_apart(project, "try_metric", body, python, TRY_SECONDS)["scores"]
        return scores

    def _ask_apart(self, project: str, op: str, body: Json, python: str, seconds: float = DESCRIBE_SECONDS) -> Json:
        runners = self.pool.runner(project, _DESCRIBER, python, bundles=named_bundles(body))
        with self._turns.turn(project, seconds), runners as runner:
            return runner.ask(op, silence_seconds=seconds, **body)

    def _ask(self, project: str, hosted: HostedProgram, op: str, seconds: float, patience: float | None = None, **body: Any) -> Json:
        with self._turns.turn(project, seconds if patience is None else patience):
            return self._ask_warm(project, hosted, op, seconds, body)

    def _ask_warm(self, project: str, hosted: HostedProgram, op: str, seconds: float, body: Json) -> Json:
        """A warm runner may have died unseen since its last request: then once more with a new one."""
        code = named_bundles({"program": hosted.program})
        for last in (False, True):
            with self.pool.runner(project, _HOST, hosted.python, bundles=code) as runner:
                try:
                    _open(runner, hosted, seconds + _SLACK_SECONDS)
                    return runner.ask(op, silence_seconds=seconds + _SLACK_SECONDS, program_key=hosted.key, **body)
                except RunnerDied as death:
                    if last or death.cause not in ("signal", "exit", "out_of_memory"):
                        raise
        raise AssertionError("unreachable")


def _open(runner: Runner, hosted: HostedProgram, seconds: float) -> None:
    runner.ensure_open(hosted.key, silence_seconds=seconds, program=hosted.program, lms=hosted.lms, prompt_adapter=hosted.prompt_adapter)
