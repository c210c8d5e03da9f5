"""What callers ask too late, at the last moment, or again: one end for one job, and one job for one request."""

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from tests.chaos import faults
from tests.chaos.jobs import anchors, body, brief
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RACES = 8
SEED = 15
SENDERS = 12


def test_13_queued_job_is_cancelled_at_once_and_a_late_hint_finds_nothing(world: World) -> None:
    with faults.stalled(world, "worker-1"), faults.stalled(world, "worker-2"):
        job = world.submit(brief("cancel queued", 8))
        assert world.ask(job, "cancel") == 200
        assert world.status(job) == "cancelled"
        faults.send_hints(world, "rollouts", 3)
    after = world.submit(brief("after cancel", 2))
    world.wait_over([after])
    assert world.status(after) == "succeeded"
    assert world.calls_about("Odd cancel queued") == 0
    assert world.query("SELECT count(*) FROM chaos.audit WHERE job_id = %s AND became = 'leased'", job) == [(0,)]


def test_15_cancel_that_races_the_end_has_one_outcome_and_the_caller_is_told_which(world: World) -> None:
    chance, pause = random.Random(SEED), threading.Event()
    begun = "SELECT job_id FROM work_items WHERE step = 'package' AND status <> 'queued' AND job_id = ANY (%s)"
    jobs = [world.submit(brief(f"race {n}", 1)) for n in range(RACES)]
    replies: dict[str, Future[int]] = {}

    def cancel(job: str, seconds: float) -> int:
        pause.wait(seconds)
        return world.ask(job, "cancel")

    with ThreadPoolExecutor(RACES) as pool:

        def all_asked() -> bool:
            for (job,) in world.query(begun, jobs):
                if job not in replies:
                    replies[job] = pool.submit(cancel, job, chance.uniform(0, 0.05))
            return len(replies) == RACES

        wait_until(all_asked, "not every job comes to its end")
    world.wait_over(jobs)
    ends = {job: (replies[job].result(), world.status(job)) for job in jobs}
    print(f"of {RACES} cancels (seed {SEED}) {sum(status == 'cancelled' for _, status in ends.values())} came in time")
    assert set(ends.values()) <= {(200, "cancelled"), (409, "succeeded")}
    for job, (reply, status) in ends.items():
        assert world.ask(job, "cancel") == reply, "asking again says the same"
        assert world.query("SELECT count(*) FROM artifacts WHERE job_id = %s", job) == [(int(status == "succeeded"),)]


def test_46_requests_sent_again_after_a_lost_reply_make_one_job(world: World) -> None:
    """Twelve at once with one key, while the API is killed under them."""
    headers = {"idempotency-key": "one of twelve", "authorization": f"Bearer {world.keys[0]}"}
    before = world.query("SELECT count(*) FROM jobs")[0][0]
    sent = brief("again", 4)
    with ThreadPoolExecutor(SENDERS) as pool:
        asked = [pool.submit(world.submit, sent, what="one of twelve", key="one of twelve") for _ in range(SENDERS)]
        wait_until(lambda: world.query("SELECT count(*) FROM jobs")[0][0] > before, "nothing is submitted")
        faults.kill(world, "api")
        (job,) = {each.result() for each in asked}
    assert world.query("SELECT count(*) FROM jobs") == [(before + 1,)]
    other = httpx.post(f"{world.stack.base_url}/v1/compile_jobs", json=body(anchors()), headers=headers, timeout=60)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    world.wait_over([job])
    assert world.status(job) == "succeeded"
