"""/v1/webhook_endpoints, and deliveries to a real receiver."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from openai.types.webhooks import FineTuningJobCancelledWebhookEvent
from sqlalchemy import text
from standardwebhooks.webhooks import Webhook
from starlette.testclient import TestClient

from distill.catalog import keys, projects, webhooks
from distill.catalog.webhooks import MOST_ENDPOINTS, Parcel
from distill.db import unit_of_work
from distill.settings import get_settings
from stack.network import LOOPBACK
from tests.integration.api.conftest import Tokens, job_body
from tests.integration.api.finished import finish
from tests.integration.api.test_files import PURPOSE, sent
from tests.support.databases import forget_settings
from tests.support.server_process import wait_until
from tests.support.webhook_receiver import Receiver, receiving
from workers import webhooks as sender_module
from workers.webhooks import AT_ONCE_SILENT, WebhookSender, signed

PATH = "/v1/webhook_endpoints"
PROD = "/v1/aliases/router@prod"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as own:
        yield own


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_EGRESS__HOSTS", json.dumps([LOOPBACK]))
    monkeypatch.setenv("STILLHOUSE_TIMERS__WEBHOOK_PAUSE_SECONDS", "0.01")
    monkeypatch.setenv("STILLHOUSE_TIMERS__WEBHOOK_PAUSE_CAP_SECONDS", "0.05")
    monkeypatch.setenv("STILLHOUSE_TIMERS__DISPATCH_POLL_SECONDS", "0.02")
    forget_settings()


@pytest.fixture
def admin(api: TestClient, tokens: Tokens) -> Callable[..., dict[str, Any]]:
    """Asks with the key that may administer."""

    def ask(method: str, path: str, status: int = 200, **more: Any) -> dict[str, Any]:
        reply = api.request(method, path, headers={"Authorization": f"Bearer {tokens.admin}"}, **more)
        assert reply.status_code == status, reply.text
        body: dict[str, Any] = reply.json()
        return body

    return ask


Ask = Callable[..., dict[str, Any]]


def endpoint(admin: Ask, url: str, *events: str) -> dict[str, Any]:
    return admin("POST", PATH, 201, json={"url": url, "events": list(events) or ["alias.moved"]})


@contextmanager
def sending() -> Iterator[None]:
    sender = WebhookSender(get_settings())
    sender.start()
    try:
        yield
    finally:
        sender.stop()


@contextmanager
def no_answer_for(ending: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look-ups of such names last until the end of the block."""
    ended, ask = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if str(host).endswith(ending):
            ended.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return ask(host, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        try:
            yield
        finally:
            ended.set()


def log(admin: Ask, made: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin("GET", f"{PATH}/{made['id']}/deliveries")["data"]
    return found


def move_alias(api: TestClient) -> None:
    assert api.put(PROD, json={"artifact": finish(api).artifact_id}).status_code == 200


class TestEndpoints:
    def test_the_secret_is_shown_once(self, admin: Ask) -> None:
        made = endpoint(admin, "https://example.com/hook", "compile_job.succeeded", "alias.moved")
        secret = made.pop("secret")
        assert secret.startswith("whsec_")
        assert admin("GET", f"{PATH}/{made['id']}") == made
        assert admin("GET", PATH)["data"] == [made]
        assert (made["events"], made["disabled_at"]) == (["compile_job.succeeded", "alias.moved"], None)
        with unit_of_work() as s:
            row = webhooks.get(s, projects.get(s, "support").id, made["id"])
            assert secret.removeprefix("whsec_").encode() not in row.sealed_secret
        assert admin("DELETE", f"{PATH}/{made['id']}") == {"id": made["id"], "object": "webhook_endpoint", "deleted": True}
        assert admin("GET", PATH)["data"] == []
        done = [(entry["action"], entry["object_id"]) for entry in admin("GET", f"/v1/audit_log?object_id={made['id']}")["data"]]
        assert done == [("webhook_endpoint.deleted", made["id"]), ("webhook_endpoint.created", made["id"])]

    def test_what_is_wrong_is_named(self, admin: Ask) -> None:
        bad = admin("POST", PATH, 422, json={"url": "https://example.com", "events": ["compile_job.suceeded"]})
        assert bad["error"]["message"] == 'events: unknown event `compile_job.suceeded`; did you mean "compile_job.succeeded"?'
        assert admin("POST", PATH, 422, json={"url": "https://10.0.0.1/", "events": ["alias.moved"]})["error"]["param"] == "url"

    def test_one_too_many_is_a_conflict(self, admin: Ask) -> None:
        for _ in range(MOST_ENDPOINTS):
            endpoint(admin, "https://example.com/x")
        refused = admin("POST", PATH, 409, json={"url": "https://example.com/x", "events": ["alias.moved"]})
        assert refused["error"]["code"] == "too_many_endpoints"

    def test_only_who_administers_the_project_may_see_them(self, api: TestClient, admin: Ask) -> None:
        made = endpoint(admin, "https://example.com/hook")
        assert api.get(PATH).status_code == 403
        with unit_of_work() as s:
            other = keys.create(s, projects.get(s, "other").id, "test", ["admin"])[1]
        for method, path in (("GET", made["id"]), ("DELETE", made["id"]), ("GET", f"{made['id']}/deliveries")):
            reply = api.request(method, f"{PATH}/{path}", headers={"Authorization": f"Bearer {other}"})
            assert reply.status_code == 404


class TestDeliveries:
    def test_stock_clients_accept_what_is_sent(self, api: TestClient, admin: Ask, receiver: Receiver) -> None:
        made = endpoint(admin, receiver.url)
        move_alias(api)
        with sending():
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it is not delivered")
        ((headers, body),) = receiver.got
        assert Webhook(made["secret"]).verify(body, headers) == json.loads(body)
        openai = OpenAI(api_key="unused", webhook_secret=made["secret"])
        event = openai.webhooks.unwrap(body, headers)
        assert (event.id, event.type) == (headers["webhook-id"], "alias.moved")
        with pytest.raises(InvalidWebhookSignatureError):
            openai.webhooks.unwrap(body.replace("router", "other"), headers)
        assert json.loads(body)["data"]["id"] == "router@prod"
        assert log(admin, made)[0] | {"attempts": 1, "last_status": 204, "next_attempt_at": None, "body": body} == log(admin, made)[0]

    def test_each_change_of_a_job_that_is_wanted_comes_with_it(self, api: TestClient, admin: Ask) -> None:
        made = endpoint(admin, "https://example.com/hook", "compile_job.cancelled", "compile_job.failed")
        job = api.post("/v1/compile_jobs", json=job_body(program_name="router", metadata={"run": "7"})).json()
        assert log(admin, made) == []
        api.post(f"/v1/compile_jobs/{job['id']}/cancel")
        (told,) = log(admin, made)
        assert (told["type"], told["status"], told["attempts"]) == ("compile_job.cancelled", "pending", 0)
        assert json.loads(told["body"])["data"] == {
            "id": job["id"], "object": "compile.job", "status": "cancelled", "name": job["name"], "program_name": "router",
            "metadata": {"run": "7"}, "error": None,
        }  # fmt: skip

    def test_a_fine_tuning_job_has_the_events_that_openais_clients_know(self, api: TestClient, admin: Ask) -> None:
        made = endpoint(admin, "https://example.com/hook", "fine_tuning.job.cancelled")
        file = api.post("/v1/files", files=sent(), data=PURPOSE).json()["id"]
        job = api.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file}).json()
        api.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
        (told,) = log(admin, made)
        headers = signed(Parcel(told["id"], made["id"], made["url"], told["body"], sealed(made["id"]), 1))
        event = OpenAI(api_key="unused", webhook_secret=made["secret"]).webhooks.unwrap(told["body"], headers)
        assert isinstance(event, FineTuningJobCancelledWebhookEvent)
        assert event.data.id == job["id"]

    def test_is_tried_again_with_the_same_id_until_it_is_taken(self, api: TestClient, admin: Ask, receiver: Receiver) -> None:
        receiver.answers[:] = [500, 302, 200]
        made = endpoint(admin, receiver.url)
        move_alias(api)
        with sending():
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it is not delivered")
        assert len(receiver.got) == 3
        assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
        assert log(admin, made)[0]["attempts"] == 3

    def test_is_given_up_after_ten_tries_and_sent_again_on_demand(self, api: TestClient, admin: Ask, receiver: Receiver) -> None:
        receiver.answers[:] = [503] * 10 + [200]
        made = endpoint(admin, receiver.url)
        move_alias(api)
        with sending():
            wait_until(lambda: log(admin, made)[0]["status"] == "failed", "it is not given up")
            (given_up,) = log(admin, made)
            assert (given_up["attempts"], given_up["last_error"]) == (10, "it answered 503")
            again = admin("POST", f"{PATH}/{made['id']}/deliveries/{given_up['id']}/redeliver")
            assert again["id"] == given_up["id"]
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it is not delivered again")
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1

    def test_an_endpoint_that_is_gone_is_asked_no_more(self, api: TestClient, admin: Ask, receiver: Receiver) -> None:
        receiver.answers[:] = [410, 200]
        made = endpoint(admin, receiver.url)
        move_alias(api)
        with sending():
            wait_until(lambda: log(admin, made)[0]["status"] == "failed", "it is not given up")
        assert api.delete(PROD).status_code == 200
        (gone,) = log(admin, made)
        assert admin("GET", f"{PATH}/{made['id']}")["disabled_at"] is not None
        admin("POST", f"{PATH}/{made['id']}/deliveries/{gone['id']}/redeliver")
        assert admin("GET", f"{PATH}/{made['id']}")["disabled_at"] is None

    def test_a_name_of_the_servers_own_network_is_not_asked(
        self, api: TestClient, admin: Ask, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = receiver.url.split(":")[2].split("/")[0]
        made = endpoint(admin, f"https://localhost:{port}/hook")
        monkeypatch.setenv("STILLHOUSE_TIMERS__WEBHOOK_PAUSE_SECONDS", "900")
        forget_settings()
        move_alias(api)
        with sending():
            wait_until(lambda: log(admin, made)[0]["last_error"] is not None, "it is not tried")
        assert log(admin, made)[0]["last_error"] == "its host has an address that is not public"
        assert receiver.got == []

    def test_hosts_whose_names_are_never_answered_hold_up_no_other(
        self, api: TestClient, admin: Ask, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        silent = [endpoint(admin, f"https://silent-{at}.test/hook") for at in range(19)]
        made = endpoint(admin, receiver.url)
        monkeypatch.setenv("STILLHOUSE_TIMERS__WEBHOOK_PAUSE_SECONDS", "900")
        forget_settings()
        with sending(), no_answer_for(".test", monkeypatch):
            move_alias(api)
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it is not delivered", seconds=30)
            assert {log(admin, each)[0]["last_error"] for each in silent} == {None}

    def test_however_many_are_silent_who_has_answered_is_told(
        self, api: TestClient, admin: Ask, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = endpoint(admin, receiver.url)
        with sending(), no_answer_for(".test", monkeypatch):
            move_alias(api)
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it is not delivered")
            silence(webhooks_of_others=40)
            assert api.delete(PROD).status_code == 200
            move_alias(api)
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it waits for the silent ones", seconds=10)
            assert under_way() >= 20

    @pytest.mark.slow
    def test_however_much_is_queued_for_silent_ones_who_is_new_is_told(
        self, api: TestClient, admin: Ask, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also after a restart, when nobody has answered this process yet."""
        monkeypatch.setenv("STILLHOUSE_TIMERS__WEBHOOK_SECONDS", "5")
        monkeypatch.setenv("STILLHOUSE_TIMERS__WEBHOOK_PAUSE_SECONDS", "900")
        forget_settings()
        queue_for_others([f"https://silent-{at}.test/hook" for at in range(9)], deliveries_each=60)
        made = endpoint(admin, receiver.url)
        with sending(), no_answer_for(".test", monkeypatch):
            move_alias(api)
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it waits for the silent ones", seconds=60)

    def test_who_takes_long_to_answer_holds_up_no_other(
        self, api: TestClient, admin: Ask, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sender_module, "SOON_SECONDS", 0)
        with sending(), receiving() as slow:
            queue_for_others([f"{slow.url}/{at}" for at in range(9)], deliveries_each=1)
            wait_until(lambda: len(slow.got) == 9, "they are not told")
            slow.gate.clear()
            made = endpoint(admin, receiver.url)
            queue_for_others([], deliveries_each=4)
            wait_until(lambda: len(slow.got) >= 9 + AT_ONCE_SILENT, "they are not told again")
            move_alias(api)
            wait_until(lambda: log(admin, made)[0]["status"] == "delivered", "it waits for the slow ones", seconds=60)
            assert len(slow.got) == 9 + AT_ONCE_SILENT
            slow.gate.set()

    def test_what_came_of_an_older_try_changes_nothing(self, api: TestClient, admin: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        made = endpoint(admin, "https://example.com/hook")
        monkeypatch.setenv("STILLHOUSE_TIMERS__WEBHOOK_SECONDS", "0.001")
        forget_settings()
        move_alias(api)
        with unit_of_work() as s:
            (older,) = webhooks.take(s, 8, [])
        newer = taken_again()
        with unit_of_work() as s:
            webhooks.record(s, newer, 200, None)
            webhooks.record(s, older, 500, "it answered 500")
        assert (log(admin, made)[0]["status"], log(admin, made)[0]["attempts"]) == ("delivered", 2)

    def test_those_that_ended_are_forgotten_after_a_month(self, api: TestClient, admin: Ask) -> None:
        made = endpoint(admin, "https://example.com/hook", "alias.moved", "compile_job.running")
        for _ in range(3):
            move_alias(api)
            assert api.delete(PROD).status_code == 200
        old, ended, *young = reversed([sent["id"] for sent in log(admin, made)])
        with unit_of_work() as s:
            s.execute(
                text("UPDATE webhook_deliveries SET created_at = now() - interval '31 days' WHERE id IN (:old, :ended)"),
                {"old": old, "ended": ended},
            )
            s.execute(
                text("UPDATE webhook_deliveries SET status = 'failed', next_attempt_at = NULL WHERE id IN (:ended, :young)"),
                {"ended": ended, "young": young[0]},
            )
            webhooks.prune(s)
        assert [sent["id"] for sent in log(admin, made)] == [*reversed(young), old]

    def test_busy_endpoints_are_passed_over(self, api: TestClient, admin: Ask) -> None:
        busy, free = endpoint(admin, "https://example.com/busy"), endpoint(admin, "https://example.com/free")
        move_alias(api)
        with unit_of_work() as s:
            assert [parcel.endpoint_id for parcel in webhooks.take(s, 8, [busy["id"]])] == [free["id"]]


def silence(webhooks_of_others: int) -> None:
    """So many endpoints of another project are told something, and answer nothing."""
    with unit_of_work() as s, pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhooks, "MOST_ENDPOINTS", webhooks_of_others)
        other = projects.get(s, "other").id
        for at in range(webhooks_of_others):
            webhooks.add(s, other, f"https://silent-{at}.test/hook", ["alias.moved"], None)
        webhooks.announce(s, other, "alias.moved", {})
    wait_until(lambda: under_way() >= 20, "they are not tried")


def queue_for_others(urls: Sequence[str], deliveries_each: int) -> None:
    """For all endpoints of another project, these among them: due before whatever comes now."""
    with unit_of_work() as s:
        other = projects.get(s, "other").id
        for url in urls:
            webhooks.add(s, other, url, ["alias.moved"], None)
        for _ in range(deliveries_each):
            webhooks.announce(s, other, "alias.moved", {})


def under_way() -> int:
    with unit_of_work() as s:
        return int(s.execute(text("SELECT count(*) FROM webhook_deliveries WHERE status = 'pending' AND attempts = 1")).scalar_one())


def sealed(endpoint_id: str) -> bytes:
    with unit_of_work() as s:
        return webhooks.get(s, projects.get(s, "support").id, endpoint_id).sealed_secret


def taken_again() -> webhooks.Parcel:
    """As soon as the first try's time is over."""
    found: list[webhooks.Parcel] = []

    def take() -> bool:
        with unit_of_work() as s:
            found.extend(webhooks.take(s, 8, []))
        return bool(found)

    wait_until(take, "its time is not over")
    return found[0]
