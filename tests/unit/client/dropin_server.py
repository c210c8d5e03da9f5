"""A server for the drop-in that is a script, and a program that only the client has."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy
import httpx
import pytest

import stillhouse
from distill.catalog import lm_names
from distill.catalog.models import Connection
from distill.errors import Invalid, NotFound
from stillhouse.types import WorkItem
from tests.support.scripted_lm import Ask

TEAMS = ("billing", "technical", "account")


class Classify(dspy.Signature):
    """Route a customer message to one team."""

    message: str = dspy.InputField()
    category: Literal["billing", "technical", "account"] = dspy.OutputField()


class Desk(dspy.Module):
    """A branch, and a tool that only this process has."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict(Classify)
        self.reply = dspy.Predict("message, category -> answer")

    def forward(self, message: str) -> dspy.Prediction:
        team = self.classify(message=message).category
        if team == "account":
            return dspy.Prediction(category=team, answer=look_up(message))
        return dspy.Prediction(category=team, answer=self.reply(message=message, category=team).answer)


def look_up(message: str) -> str:
    return f"Account {len(message)} is in order."


def desk(lm: str) -> Desk:
    made = Desk()
    made.set_lm(dspy.LM(lm, api_base="http://127.0.0.1:9/v1", api_key="the-users-own"))
    return made


def example(number: int) -> Any:
    team = TEAMS[number % 3]
    return dspy.Example(message=f"Message {number} about {team}", category=team).with_inputs("message")


def knows(ask: Ask) -> dict[str, str]:
    said = ask.inputs["message"].split()[-1]
    return {"category": said} if "category" in ask.outputs else {"answer": f"Team {said} will help."}


@dataclass
class Server:
    """The API's routes that the drop-in uses; `jobs` are those that it lists, `models` those of the connection `house`.

    With `examples` a job has one item of them to work off; for `goes_away` requests after its claim the server is not reached.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] | None = field(default_factory=lambda: ["tiny"])
    rules: dict[str, list[str]] = field(default_factory=dict)
    """Of the connections, which LMs they stand for."""
    sent: list[tuple[str, Any]] = field(default_factory=list)
    examples: list[Any] = field(default_factory=list)
    succeeded: dict[str, str | None] = field(default_factory=dict)
    """Of jobs that have, their artifact; None where it was deleted."""
    estimate: dict[str, Any] | None = field(default_factory=dict)
    """None: it has none to give."""
    goes_away: int = 0
    away: int = 0
    cut: dict[str, int] = field(default_factory=dict)
    """Of the end of a path: so many requests whose connection breaks."""
    refused: dict[str, str] = field(default_factory=dict)
    """Of the end of a path: the code of a conflict."""
    refuses: dict[str, httpx.Response] = field(default_factory=dict)
    """Of a method and the end of a path: the answer."""
    bundles: list[Any] = field(default_factory=list)
    """Documents that were sent."""
    refused_rows: dict[int, httpx.Response] = field(default_factory=dict)
    """Of rows (from 1), the answer to any batch that has a trace or a score of theirs."""
    told: threading.Event = field(default_factory=threading.Event)
    """Set as soon as a trace came in."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            self.away -= 1
            raise httpx.ConnectError("refused")
        path, body = request.url.path, json.loads(request.content or b"null")
        last = path.rpartition("/")[2]
        if self.cut.get(last):
            self.cut[last] -= 1
            raise httpx.ReadError("cut")
        if last in self.refused:
            return httpx.Response(409, json={"error": {"code": self.refused[last], "message": "no"}})
        if (answer := self.refuses.get(f"{request.method} {last}")) is not None:
            return answer
        if last in ("traces", "scores") and body is not None:
            for each in body[last]:
                if (answer := self.refused_rows.get(each["row"])) is not None:
                    return answer
        self.sent.append((f"{request.method} {path}", body))
        if last == "estimate" and self.estimate is None:
            return httpx.Response(503, json={"error": {"code": "program_host_busy", "message": "ask again later"}})
        if path == "/v1/bundles":
            return httpx.Response(200, json=self._bundle(body, request.url.params))
        if path == "/v1/connections/resolve":
            return self._resolve(request.url.params["lm"])
        return httpx.Response(200, json=self._answer(request.method, path, body))

    def _resolve(self, name: str) -> httpx.Response:
        house = Connection(row_name="house", models=self.models, match=self.rules.get("house", []))
        openai = Connection(row_name="openai", models=None, match=self.rules.get("openai", []))
        try:
            found = lm_names.choose([house, openai], name)
        except (Invalid, NotFound) as fault:
            status = 404 if isinstance(fault, NotFound) else 422
            return httpx.Response(status, json={"error": {"code": fault.code, "message": fault.message}})
        return httpx.Response(200, json={"lm": name, "connection": found.connection.name, "model": found.model, "rule": found.rule})

    def _bundle(self, document: Any, params: httpx.QueryParams) -> Any:
        if document is None:
            known = [number for number, each in enumerate(self.bundles) if each.get("identity") == params["identity"]]
            listed = known if params.get("order") == "asc" else known[::-1]
            return {"data": [{"id": f"bundle-{number}"} for number in listed], "has_more": False}
        self.bundles.append(document)
        return {"id": f"bundle-{len(self.bundles) - 1}"}

    def _answer(self, method: str, path: str, body: Any) -> Any:
        if path == "/v1/compile_jobs" and method == "GET":
            return {"data": self.jobs, "has_more": False}
        if path.endswith("/estimate"):
            return self.estimate
        if path.endswith(("/traces", "/scores")):
            self.told.set()
            return {"received": 1, "new": 1}
        if (job := path.rpartition("/")[2]) in self.succeeded:
            made = self.succeeded[job]
            artifact = made and {"id": made, "object": "artifact", "created_at": 1}
            return {"id": job, "status": "succeeded", "created_at": 1, "rollouts": {"where": "client"}, "artifact": artifact}
        if path.endswith("/claim"):
            self.away = self.goes_away
            return {"item": item_of(self.bodies("POST /v1/compile_jobs")[-1], self.examples).model_dump()}
        if path.endswith("/publish"):
            return {"id": body["id"], "status": "succeeded"}
        return {
            "id": "cjob-1",
            "status": "running" if self.examples and path == "/v1/compile_jobs" else "failed",
            "created_at": 1,
            "rollouts": {"where": "client"},
            "error": {"code": "x", "message": "over"},
        }

    def bodies(self, route: str) -> list[Any]:
        return [body for path, body in self.sent if path == route]


def item_of(body: Any, examples: list[Any]) -> WorkItem:
    """What the server would say of a job that the drop-in asked for."""
    spec = body["program"]
    options = {"model": "openai/big", "options": {"temperature": 0.5}, "constrain": False, "native": []}
    rows = [
        {
            "row": number,
            "inputs": dict(each.inputs().items()),
            "labels": dict(each.labels().items()),
            "rollouts": [{"n": 0, "seed": 7, "trace": None, "score": None}],
        }
        for number, each in enumerate(examples, 1)
    ]
    return WorkItem(
        id="work-1",
        fence=1,
        job="cjob-1",
        step="bootstrap",
        role="teacher:0",
        width=4,
        programs=[{"rollouts": [0], "program": spec, "prompt_adapter": {"type": "chat"}, "lms": {"student": options}}],
        examples=rows,
    )


def rows_sent(server: Server) -> list[int]:
    return sorted(trace["row"] for sent in server.bodies("POST /v1/compile_jobs/cjob-1/traces") for trace in sent["traces"])


def worked_off(server: Server, client: stillhouse.Stillhouse, n: int, **options: Any) -> None:
    server.examples = [example(number) for number in range(n)]
    optimizer = stillhouse.BootstrapFinetune(client=client, **options)
    with pytest.raises(stillhouse.StillhouseError, match="job cjob-1 is failed: over"):
        optimizer.compile(desk("house/tiny"), server.examples, teacher=desk("openai/big"))


def asked_for(server: Server, client: stillhouse.Stillhouse, **options: Any) -> Any:
    optimizer = stillhouse.BootstrapFinetune(client=client, **options)
    with pytest.raises(stillhouse.StillhouseError, match="job cjob-1 is failed: over"):
        optimizer.compile(desk("house/tiny"), [example(number) for number in range(6)], teacher=desk("openai/big"))
    return server.bodies("POST /v1/compile_jobs")[-1]
