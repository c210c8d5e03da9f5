"""The /docs page: every operation of openapi.json, with a command to copy, without scripts and without anything from another host."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1d1d1f;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #ddd}details{border:1px solid #ddd;border-radius:6px;margin:.4rem 0;padding:.3rem .8rem}
summary{cursor:pointer}code,pre{font:13px ui-monospace,monospace}.verb{display:inline-block;width:4.5rem;font-weight:600}
pre{overflow-x:auto;padding:.5rem;background:#8881}
table{border-collapse:collapse;margin:.5rem 0}td,th{text-align:left;padding:.1rem .8rem .1rem 0;vertical-align:top}
@media(prefers-color-scheme:dark){body{color:#eee;background:#17181a}details,h2{border-color:#444}a{color:#8ab4f8}}
"""
_SHORT = 100
"""A body of more characters is shown in lines."""
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def docs_page(openapi: Mapping[str, Any]) -> str:
    """One HTML page; every text of the document is escaped."""
    info = openapi["info"]
    sections = "".join(_section(tag, operations) for tag, operations in _by_tag(openapi).items())
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{_paragraphs(info.get('description', ''))}"
        f'<p>Machine readable: <a href="/openapi.json">openapi.json</a></p>{sections}</html>'
    )


def _by_tag(openapi: Mapping[str, Any]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for path, verbs in openapi["paths"].items():
        for verb, operation in verbs.items():
            grouped.setdefault(operation.get("tags", ["other"])[0], []).append(_operation(path, verb, operation, openapi))
    return grouped


def _section(tag: str, operations: list[str]) -> str:
    return f"<h2>{escape(tag)}</h2>{''.join(operations)}"


def _operation(path: str, verb: str, operation: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    summary = f'<span class="verb">{verb.upper()}</span> <code>{escape(path)}</code> {escape(operation.get("summary", ""))}'
    rows = "".join(_parameter(parameter) for parameter in operation.get("parameters", ()))
    table = f"<table>{rows}</table>" if rows else ""
    body = f"<p>Body: {_schemas(operation['requestBody'])}</p>" if "requestBody" in operation else ""
    replies = "".join(f"<tr><td>{code}</td><td>{_reply(reply)}</td></tr>" for code, reply in operation["responses"].items())
    text = _paragraphs(operation.get("description", ""))
    commands = "".join(f"<pre>{escape(command)}</pre>" for command in curl(openapi, path, verb))
    return f"<details><summary>{summary}</summary>{text}{commands}{table}{body}<table>{replies}</table></details>"


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
    text = body if isinstance(body, str) else _in_lines(body)
    return f"-H {shlex.quote(f'Content-Type: {kind}')} --data-binary {shlex.quote(text)}"


def _in_lines(body: Any) -> str:
    short = json.dumps(body, ensure_ascii=False)
    return short if len(short) <= _SHORT else json.dumps(body, ensure_ascii=False, indent=1)


def _parameter(parameter: Mapping[str, Any]) -> str:
    text = escape(parameter.get("description", ""))
    return f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td><td>{text}</td></tr>"


def _reply(reply: Mapping[str, Any]) -> str:
    return f"{escape(reply.get('description', ''))} {_schemas(reply)}"


def _schemas(holder: Mapping[str, Any]) -> str:
    return ", ".join(
        f"<code>{escape(kind)}</code> {escape(name)}"
        for kind, content in holder.get("content", {}).items()
        for name in _names(content.get("schema", {}))
    )


def _names(schema: Mapping[str, Any]) -> Iterator[str]:
    yield schema.get("$ref", "").rsplit("/", 1)[-1] or schema.get("title", schema.get("type", ""))


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part)
