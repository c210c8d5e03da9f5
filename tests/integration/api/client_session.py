"""A session with the SDK alone, run by the interpreter of an environment of its own: `python … BASE_URL KEY`; prints one JSON object."""

import asyncio
import json
import platform
import sys
from importlib.metadata import distributions
from typing import Any

import stillhouse

PROGRAM: dict[str, Any] = json.loads(sys.stdin.read())
ROWS = [{"message": "I was charged twice", "category": "billing"}, {"message": "It crashes", "category": "technical"}]


def waiting(client: stillhouse.Stillhouse) -> list[str]:
    dataset = client.datasets.create(ROWS)
    raw = client.compile_jobs.with_raw_response.create(program=PROGRAM, trainset=dataset.id, auto_start=False)
    job = client.compile_jobs.cancel(raw.parse().id)
    return [str(raw.status_code), client.compile_jobs.wait(job.id, timeout=20).status]


async def awaited(client: stillhouse.AsyncStillhouse) -> list[str]:
    async with client:
        (job,) = [job async for job in await client.compile_jobs.list(limit=1)]
        return [event.type async for event in client.compile_jobs.events.stream(job.id)][-1:]


def refused(client: stillhouse.Stillhouse) -> str:
    try:
        client.compile_jobs.retrieve("cjob-nothing")
    except stillhouse.NotFoundError as error:
        return type(error).__name__
    return ""


if __name__ == "__main__":
    base_url, key = sys.argv[1:]
    with stillhouse.Stillhouse(base_url, key) as opened:
        said = {"waiting": waiting(opened), "refused": refused(opened)}
    said["awaited"] = asyncio.run(awaited(stillhouse.AsyncStillhouse(base_url, key)))
    said["python"] = platform.python_version()
    said["from"] = stillhouse.__file__
    said["installed"] = sorted(each.metadata["Name"] for each in distributions())
    print(json.dumps(said))
