"""A loopback server that answers chat completions in the form the prompt asks for, and keeps what it was sent."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VALUES = {"category": "billing", "confidence": "0.9"}


@dataclass
class Scripted:
    """What was sent: path, key and body of every request."""

    base_url: str
    requests: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)
    refuses: tuple[int, dict[str, Any], dict[str, str]] | None = None
    """Status, body and headers of every answer, in place of a completion."""
    refused: str = ""
    """Only models whose names begin so are refused."""
    room: int | None = None
    """The most tokens that an answer may be asked with; more are a 400."""
    too_long: str | None = "context_length_exceeded"
    """The code of that 400, which some LM hosts leave out."""
    checks: list[str | None] = field(default_factory=list)
    """The header `stillhouse-prompt-check` of every request."""

    @staticmethod
    def most(body: dict[str, Any]) -> int | None:
        most: int | None = body.get("max_tokens", body.get("max_completion_tokens"))
        return most

    @property
    def bounds(self) -> list[int | None]:
        return [self.most(body) for _, _, body in self.requests]

    @property
    def models(self) -> list[str]:
        return [body["model"] for _, _, body in self.requests]

    @property
    def keys(self) -> set[str | None]:
        return {key for _, key, _ in self.requests}


def _answer(prompt: str) -> str:
    """Answer in chat form if the prompt asks for it, else as a JSON object."""
    asked = prompt.rsplit("Respond with", 1)[-1]
    names = [name for name in re.findall(r"\[\[ ## (\w+) ## \]\]", asked) if name != "completed"]
    if not names:
        return json.dumps({name: VALUES.get(name, f"{name}!") for name in re.findall(r"`(\w+)`", asked)})
    return "\n\n".join(f"[[ ## {name} ## ]]\n{VALUES.get(name, name + '!')}" for name in names) + "\n\n[[ ## completed ## ]]\n"


def _completion(body: dict[str, Any]) -> bytes:
    message = {"role": "assistant", "content": _answer(body["messages"][-1]["content"])}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    reply = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": usage}
    return json.dumps(reply).encode()


def _events(completion: bytes) -> bytes:
    """The same completion as an event stream of one piece."""
    reply = json.loads(completion)
    choice = reply["choices"][0]
    reply |= {"object": "chat.completion.chunk", "choices": [{**choice, "delta": choice.pop("message")}]}
    return f"data: {json.dumps(reply)}\n\ndata: [DONE]\n\n".encode()


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """Serve on a free port of the loopback address until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            scripted.requests.append((self.path, self.headers.get("Authorization"), body))
            scripted.checks.append(self.headers.get("stillhouse-prompt-check"))
            content = _events(_completion(body)) if body.get("stream") else _completion(body)
            status, headers = 200, dict[str, str]()
            if scripted.refuses and body["model"].startswith(scripted.refused):
                status, refusal, headers = scripted.refuses
                content = json.dumps(refusal).encode()
            if scripted.room is not None and (scripted.most(body) or 0) > scripted.room:
                error = {"message": "The prompt leaves no room for it.", "type": "invalid_request_error", "code": scripted.too_long}
                status, content = 400, json.dumps({"error": error}).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/event-stream" if body.get("stream") else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scripted = Scripted(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
