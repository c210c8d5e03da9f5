"""The doctor's looks at what is trained here: on which device, and whether it fits beside the LM host."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from distill.settings import Settings
from stack.findings import Finding, odd, well, wrong
from stack.machine_checks import has_torch

#: The longest row that a training is judged by.
ROW_TOKENS = 2048
_LARGE = 1_000_000_000
_SECONDS = 300.0


@dataclass(frozen=True)
class Facts:
    """What `engines.trainer.room` says of one base model and the device that would train it; sizes in bytes."""

    parameters: int
    needed: int
    device: str
    free: int
    total: int


def findings(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """One for each base model that the settings' connections list for training, where this machine trains."""
    if not has_torch():
        return
    for name, connection in settings.connections.items():
        device = settings.devices.get(connection.device or "")
        on_train = device.on_train if device else "auto"
        for model in connection.models if connection.trainer == "local" and connection.models else ():
            yield f"Training for {name}", _finding(model, on_train)


def _finding(model: str, on_train: str) -> Finding:
    command = [sys.executable, "-m", "engines.trainer.room", model, str(ROW_TOKENS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return odd(f"{model}: its size is not known: {type(error).__name__}", "try `stillhouse-server doctor` again")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return wrong(
            f"{model} cannot be loaded here: {reason}", "give the trainer the LM host's model cache: HF_HOME, or STILLHOUSE_MODELS"
        )
    return judge_training(model, Facts(**json.loads(done.stdout)), on_train)


def judge_training(model: str, facts: Facts, on_train: str) -> Finding:
    """From the model's size, the device's memory and what the settings say of sharing it."""
    name = f"{model} ({facts.parameters / 1e9:.1f} billion parameters)"
    if facts.device == "cpu" and facts.parameters >= _LARGE:
        return odd(
            f"{name} would be trained on the CPU",
            "it will be slow: run the trainer where a GPU is, with a torch build for it (TORCH_BACKEND of the Dockerfile)",
        )
    needs = f"{name} needs up to {_gib(facts.needed)} on {facts.device} beside its LM host, for rows of {ROW_TOKENS} tokens"
    if facts.needed <= facts.free and on_train != "pause":
        return well(f"{needs}; {_gib(facts.free)} are free, so both run at once")
    if facts.needed > facts.total:
        return odd(f"{needs}; there are {_gib(facts.total)}", "a training may run out of memory: take a larger device, or shorter rows")
    if on_train == "share":
        return odd(
            f"{needs}; {_gib(facts.free)} are free",
            'set on_train = "auto" in its [devices] table, or let the host keep less (--gpu-memory-utilization of vLLM)',
        )
    return well(f"{needs}; {_gib(facts.free)} of {_gib(facts.total)} are free: the host sleeps while it is trained")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
