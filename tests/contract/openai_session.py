"""A session with openai-python as it is, run by the interpreter of an environment that has nothing else: `python … BASE_URL KEY`.

Prints one JSON object; the tests look at it.
"""

import json
import sys
from typing import Any

import openai

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "We will help."}]}).encode() + b"\n"
    for n in range(16)
)
ASKED: Any = [{"role": "user", "content": "Say 3"}]


def errors(client: openai.OpenAI) -> dict[str, Any]:
    """What each refusal is raised as, with what it says."""
    file = client.files.create(file=("train.jsonl", ROWS), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    client.fine_tuning.jobs.cancel(job.id)
    stranger = client.with_options(api_key="sh_a_b")
    asks: dict[str, Any] = {
        "400": lambda: client.fine_tuning.jobs.create(model="tiny", training_file="file-nobody"),
        "401": stranger.models.list,
        "404": lambda: client.files.retrieve("file-nobody"),
        "409": lambda: client.fine_tuning.jobs.pause(job.id),
        "422": lambda: client.post("/compile_jobs", cast_to=object, body={"program": "prog-x"}),
        "429": lambda: client.chat.completions.create(model="house/tiny", messages=ASKED),
    }
    found = {}
    for status, ask in asks.items():
        try:
            ask()
        except openai.APIStatusError as error:
            found[status] = [type(error).__name__, error.status_code, error.code, error.param, error.type, error.request_id is not None]
    return found


def main() -> None:
    base_url, key = sys.argv[1:]
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0) as client:
        report = errors(client)
    print(json.dumps({"version": openai.__version__, **report}))


if __name__ == "__main__":
    main()
