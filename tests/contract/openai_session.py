"""A session with openai-python as it is, run by the interpreter of an environment that has nothing else: `python … BASE_URL KEY PART`.

Prints one JSON object; the tests look at it.
"""

import json
import sys
import time
from typing import Any

import openai

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "We will help."}]}).encode() + b"\n"
    for n in range(16)
)
ASKED: Any = [{"role": "user", "content": "Say 3"}]


def whole_path(client: openai.OpenAI) -> dict[str, Any]:
    file = client.files.create(file=("train.jsonl", ROWS), purpose="fine-tune")
    listed = [each.id for each in client.files.list()]
    same = client.files.content(client.files.retrieve(file.id).id).read() == ROWS
    base = next(model.id for model in client.models.list() if model.owned_by == "house")
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 20, "learning_rate": 0.01, "batch_size": 8}}}
    job = client.fine_tuning.jobs.create(model=base, training_file=file.id, suffix="contract", seed=1, method=method)
    deleted = client.files.delete(file.id).deleted
    seen = [job.status]
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
        seen.append(job.status)
    model = str(job.fine_tuned_model)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    return {
        "file": [file.id in listed, same, deleted],
        "statuses": list(dict.fromkeys(seen)),
        "error": job.error and job.error.message,
        "model": model,
        "job": [job.id in [each.id for each in client.fine_tuning.jobs.list()], job.trained_tokens, job.seed],
        "events": [[event.created_at, event.level, event.type, event.message] for event in events],
        "ids": [event.id for event in events],
        "checkpoint": [checkpoint.fine_tuned_model_checkpoint, checkpoint.step_number],
        "listed": model in [each.id for each in client.models.list()],
        **answers(client, model),
    }


def answers(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """With and without `openai/`, whole, streamed, and several at once."""
    said = [
        client.chat.completions.create(model=name, messages=ASKED, temperature=0, max_tokens=16).choices[0].message.content
        for name in (model, model.removeprefix("openai/"))
    ]
    stream = client.chat.completions.create(model=model, messages=ASKED, temperature=0, max_tokens=16, stream=True)
    said.append("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
    with client.responses.stream(model=model, input="Say 3", temperature=0, max_output_tokens=16) as events:
        responded = [event.type for event in events][-1], events.get_final_response().output_text
    completed = client.completions.create(model=model, prompt="Say 3", temperature=0, max_tokens=4)
    several = client.chat.completions.create(model=model, messages=ASKED, temperature=1, max_tokens=8, n=3, stop="help")
    shape: Any = {"type": "json_schema", "json_schema": {"name": "team", "schema": {"enum": ["billing"]}}}
    shaped = client.chat.completions.create(model=model, messages=ASKED, max_tokens=16, response_format=shape)
    shape["json_schema"]["schema"] = {"enum": ["billing", "claims"]}
    scored = client.chat.completions.create(model=model, messages=ASKED, max_tokens=16, response_format=shape, logprobs=True)
    return {
        "said": said,
        "responded": responded,
        "completed": [completed.model, completed.usage and completed.usage.completion_tokens],
        "embedded": not_there(client, model),
        "several": [choice.message.content for choice in several.choices],
        "shaped": shaped.choices[0].message.content,
        "logprobs": [[token.logprob for token in choice.logprobs.content or []] for choice in scored.choices if choice.logprobs],
        "refused": [refused(client, model, **option) for option in ({"presence_penalty": 0.5}, {"logit_bias": {"1": 1}})],
    }


def not_there(client: openai.OpenAI, model: str) -> str:
    try:
        client.embeddings.create(model=model, input="Say 3")
    except openai.BadRequestError as error:
        return str(error.code)
    return "nothing"


def refused(client: openai.OpenAI, model: str, **option: Any) -> str | None:
    """The field that the LM host names, which has no such thing."""
    try:
        client.chat.completions.create(model=model, messages=ASKED, **option)
    except openai.BadRequestError as error:
        return error.param
    return "nothing"


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
    base_url, key, part = sys.argv[1:]
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0) as client:
        report = whole_path(client) if part == "whole_path" else errors(client)
    print(json.dumps({"version": openai.__version__, **report}))


if __name__ == "__main__":
    main()
