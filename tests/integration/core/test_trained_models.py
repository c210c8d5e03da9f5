"""What the training of a compile job leaves, without the steps before it: a model that knows how it is asked, and is not trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from sqlalchemy import update

from distill.catalog import blobs
from distill.catalog.models import Model
from distill.db import unit_of_work
from distill.execute import train
from distill.execute.ports import Ports
from distill.execute.work import Work
from distill.jobs import repository
from distill.jobs.models import FineTuneJob
from distill.messages import system_prompt_digest
from tests.integration.core.every_status import open_train
from tests.integration.core.world import World, execute, taken
from tests.integration.execute.house import PretendTrainer

ROW = {"prompt": [{"role": "system", "content": "Route."}, {"role": "user", "content": "hi"}], "completion": [], "digest": "v1:a"}


class TestCompileJob:
    def test_the_first_key_is_trained_and_an_equal_one_takes_its_model(self, world: World, tmp_path: Path) -> None:
        trainer = PretendTrainer()
        ports = Ports(world.store, cast("Any", None), cast("Any", None), {"local": trainer}, tmp_path)
        execute("UPDATE connections SET device = NULL")  # no agent is here to hand one over
        job_id = open_train(world, "ab")
        with unit_of_work() as s:
            rows = blobs.put(s, world.store, json.dumps(ROW).encode() + b"\n")
            s.execute(update(FineTuneJob).where(FineTuneJob.job_id == job_id).values(training_file=rows))
        for _ in range(2):
            work = Work(taken("train"))
            with work:
                train.run(work, ports)
        with unit_of_work() as s:
            first, second = repository.fine_tune_jobs(s, job_id)
            model = s.get_one(Model, str(first.model_id))
            assert model.id.startswith("sh-program-")
            assert (model.job_id, model.program_name) == (job_id, repository.by_id(s, job_id).program_name)
            assert model.settings["system_prompts"] == [system_prompt_digest("Route.")]
            assert (model.settings["probe_file"], model.settings["prompt_adapter"]["type"]) == (rows, "chat")
            assert (second.model_id, second.reused_from, first.reused_from) == (first.model_id, first.id, None)
            assert "package" in [step.name for step in repository.steps(s, job_id)]
        assert len(trainer.jobs) == 1
