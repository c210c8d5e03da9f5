"""Which code runs which step."""

from collections.abc import Mapping

from distill.execute import assemble, package, prepare, rollouts, train, validate
from distill.execute.run import StepRunner
from distill.jobs.status import Step

STEPS: Mapping[Step, StepRunner] = {
    Step.VALIDATE: validate.run,
    Step.BOOTSTRAP: rollouts.run,
    Step.PREPARE: prepare.run,
    Step.ASSEMBLE: assemble.run,
    Step.TRAIN: train.run,
    Step.EVALUATE: rollouts.run,
    Step.PACKAGE: package.run,
}
