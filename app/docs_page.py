"""The /docs page: every operation of openapi.json, with a command to copy and, for who is signed in, a button that sends it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

from app.pages import Page

_SHORT = 100
"""A body of more characters is shown in lines."""
# Without a session, as for who fetched the page with a key, it is a page to read.
_SCRIPT = """
let session = null
async function begin() {
  const reply = await fetch('/v1/session')
  if (!reply.ok) return
  session = await reply.json()
  document.querySelector('#who').hidden = false
  document.querySelector('#who span').textContent = session.project + ', ' + session.scopes.join(' ')
  for (const one of document.querySelectorAll('[data-verb]')) one.hidden = false
}
async function ask(verb, path, type, body) {
  const headers = {'x-csrf-token': session.csrf_token, ...(type ? {'content-type': type} : {})}
  const reply = await fetch(path, {method: verb, headers, body: type ? body : undefined}).catch(() => null)
  if (reply === null) return 'The server does not answer.'
  if (reply.status === 401) location.assign('/sign-in')
  return reply.status + ' ' + reply.statusText + '\\n' + told(reply, await reply.text())
}
function told(reply, text) {
  const json = (reply.headers.get('content-type') || '').split(';')[0] === 'application/json'  // not JSON Lines
  return (json ? JSON.stringify(JSON.parse(text), null, 1) : text).slice(0, 100000)
}
document.addEventListener('click', async event => {
  const here = event.target.closest('[data-verb]')
  if (event.target.id === 'leave') {
    await ask('DELETE', '/v1/session')
    location.assign('/sign-in')
  } else if (here && event.target.tagName === 'BUTTON') {
    const path = here.querySelector('input').value, body = here.querySelector('textarea')
    here.querySelector('output').textContent = '…'
    here.querySelector('output').textContent = await ask(here.dataset.verb, path, here.dataset.type, body && body.value)
  }
})
begin()
"""


def docs_page(openapi: Mapping[str, Any]) -> Page:
    """Every text of the document is escaped."""
    info = openapi["info"]
    tags = _by_tag(openapi)
    sections = "".join(_section(tag, operations) for tag, operations in tags.items())
    contents = " · ".join(f'<a href="#{_anchor(tag)}">{escape(tag)}</a>' for tag in tags)
    who = '<p id="who" hidden>Signed in: <span></span> <button id="leave">Sign out</button></p>'
    machine = '<p>Machine readable: <a href="/openapi.json">openapi.json</a></p>'
    body = f"{who}{_paragraphs(info.get('description', ''))}{_COMMANDS}{machine}<nav>{contents}</nav>{sections}"
    return Page(f"{info['title']} {info['version']}", body, _SCRIPT)


_COMMANDS = "<p>In the commands <code>$S</code> is the server's address and <code>$A</code> is <code>Authorization: Bearer sh_…</code>.</p>"


def _anchor(tag: str) -> str:
    return escape(tag.replace(" ", "-"))


def _by_tag(openapi: Mapping[str, Any]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for path, verbs in openapi["paths"].items():
        for verb, operation in verbs.items():
            grouped.setdefault(operation.get("tags", ["other"])[0], []).append(_operation(path, verb, operation, openapi))
    return grouped


def _section(tag: str, operations: list[str]) -> str:
    return f'<h2 id="{_anchor(tag)}">{escape(tag)}</h2>{"".join(operations)}'


def _operation(path: str, verb: str, operation: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    summary = f'<span class="verb">{verb.upper()}</span> <code>{escape(path)}</code> {_prose(operation.get("summary", ""))}'
    rows = "".join(_parameter(parameter) for parameter in operation.get("parameters", ()))
    table = f"<table>{rows}</table>" if rows else ""
    body = _body(openapi, operation["requestBody"]) if "requestBody" in operation else ""
    replies = "".join(f"<tr><td>{code}</td><td>{_reply(reply)}</td></tr>" for code, reply in sorted(operation["responses"].items()))
    text = _paragraphs(operation.get("description", ""))
    commands = "".join(f"<pre>{escape(command)}</pre>" for command in curl(openapi, path, verb))
    tried = "".join(_tried(openapi, path, verb))
    return f"<details><summary>{summary}</summary>{text}{commands}{tried}{table}{body}<table>{replies}</table></details>"


def _body(openapi: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """Its content types, and the fields of those that are objects."""
    schemas = [one for content in body["content"].values() for one in _alternatives(openapi, content.get("schema", {}))]
    tables = "".join(f"<table>{rows}</table>" for rows in dict.fromkeys(_fields(schema) for schema in schemas) if rows)
    return f"<p>Body: {_schemas(body)}</p>{tables}"


def _fields(schema: Mapping[str, Any]) -> str:
    needed = schema.get("required", ())
    return "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{'required' if name in needed else ''}</td><td>{_prose(_told(field))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )


def _told(field: Mapping[str, Any]) -> str:
    """What is said of a field, and the values that it takes where they are few."""
    choices = [str(value) for one in field.get("anyOf", [field]) for value in one.get("enum", ())]
    return ": ".join(part for part in (field.get("description", ""), ", ".join(f"`{choice}`" for choice in choices)) if part)


def _tried(openapi: Mapping[str, Any], path: str, verb: str) -> Iterator[str]:
    """What sends the operation's examples from the page; files are sent by a command alone."""
    operation = openapi["paths"][path][verb]
    address = f'<input aria-label="Path" value="{escape(example_path(path, operation))}">'
    for kind, body in list(example_bodies(openapi, operation)) or [("", None)]:
        if kind != "multipart/form-data":
            text = f'<textarea aria-label="Body" rows="4">{escape(_text(body))}</textarea>' if kind else ""
            data = f'data-verb="{verb.upper()}" data-type="{escape(kind)}"'
            yield f"<div {data} hidden>{address}{text}<button>Send</button><output></output></div>"


def curl(openapi: Mapping[str, Any], path: str, verb: str) -> Iterator[str]:
    """The operation's examples as commands, one for each kind of body that has one; `$S` is the server's address, `$A` the key's header."""
    operation = openapi["paths"][path][verb]
    asked = "curl" if verb == "get" else f"curl -X {verb.upper()}"
    line = f'{asked} "$S{example_path(path, operation)}" -H "$A"'
    bodies = list(example_bodies(openapi, operation))
    for kind, body in bodies:
        yield f"{line} {_sent(kind, body)}"
    if not bodies:
        yield line


def example_path(path: str, operation: Mapping[str, Any]) -> str:
    """The path with the examples of the parameters that it needs. Raises KeyError for one without an example."""
    needed = [one for one in operation.get("parameters", ()) if one.get("required")]
    in_path, in_query = ({one["name"]: one["schema"]["examples"][0] for one in needed if one["in"] == place} for place in ("path", "query"))
    filled = re.sub(r"{(\w+)}", lambda found: str(in_path[found[1]]), path)
    return f"{filled}?{urlencode(in_query, safe='/')}" if in_query else filled


def example_bodies(openapi: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each content type of the operation's body that has an example, and the example."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        if "example" in content:
            yield kind, content["example"]
        else:
            for schema in _alternatives(openapi, content["schema"]):
                yield from ((kind, body) for body in schema.get("examples", ()))


def _alternatives(openapi: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for one in schema.get("anyOf", [schema]):
        yield openapi["components"]["schemas"][one["$ref"].rsplit("/", 1)[-1]] if "$ref" in one else one


def _sent(kind: str, body: Any) -> str:
    if kind == "multipart/form-data":
        return " ".join(f"-F {shlex.quote(f'{name}={value}')}" for name, value in body.items())
    return f"-H {shlex.quote(f'Content-Type: {kind}')} --data-binary {shlex.quote(_text(body))}"


def _text(body: Any) -> str:
    if isinstance(body, str):
        return body
    short = json.dumps(body, ensure_ascii=False)
    return short if len(short) <= _SHORT else json.dumps(body, ensure_ascii=False, indent=1)


def _parameter(parameter: Mapping[str, Any]) -> str:
    text = _prose(parameter.get("description", ""))
    return f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td><td>{text}</td></tr>"


def _reply(reply: Mapping[str, Any]) -> str:
    return f"{_prose(reply.get('description', ''))} {_schemas(reply)}"


def _schemas(holder: Mapping[str, Any]) -> str:
    return ", ".join(
        f"<code>{escape(kind)}</code> {escape(name)}"
        for kind, content in holder.get("content", {}).items()
        for name in _names(content.get("schema", {}))
    )


def _names(schema: Mapping[str, Any]) -> Iterator[str]:
    yield schema.get("$ref", "").rsplit("/", 1)[-1] or schema.get("title", schema.get("type", ""))


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_prose(part)}</p>" for part in text.split("\n\n") if part)


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
