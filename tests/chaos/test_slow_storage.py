"""Workers that die while they write, and bits that rot: what a row points at is whole, and what is not is told and not sent."""

import pytest

from tests.chaos import faults
from tests.chaos.jobs import brief
from tests.chaos.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MOMENTS = (("blob.writing", "blob.placed"), ("blob.renamed", "package.before_publish"))
"""Two for each job: three workers lost in a row would be poison."""


def test_58_workers_that_die_while_they_publish_leave_old_or_new(world: World) -> None:
    jobs = []
    for number, points in enumerate(MOMENTS):
        with faults.death_at(world, *points):
            jobs.append(world.submit(brief(f"dies {number}", 2)))
        world.wait_over(jobs)
    assert {world.status(job) for job in jobs} == {"succeeded"}
    assert world.query("SELECT count(*), count(DISTINCT job_id) FROM artifacts WHERE job_id = ANY (%s)", jobs) == [(len(jobs), len(jobs))]


def test_60_rotten_file_of_an_artifact_is_told_and_not_sent(world: World) -> None:
    job = world.submit(brief("rotten", 2))
    world.wait_over([job])
    ((artifact, digest),) = world.query("SELECT id, files->'manifest.json'->>'digest' FROM artifacts WHERE job_id = %s", job)
    path = f"/v1/artifacts/{artifact}/files/manifest.json"
    whole = world.get(path)
    assert whole.status_code == 200
    with faults.damaged(world, digest, lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])):
        rotten = world.get(path)
        assert rotten.status_code == 500
        assert rotten.json()["error"]["code"] == "artifact_corrupt"
    assert world.get(path).content == whole.content
