"""A fine-tuning job in OpenAI's shape: its file is read line by line, a model is trained on it, and the gateway answers with that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from distill.catalog import artifacts, files, fine_tuned, lm_names
from distill.catalog.targets import resolve
from distill.db import Page, unit_of_work
from distill.errors import NotFound
from distill.jobs import events, fine_tuning, pausing, repository, service
from distill.jobs.fine_tuning import FineTuneSpec
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import JobKind
from distill.trainers.base import MaxLength, TokenCounts, TrainCallbacks, Training, TrainOutcome, TrainRequest
from tests.integration.execute.house import House, PretendTrainer, PretendTraining, rows


def line(question: str = "hi", answer: str = "ho", **more: Any) -> bytes:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": said, **more}).encode() + b"\n"


def send(house: House, content: bytes) -> str:
    digest = house.store.put(content)
    with unit_of_work() as s:
        return files.add(s, house.store, house.project_id, digest, filename="train.jsonl", purpose="fine-tune").id


def submit(house: House, content: bytes, **more: Any) -> str:
    spec = FineTuneSpec(model="tiny", training_file=send(house, content), **more)
    with unit_of_work() as s:
        return fine_tuning.submit(s, house.store, house.project_id, None, spec).id


def key_of(house: House, job: Job | str) -> FineTuneJob:
    with unit_of_work() as s:
        row = repository.fine_tune_job(s, house.project_id, job if isinstance(job, str) else job.id)
        s.expunge(row)
        return row


def pretend(house: House) -> PretendTrainer:
    assert isinstance(house.trainer, PretendTrainer)
    return house.trainer


class TestSucceeds:
    def test_with_a_model_of_its_own_name(self, house: House) -> None:
        job_id = submit(house, line() + b"\n" + line("what?", "that"), suffix="mine", seed=3, train_options={"n_epochs": 2})
        assert house.run(job_id).status == "succeeded"
        (trained,) = pretend(house).jobs
        assert [row["completion"][0]["content"] for row in trained["texts"]] == ["ho", "that"]
        assert (trained["seed"], trained["options"]["n_epochs"]) == (3, 2)
        key = key_of(house, job_id)
        assert (key.status, key.rows, key.validation_rows) == ("succeeded", 2, 0)
        assert key.model_id == f"ft:tiny:mine::{job_id[-16:]}"
        with unit_of_work() as s:
            assert [step.name for step in repository.steps(s, job_id)] == ["validate", "train"]

    def test_with_a_model_that_a_compile_job_asks_and_trains_on(self, house: House) -> None:
        job_id = submit(house, line())
        house.run(job_id)
        name = str(key_of(house, job_id).model_id)
        lms = {"student": {"connection": "house", "model": f"openai/{name}"}}
        compiled = house.compile(rows(6), valset=rows(3), lms=lms, teacher=[{"lms": {"student": {"connection": "house", "model": name}}}])
        assert compiled.status == "succeeded", compiled.error
        assert pretend(house).jobs[1]["start_from"] == "start"
        assert compiled.evaluation is not None
        assert [compiled.evaluation[role]["score"] for role in ("baseline", "teacher")] == [1.0, 1.0], "the base model would have failed"
        assert house.teacher.calls == []
        with unit_of_work() as s:
            artifact = artifacts.of_job(s, compiled.id)
            assert artifact is not None
            for asked in (name, f"openai/{name}", json.loads(artifact.manifest)["teacher"]["lms"]["classify"]["model"]):
                found = lm_names.resolve(s, house.project_id, asked)
                assert (found.connection.name, found.model) == ("house", f"openai/{name}"), asked
                assert resolve(s, house.project_id, asked).target.model == name

    def test_the_gateway_finds_it_by_both_names_and_no_other_project_does(self, house: House) -> None:
        job_id = submit(house, line())
        house.run(job_id)
        house.agent.tick()
        name = str(key_of(house, job_id).model_id)
        with unit_of_work() as s:
            for asked in (name, f"openai/{name}"):
                found = resolve(s, house.project_id, asked)
                assert (found.readiness, found.target.model) == ("ready", name)
            fine_tuned.delete(s, house.project_id, name)
            for project, asked in ((house.project_id, name), ("proj-other", name), (house.project_id, f"{name[:-1]}!")):
                with pytest.raises(NotFound):
                    resolve(s, project, asked)

    def test_equal_jobs_have_models_of_their_own(self, house: House) -> None:
        first, second = submit(house, line()), submit(house, line())
        assert {house.run(first).status, house.run(second).status} == {"succeeded"}
        assert key_of(house, first).model_id != key_of(house, second).model_id

    def test_a_validation_file_watches_the_training(self, house: House) -> None:
        job_id = submit(house, line(), validation_file=send(house, line("other") + line("another")))
        house.run(job_id)
        assert (key_of(house, job_id).validation_rows, pretend(house).jobs[0]["validation_rows"]) == (2, "validation.jsonl")

    def test_a_file_that_is_deleted_meanwhile_is_trained_on_all_the_same(self, house: House) -> None:
        job_id = submit(house, line())
        with unit_of_work() as s:
            files.delete(s, house.project_id, files.list_files(s, house.project_id, Page()).data[0].id)
        assert house.run(job_id).status == "succeeded"

    def test_large_lines_are_counted_a_few_at_a_time(self, house: House) -> None:
        house.trainer = counting = Counting()
        house.close()
        house.open()
        assert house.run(submit(house, line("x" * 900_000) * 10)).status == "succeeded"
        assert sum(counting.lines) == 10
        assert max(counting.lines) < 10


class Counting(PretendTrainer):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []

    def count(self, base_model: str, max_seq_length: MaxLength, rows: Sequence[Mapping[str, Any]]) -> TokenCounts:
        self.lines.append(len(rows))
        return super().count(base_model, max_seq_length, rows)


class TestRefuses:
    def test_a_file_with_the_numbers_of_its_lines(self, house: House) -> None:
        bad = line() + b"{\n" + b"\n" + line() + b'{"messages": []}\n' + line("long " * 5000)
        job = house.run(submit(house, bad))
        assert job.status == "failed"
        assert job.error is not None
        assert (job.error["code"], job.error["param"], job.error["category"]) == ("invalid_file", "training_file", "user")
        assert "3 of 5 lines cannot be used" in job.error["message"]
        assert "Line 2 is not valid JSON" in job.error["message"]
        assert "Line 5 needs `messages`" in job.error["message"]
        assert "Line 6 has 5001 tokens; a row may have 4096" in job.error["message"]
        assert [entry["line"] for entry in job.error["data"]["lines"]] == [2, 5, 6]
        assert pretend(house).jobs == []

    def test_the_validation_file_too(self, house: House) -> None:
        job = house.run(submit(house, line(), validation_file=send(house, b"x\n")))
        assert job.error is not None
        assert job.error["param"] == "validation_file"

    @pytest.mark.parametrize("name", [b"a\\u0000b", b"a\\ud800b"])
    def test_names_that_postgresql_cannot_hold(self, house: House, name: bytes) -> None:
        job = house.run(submit(house, b'{"messages": [], "' + name + b'": 1}\n'))
        assert (job.status, (job.error or {}).get("code")) == ("failed", "invalid_file")

    def test_an_empty_file(self, house: House) -> None:
        job = house.run(submit(house, b"\n\n"))
        assert (job.error or {})["message"] == "training_file: the file is empty."

    def test_a_base_model_that_is_not_there(self, house: House) -> None:
        pretend(house).unusable = "There is no such model."
        job = house.run(submit(house, line()))
        assert job.error is not None
        assert (job.error["code"], job.error["param"]) == ("base_model_unusable", "model")

    def test_what_the_trainer_refuses_is_the_jobs_error(self, house: House) -> None:
        house.trainer = Refusing()
        house.close()
        house.open()
        job = house.run(submit(house, line()))
        assert job.error is not None
        assert (job.error["code"], job.error["message"]) == ("row_empty", "A row is empty.")


class Refusing(PretendTrainer):
    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        (request.folder / "log.txt").write_text("no\n")
        return PretendTraining(TrainOutcome("bad_input", 2, error={"code": "row_empty", "message": "A row is empty.", "param": "rows"}))


class TestStops:
    def test_a_cancelled_one_trains_nothing(self, house: House) -> None:
        job_id = submit(house, line())
        with unit_of_work() as s:
            service.cancel(s, house.project_id, job_id, JobKind.FINE_TUNE)
        assert house.run(job_id).status == "cancelled"
        assert key_of(house, job_id).status == "cancelled"
        assert pretend(house).jobs == []

    def test_a_paused_one_goes_on(self, house: House) -> None:
        job_id = submit(house, line())
        with unit_of_work() as s:
            pausing.pause(s, house.project_id, job_id, JobKind.FINE_TUNE)
        assert house.job(job_id).status == "paused"
        with unit_of_work() as s:
            pausing.resume(s, house.project_id, job_id, JobKind.FINE_TUNE)
        assert house.run(job_id).status == "succeeded"
        with unit_of_work() as s:
            told = [event.message for event in events.after(s, job_id, 0) if event.type == "status"]
        assert told == ["The job is queued", "Paused on request", "Resumed", "Running", "Succeeded"]

    def test_a_worker_of_an_older_release_is_given_none(self, house: House) -> None:
        house.worker = type(house.worker)("older", frozenset({"runtime:default", "trainer:local"}))
        job_id = submit(house, line())
        with pytest.raises(AssertionError, match="is queued in step validate"):
            house.run(job_id, seconds=0.2)
