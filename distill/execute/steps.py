"""Which code runs which step."""

from collections.abc import Mapping

from distill.execute import assemble, demos, files, package, prepare, rollouts, train, validate
from distill.execute.flow import TRIAL_OF_DEMOS
from distill.execute.ports import Ports
from distill.execute.run import StepRunner
from distill.execute.work import Work
from distill.jobs.fine_tuning import FILES
from distill.jobs.status import Step


def _validate(work: Work, ports: Ports) -> None:
    (files if work.claim.kind == FILES else validate).run(work, ports)


def _bootstrap(work: Work, ports: Ports) -> None:
    (demos if work.claim.kind == TRIAL_OF_DEMOS else rollouts).run(work, ports)


STEPS: Mapping[Step, StepRunner] = {
    Step.VALIDATE: _validate,
    Step.BOOTSTRAP: _bootstrap,
    Step.PREPARE: prepare.run,
    Step.ASSEMBLE: assemble.run,
    Step.TRAIN: train.run,
    Step.EVALUATE: rollouts.run,
    Step.PACKAGE: package.run,
}
