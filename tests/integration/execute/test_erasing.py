"""What is erased is nowhere any more: every column of every table, and every blob, is searched before and after."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text, update
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import blobs, datasets, keys, projects
from distill.catalog.models import File
from distill.db import Session, unit_of_work
from distill.errors import NotFound
from distill.jobs import erasing, fine_tuning, refiltering, repository, service
from distill.jobs.erased import MOST_LOOKED_AT
from distill.jobs.fine_tuning import FineTuneSpec
from distill.jobs.models import Job
from distill.settings import get_settings
from distill.storage import FolderStore
from tests.integration.core.world import waits_for_a_lock
from tests.integration.execute.client_player import TOML
from tests.integration.execute.erasure import CANARY, Json, collect, compiled, places, planted, repeats, send, upload
from tests.integration.execute.house import House, configured, rows
from tests.integration.execute.stored import tables_naming
from tests.support.scripted_lm import ScriptedLM
from tests.support.statements import counted
from workers.collector import Collector


@pytest.fixture
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=repeats) as lm:
        yield lm


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


def during(deletion: Callable[[Session], str], act: Callable[[], str]) -> str:
    """What an act comes to that begins before a deletion is committed."""
    with ThreadPoolExecutor(1) as other:
        with unit_of_work() as s:
            deletion(s)
            made = other.submit(act)
            while not made.done() and not waits_for_a_lock():
                pass
        return made.result()


class TestDataset:
    def test_leaves_nothing_where_its_artifacts_go_too(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, planted(12), name="tickets")
        job = compiled(house, dataset, name="first")
        assert {"datasets", "traces", "row_facts", "job_events", "idempotency_keys", "blob"} <= places(house)
        told = operator.delete(f"/v1/datasets/{dataset}", params={"dry_run": True, "cascade": "artifacts"}).json()
        assert told["deleted"] is False
        assert told["removes"]["jobs"] == 0
        assert told["removes"]["job_details"] == told["removes"]["artifacts"] == 1
        assert told["removes"]["traces"] > 12
        assert told["removes"]["bytes"] > 0
        assert operator.get(f"/v1/datasets/{dataset}").status_code == 200, "nothing was done"
        assert operator.delete(f"/v1/datasets/{dataset}", params={"cascade": "artifacts"}).json()["deleted"] is True
        collect(house)
        house.agent.tick()
        assert places(house) == set()
        assert house.host.models() == frozenset()
        left = operator.get(f"/v1/compile_jobs/{job.id}").json()
        assert (left["status"], left["artifact"]) == ("succeeded", None)
        assert left["erased_at"] is not None
        for part in ("traces", "rejections", "training_files", "events", "evaluations", "evaluations/pairs", "curves", "logs", "cost"):
            assert operator.get(f"/v1/compile_jobs/{job.id}/{part}").status_code == 200, part
        entries = operator.get("/v1/audit_log", params={"object_id": dataset}).json()["data"]
        assert [entry["action"] for entry in entries] == ["dataset.erased", "dataset.deleted"]
        assert entries[0]["data"]["traces"] == told["removes"]["traces"]

    def test_keeps_its_artifacts_and_what_also_came_from_another_one(self, house: House, operator: TestClient) -> None:
        shared = rows(9)
        first = upload(operator, planted(6) + shared)
        compiled(house, first)
        second = upload(operator, shared)
        compiled(house, second)
        assert "stay" in operator.delete(f"/v1/datasets/{first}", params={"dry_run": True}).json()["notes"][0]
        assert operator.delete(f"/v1/datasets/{first}").json()["deleted"] is True
        collect(house)
        with unit_of_work() as s:
            kept = " ".join(s.scalars(text("SELECT body FROM traces")))
        assert CANARY not in kept
        asked = len(house.teacher.calls)
        compiled(house, upload(operator, shared, name="again"))
        assert len(house.teacher.calls) == asked, "what the other job's rollouts had paid for is still there"
        assert len(operator.get("/v1/artifacts").json()["data"]) == 3

    def test_goes_with_training_files_that_were_sent_in_again(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, planted(12))
        job = compiled(house, dataset)
        key = operator.get(f"/v1/compile_jobs/{job.id}/training_files").json()["data"][0]["fine_tuning_job"]
        path = f"/v1/compile_jobs/{job.id}/training_files/{key}/content"
        downloads = [operator.get(path, params={"format": form}).content for form in ("openai", "trl")]
        made = [send(operator, content, f"{CANARY}.jsonl") for content in (*downloads, b'{"messages": []}')]
        with unit_of_work() as s:
            spec = FineTuneSpec(model="tiny", training_file=made[0])
            tuned = fine_tuning.submit(s, house.store, house.project_id, None, spec).id
        dry_run: Json = {"dry_run": True, "cascade": "artifacts"}
        early = operator.delete(f"/v1/datasets/{dataset}", params=dry_run).json()
        assert early["removes"]["files"] == 0, "no training file is read within a request"
        assert early["notes"] == ["copies of 1 training file are not counted yet: the collector has yet to read it; all copies go"]
        Collector(house.store, get_settings().timers).round()
        assert operator.delete(f"/v1/datasets/{dataset}", params=dry_run).json()["removes"]["files"] == 2
        assert operator.delete(f"/v1/datasets/{dataset}", params={"cascade": "artifacts"}).status_code == 200
        collect(house)
        assert "files" in places(house), "it waits for the job that reads one of them"
        house.succeed(tuned)
        with unit_of_work() as s:
            for digest in s.scalars(text("SELECT training_file FROM fine_tune_jobs WHERE job_id = :id"), {"id": job.id}):
                house.store.remove(digest)  # it is not read again for each look
        collect(house)
        house.agent.tick()
        with unit_of_work() as s:
            s.execute(update(File).where(File.id == made[2]).values(filename="other"))
        assert places(house) == set()
        assert [file["id"] for file in operator.get("/v1/files").json()["data"]] == [made[2]]
        done = operator.get(f"/v1/fine_tuning/jobs/{tuned}").json()
        assert (done["status"], done["training_file"]) == ("succeeded", made[0])
        entry = operator.get("/v1/audit_log", params={"object_id": dataset}).json()["data"][0]
        assert (entry["action"], entry["data"]["files"]) == ("dataset.erased", 2)

    def test_a_damaged_training_file_does_not_stop_it(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, planted(12))
        job = compiled(house, dataset)
        with unit_of_work() as s:
            digest = s.scalars(text("SELECT training_file FROM fine_tune_jobs WHERE job_id = :id"), {"id": job.id}).one()
        assert isinstance(house.store, FolderStore)
        place = house.store.place(digest)
        place.chmod(0o644)
        place.write_bytes(b"#" + place.read_bytes()[1:])
        assert operator.delete(f"/v1/datasets/{dataset}", params={"cascade": "artifacts"}).status_code == 200
        collect(house)
        assert places(house) == set()

    def test_stored_answers_are_searched_once_for_all_its_jobs(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, rows(3))
        jobs = [house.submit(each) for each in (dataset, dataset, upload(operator, rows(4)))]
        for job in jobs:
            assert operator.post(f"/v1/compile_jobs/{job}/cancel").status_code == 200
            upload(operator, rows(1), metadata={"of": job})
        assert operator.delete(f"/v1/datasets/{dataset}").status_code == 200
        with counted() as sent:
            collect(house)
        assert sum("DELETE FROM idempotency_keys" in each for each in sent) == 2, "of the dataset and of the jobs"
        assert ["idempotency_keys" in tables_naming(job) for job in jobs] == [False, False, True]

    def test_is_named_by_a_version_that_a_retry_finds_again(self, house: House, operator: TestClient) -> None:
        upload(operator, rows(3), name="tickets")
        refused = operator.delete("/v1/datasets/tickets@latest")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "version_needed"), refused.text
        assert operator.delete("/v1/datasets/tickets@latest", params={"dry_run": True}).status_code == 200
        assert operator.delete("/v1/datasets/tickets@v1").status_code == 200

    def test_a_dry_run_of_many_rows_counts_the_traces_of_the_first(self, house: House, operator: TestClient) -> None:
        job = compiled(house, upload(operator, rows(9)))
        first = rows(9)
        filler = [{"message": "no trace", "category": "billing"}] * (MOST_LOOKED_AT - 6)
        with unit_of_work() as s:
            large = datasets.create(s, house.store, house.project_id, [*first[:6], *filler, *first[6:]])
            s.execute(update(Job).where(Job.id == job.id).values(trainset_id=large.id))
        told = operator.delete(f"/v1/datasets/{large.id}", params={"dry_run": True}).json()
        assert "first 50,000 of its 50,003 rows" in told["notes"][0]
        assert operator.delete(f"/v1/datasets/{large.id}").status_code == 200
        collect(house)
        entry = operator.get("/v1/audit_log", params={"object_id": large.id}).json()["data"][0]
        assert entry["data"]["traces"] > told["removes"]["traces"] > 0

    def test_is_refused_while_something_needs_it(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, rows(9))
        job = house.submit(dataset, holdout={"n": 3}, program_name="desk")
        busy = operator.delete(f"/v1/datasets/{dataset}")
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "dataset_in_use")
        assert job in busy.json()["error"]["message"]
        artifact = operator.get(f"/v1/compile_jobs/{house.succeed(job).id}").json()["artifact"]["id"]
        assert operator.put("/v1/aliases/desk@prod", json={"artifact": artifact}).status_code == 200
        served = operator.delete(f"/v1/datasets/{dataset}", params={"cascade": "artifacts"})
        assert (served.status_code, served.json()["error"]["code"]) == (409, "artifact_in_use")
        told = operator.delete(f"/v1/datasets/{dataset}", params={"cascade": "artifacts", "dry_run": True}).json()
        assert "desk@prod" in told["blocked_by"][0]
        assert operator.get(f"/v1/datasets/{dataset}").status_code == 200

    def test_a_failed_job_of_it_is_not_retried(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, [{"message": f"{CANARY} 1 about {at}", "category": "billing"} for at in range(10)])
        job = house.run(house.submit(dataset, holdout={"n": 0}))
        assert job.status == "failed"
        assert CANARY in json.dumps(job.error)
        assert operator.delete(f"/v1/datasets/{dataset}").status_code == 200
        for _ in range(2):  # before anything is carried out, and after it
            refused = operator.post(f"/v1/compile_jobs/{job.id}/retry")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_erased"), refused.text
            collect(house)
        assert places(house) == set()
        assert job.error is not None
        assert operator.get(f"/v1/compile_jobs/{job.id}").json()["error"]["code"] == job.error["code"]

    def test_one_that_fails_or_has_lost_its_blob_holds_up_no_other(self, house: House, operator: TestClient) -> None:
        with unit_of_work() as s:
            s.execute(text("INSERT INTO erasures (object_id, kind, project_id, artifacts) VALUES ('cjob-none', 'job', 'none', true)"))
            project = projects.get(s, "default").id
        dataset = upload(operator, planted(3))
        with unit_of_work() as s:
            house.store.remove(datasets.resolve(s, project, dataset).digest)
        assert operator.delete(f"/v1/datasets/{dataset}").status_code == 200
        collect(house)
        actions = [entry["action"] for entry in operator.get("/v1/audit_log", params={"object_id": dataset}).json()["data"]]
        assert actions == ["dataset.erased", "dataset.deleted"]

    def test_one_with_damaged_rows_and_files_holds_up_no_other(self, house: House, operator: TestClient) -> None:
        dataset, other = upload(operator, planted(9)), upload(operator, planted(3))
        compiled(house, dataset)
        send(operator, b'{"messages": []}', "mine.jsonl")
        with unit_of_work() as s:
            blobs.register(s, house.store, damaged := house.store.put(b"no JSON"))
            s.execute(text("UPDATE fine_tune_jobs SET training_file = :digest"), {"digest": damaged})
        path, cascade = f"/v1/datasets/{dataset}", {"cascade": "artifacts"}
        assert operator.delete(path, params={**cascade, "dry_run": True}).json()["removes"]["files"] == 0
        for each in (dataset, other):
            assert operator.delete(f"/v1/datasets/{each}", params=cascade).status_code == 200
        with unit_of_work() as s:
            s.execute(text("UPDATE artifacts SET files = '{\"a\": {}}'"))
        assert erasing.carry_out(house.store, threading.Event()) == 1
        with unit_of_work() as s:
            s.execute(text("UPDATE artifacts SET files = '{}'"))
        assert erasing.carry_out(house.store, threading.Event()) == 1


class TestJob:
    def test_goes_with_what_only_it_has_made(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, planted(9))
        job_id = house.submit(dataset, holdout={"n": 3}, smoke_test=None, name=f"{CANARY} of a job")
        running = operator.delete(f"/v1/compile_jobs/{job_id}")
        assert (running.status_code, running.json()["error"]["code"]) == (409, "job_not_over")
        house.succeed(job_id)
        has = operator.delete(f"/v1/compile_jobs/{job_id}")
        assert (has.status_code, has.json()["error"]["code"]) == (409, "job_has_artifact")
        assert operator.delete(f"/v1/compile_jobs/{job_id}", params={"cascade": "artifacts"}).json()["deleted"] is True
        assert operator.get(f"/v1/compile_jobs/{job_id}").status_code == 404
        assert operator.get("/v1/compile_jobs").json()["data"] == []
        collect(house)
        with unit_of_work() as s:
            s.execute(text("DELETE FROM idempotency_keys"))  # of the upload: the dataset is still there
        assert places(house) <= {"datasets", "blob"}
        collect(house)
        assert operator.get("/v1/usage").json()["jobs"] == 1, "what was used stays counted"
        with unit_of_work() as s:
            s.execute(text("UPDATE jobs SET deleted_at = NULL"))  # a column that the release before deletions does not know
        assert [job["id"] for job in operator.get("/v1/compile_jobs").json()["data"]] == [job_id]

    def test_what_somebody_held_goes_the_next_time_and_is_counted_with_the_rest(self, house: House, operator: TestClient) -> None:
        job = compiled(house, upload(operator, planted(9)))
        path, cascade = f"/v1/compile_jobs/{job.id}", {"cascade": "artifacts"}
        foreseen = operator.delete(path, params={**cascade, "dry_run": True}).json()["removes"]
        assert operator.delete(path, params=cascade).status_code == 200
        with unit_of_work() as s:
            s.execute(text("SELECT id FROM work_items WHERE job_id = :id LIMIT 1 FOR UPDATE"), {"id": job.id})
            collect(house)
        assert "work_items" in tables_naming(job.id)
        collect(house)
        assert "work_items" not in tables_naming(job.id)
        done = operator.get("/v1/audit_log", params={"object_id": job.id}).json()["data"][0]
        assert (done["action"], done["data"]["traces"]) == ("job.erased", foreseen["traces"])

    def test_what_two_jobs_shared_goes_with_the_last_of_them(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, planted(9))
        first, second = compiled(house, dataset).id, compiled(house, dataset).id
        cascade = {"cascade": "artifacts"}
        assert operator.delete(f"/v1/compile_jobs/{first}", params=cascade).status_code == 200
        with unit_of_work() as s:  # the model has outlived its job, and may be trained on
            student = str(repository.fine_tune_jobs(s, second)[0].model_id)
        going = house.submit(rows(9), lms={"student": {"model": student}})
        with unit_of_work() as s:
            service.cancel(s, house.project_id, going)
        collect(house)
        used = operator.get("/v1/usage").json()["rollouts"]
        assert len(house.host.models()) == 1
        assert operator.delete(f"/v1/compile_jobs/{second}", params=cascade).status_code == 200
        collect(house)
        house.agent.tick()
        with unit_of_work() as s:
            s.execute(text("DELETE FROM idempotency_keys"))  # of the upload: the dataset is still there
        assert places(house) <= {"datasets", "blob"}
        assert house.host.models() == frozenset()
        assert operator.get("/v1/usage").json()["rollouts"] == used > 0

    def test_no_job_is_made_from_one_that_is_being_deleted(self, house: House, operator: TestClient) -> None:
        first = compiled(house, upload(operator, rows(9))).id

        def refilter() -> str:
            with unit_of_work() as s:
                return refiltering.refilter(s, house.project_id, None, first, {"prompt_adapter": "json"}).id

        with pytest.raises(NotFound, match=f"no compile job {first}"):
            during(lambda s: erasing.delete_job(s, house.project_id, first, with_artifacts=True), refilter)

    def test_no_job_is_made_over_a_dataset_that_is_being_deleted(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, rows(9))
        with pytest.raises(NotFound, match=f"no dataset {dataset}"):
            during(
                lambda s: erasing.delete_dataset(s, house.project_id, dataset, with_artifacts=False),
                lambda: house.submit(dataset, holdout={"n": 3}),
            )

    def test_is_refused_while_an_open_job_may_take_its_traces(self, house: House, operator: TestClient) -> None:
        dataset = upload(operator, rows(9))
        first = compiled(house, dataset)
        path, cascade = f"/v1/compile_jobs/{first.id}", {"cascade": "artifacts"}
        with unit_of_work() as s:
            other = refiltering.refilter(s, house.project_id, None, first.id, {"prompt_adapter": "json"}).id
        refused = operator.delete(path, params=cascade)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_in_use"), refused.text
        assert other in refused.json()["error"]["message"]
        assert other in operator.delete(path, params={**cascade, "dry_run": True}).json()["blocked_by"][0]
        with unit_of_work() as s:
            service.cancel(s, house.project_id, other)
        assert operator.delete(path, params=cascade).status_code == 200


class TestProject:
    def test_goes_with_all_it_has(self, house: House, operator: TestClient) -> None:
        made = operator.post("/v1/projects", json={"name": "support", "metadata": {"note": CANARY}}).json()
        with unit_of_work() as s:
            token = keys.create(s, made["id"], f"{CANARY} key", ("jobs:read", "jobs:write", "aliases:write", "admin"))[1]
        house.project_id = made["id"]
        with TestClient(create_app(), headers={"Authorization": f"Bearer {token}"}) as own:
            hook = {"url": f"https://{CANARY}.example.com/", "events": ["compile_job.succeeded"]}
            endpoint = own.post("/v1/webhook_endpoints", json=hook)
            assert endpoint.status_code == 201, endpoint.text
            connection = {"name": "ours", "base_url": f"https://{CANARY}.example.com/v1", "api_key": "sk-1"}
            assert own.post("/v1/connections", json=connection).status_code == 201
            job = compiled(house, upload(own, planted(9)), program_name="desk", metadata={"note": CANARY})
            artifact = own.get(f"/v1/compile_jobs/{job.id}").json()["artifact"]["id"]
            assert own.put("/v1/aliases/desk@prod", json={"artifact": artifact}).status_code == 200
            file = own.post("/v1/files", files={"file": (f"{CANARY}.jsonl", CANARY.encode())}, data={"purpose": "fine-tune"})
            assert file.status_code == 200, file.text
            assert {"projects", "api_keys", "connections", "files", "webhook_endpoints", "webhook_deliveries", "jobs"} <= places(house)
            assert own.delete("/v1/projects/support").status_code == 403
            assert own.delete("/v1/projects/default").status_code == 404
            told = operator.delete("/v1/projects/support", params={"dry_run": True}).json()
            assert (told["removes"]["jobs"], told["removes"]["datasets"], told["removes"]["artifacts"]) == (1, 1, 1)
            assert "desk@prod" in told["notes"][0]
            refused = operator.delete("/v1/projects/default")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "operators_project")
            assert operator.delete("/v1/projects/support").json()["deleted"] is True
            assert own.get("/v1/me").status_code == 401
        assert operator.get("/v1/projects/support").status_code == 404
        assert operator.post("/v1/projects", json={"name": "support"}).status_code == 201, "its name is free at once"
        collect(house)
        house.agent.tick()
        collect(house)
        assert places(house) == set()
        entries = operator.get("/v1/audit_log", params={"object_id": made["id"]}).json()["data"]
        assert [entry["action"] for entry in entries] == ["project.erased", "project.deleted"]

    def test_is_refused_while_a_job_of_it_is_not_over(self, house: House, operator: TestClient) -> None:
        made = operator.post("/v1/projects", json={"name": "support"}).json()
        house.project_id = made["id"]
        job_id = house.submit(rows(9), holdout={"n": 3})
        refused = operator.delete("/v1/projects/support")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "project_in_use")
        assert job_id in refused.json()["error"]["message"]
        with unit_of_work() as s:
            service.cancel(s, made["id"], job_id)
        assert operator.delete("/v1/projects/support").status_code == 200
