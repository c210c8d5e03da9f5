"""What the locked-in process makes of a conversation is what transformers' `apply_chat_template` makes of it, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from engines.chat_template import Conversation, texts
from engines.rendering import TemplateRefused
from engines.rendering.program import environment
from tests.support.tiny_model import CHAT_TEMPLATE, TOOL_TEMPLATE, build_tokenizer

Json = dict[str, Any]
USER = {"role": "user", "content": "Où est Zoë? <&> '\" \\n 日本 \U0001f600"}
CALL = {"id": "c0", "type": "function", "function": {"name": "look", "arguments": {"zeta": 1, "a": [None, True, 1.5, 10**20, "é"]}}}
LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {"zeta": {"enum": ["b", "a"]}}}},
}
CONVERSATIONS: list[list[Json]] = [
    [USER],
    [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "  spaces \n\n"}],
    [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL], "name": None},
        {"role": "tool", "content": "{}", "tool_call_id": "c0"},
    ],
    [USER, {"role": "assistant", "content": "so", "reasoning_content": "because", "tool_calls": None}],
    [USER, {"role": "assistant", "content": "so", "reasoning": "because"}],
    [USER, {"role": "assistant", "content": "so", "thinking": "because", "reasoning": "not this"}],
    [{"role": "user", "content": "half of one: \ud83d, \x00\x7f\u2028"}],
    [],
]
# What the templates of models are made of.
TEMPLATES = {
    "chat": CHAT_TEMPLATE,
    "tools": TOOL_TEMPLATE,
    "whitespace": "  {% if true %}\n  a\n  {%- endif %}\n\n{# note #}\n    {% for m in messages %}\n{{ m.role }}\n{% endfor %}\n",
    "loop controls": "{% for m in messages %}{% if m.role == 'tool' %}{% break %}{% endif %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}{{ loop.index }}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{% set seen = 1 %}{{ m.content }}{% endgeneration %}{{ seen }}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages | tojson(ensure_ascii=True, sort_keys=True) }}"
    "{{ tools | tojson(separators=(',', ':')) }}{{ messages[0].content | e }}{{ messages[0] | string }}",
    "namespace": "{% set ns = namespace(n=0, self='x') %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}"
    "{{ ns.n }}{{ ns.self }}",
    "hidden name": "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x }}",
    "hidden names": "{{ namespace(_x=1) }}",
    "dict": "{{ dict(a=1, **{'b': 2}) }}{{ dict.fromkeys(['x', 'y'], 0) }}{{ dict.__class__ }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ additional }}{{ sep_token is defined }}",
    "what it is told": "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ messages | length }}",
    "refusal": "{% if messages | length > 1 %}{{ raise_exception('Only one, ' ~ messages[1].role) }}{% endif %}one",
    "undefined": "{{ messages[0].nothing }}|{{ nothing }}|{{ messages[9] is defined }}",
    "more undefined": "{{ messages[0].nothing.more }}",
    "type error": "{{ messages[0].content + 1 }}",
    "syntax error": "{% for m in messages %}{{ m }",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }}|{{ m | join(',') }};{% endfor %}",
    "macro": "{% macro turn(m, end='.') %}{{ m.role | capitalize }}: {{ m['content'].split('\\n')[-1].strip() }}{{ end }}{% endmacro %}"
    "{% for m in messages[::-1] %}{{ turn(m, end=loop.index0 ~ '\\n') }}{% endfor %}",
    "changes": "{{ messages.append(1) }}",
    "filters": "{{ messages | map(attribute='role') | unique | list }}{{ messages | selectattr('role', 'equalto', 'user') | list }}"
    "{{ messages | groupby('role') }}{{ messages[0] | items | list }}{{ messages[0] | dictsort }}{{ 'a b c' | wordwrap(2) }}"
    "{{ messages | pprint }}{{ '%s' | format(1) }}{{ '{}'.format(1.5) }}{{ 1234567 | filesizeformat }}{{ 'a' | urlencode }}",
    "today": "{{ strftime_now('%d %b %Y') }}",
}
RAISING = {"hidden name", "hidden names", "more undefined", "type error", "syntax error", "changes"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def theirs(tokenizer: Any, conversation: Conversation) -> str | tuple[str, str]:
    """By transformers, in this process: the text, or what was raised."""
    tools = list(conversation.tools) if conversation.tools else None
    try:
        return str(
            tokenizer.apply_chat_template(list(conversation.messages), tools=tools, add_generation_prompt=conversation.asks, tokenize=False)
        )
    except Exception as error:
        return type(error).__name__, str(error)


def ours(tokenizer: Any, conversations: list[Conversation]) -> list[str | tuple[str, str]]:
    return [(made.kind, str(made)) if isinstance(made, TemplateRefused) else made for made in texts(tokenizer, conversations)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_as_transformers_has_it(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = TEMPLATES[name]
    asked = [Conversation(messages, tools, asks) for messages in CONVERSATIONS for tools in (None, [LOOK]) for asks in (False, True)]
    before = [theirs(tokenizer, conversation) for conversation in asked]
    made = ours(tokenizer, asked)
    after = [theirs(tokenizer, conversation) for conversation in asked]  # midnight may be between
    assert all(one in pair for one, pair in zip(made, zip(before, after, strict=True), strict=True))
    assert any(isinstance(one, str) for one in made) == (name not in RAISING)


def test_a_model_may_have_another_template_where_there_are_tools(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": "plain {{ messages[0].content }}", "tool_use": "tools {{ tools | length }}"}
    asked = [Conversation([USER], tools) for tools in (None, [LOOK], [])]
    assert ours(tokenizer, asked) == [theirs(tokenizer, conversation) for conversation in asked]


def test_a_model_without_a_template_is_told_of(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    (told,) = ours(tokenizer, [Conversation([USER])])
    assert told == theirs(tokenizer, Conversation([USER]))
    assert "chat_template is not set" in told[1]


def test_nothing_is_in_one_environment_that_is_not_in_the_other() -> None:
    """Of a release of transformers that gives templates more, this tells."""
    here, there = environment(), _compile_jinja_template("").environment
    for part in ("filters", "globals", "tests"):
        assert set(getattr(here, part)) == set(getattr(there, part)), part
    tags = [{tag for extension in each.extensions.values() for tag in extension.tags} for each in (here, there)]
    assert tags[0] == tags[1]
    assert (here.trim_blocks, here.lstrip_blocks, here.autoescape) == (there.trim_blocks, there.lstrip_blocks, there.autoescape)
