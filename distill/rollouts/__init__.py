"""Runner processes: start them, feed them, read back what they say, end them."""

from distill.rollouts.errors import Cause, RunnerDied, RunnerError, RunnerSilent
from distill.rollouts.host import ProgramHost
from distill.rollouts.pool import RunnerPool
from distill.rollouts.runner import Runner

__all__ = ["Cause", "ProgramHost", "Runner", "RunnerDied", "RunnerError", "RunnerPool", "RunnerSilent"]
