"""Personal data that can be told by their form: what is found, what is not, and that a trace still is one."""

import json
import time
from typing import Any

import pytest

from distill.scrubbing import NO_COUNTRY, same_but_for_numbers, scrubbed, scrubbed_trace

IBAN = "DE89 3704 0044 0532 0130 00"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+shop@example.co.uk.", "Write to [EMAIL_1]."),
        ("mailto:a@b.de, Jane <c@d.org>; 'e@f.net'", "mailto:[EMAIL_1], Jane <[EMAIL_2]>; '[EMAIL_3]'"),
        ("üser@exämple.com", "[EMAIL_1]"),
        ("JANE@x.com is jane@X.com and not joe@x.com", "[EMAIL_1] is [EMAIL_1] and not [EMAIL_2]"),
        ("Call +49 30 901820 or +44 (0)20 7946 0958!", "Call [PHONE_1] or [PHONE_2]!"),
        ("+4930901820 and +49 30 901820", "[PHONE_1] and [PHONE_1]"),
        ("Card 4111-1111-1111-1111, 5500 0000 0000 0004 12/27", "Card [CARD_1], [CARD_2] 12/27"),
        ("378282246310005", "[CARD_1]"),
        (f"Pay to {IBAN} and then DE89370400440532013000", "Pay to [IBAN_1] and then [IBAN_1]"),
        ("GB29NWBK60161331926819", "[IBAN_1]"),
        ("jane@x.com +49 30 901820 4111111111111111", "[EMAIL_1] [PHONE_1] [CARD_1]"),
    ],
)
def test_is_found(text: str, expected: str) -> None:
    assert scrubbed(text, NO_COUNTRY) == expected


@pytest.mark.parametrize(
    "text",
    [
        "order 1234567890123456 of 2026-11-27 12:30:55, zip 12345-6789, version 1.2.3.4",
        "since 1732700000000 ms, 3.14159265358979, 42",
        "card 4111 1111 1111 1112, IBAN GB29NWBK60161331926818",
        "user@localhost, @handle, a @ b.com, x@y",
        "[EMAIL_1] and [PHONE_2]",
        "030 901820",
        "",
    ],
)
def test_is_left_alone(text: str) -> None:
    assert scrubbed(text, NO_COUNTRY) == text


def test_a_country_says_how_its_phone_numbers_are_written() -> None:
    assert scrubbed("Ruf 030 901820 an, nicht +1 212-555-0187", "DE") == "Ruf [PHONE_1] an, nicht [PHONE_2]"
    assert scrubbed("Call (212) 555-0187, not 030 901820", "US") == "Call [PHONE_1], not 030 901820"


def test_a_number_is_found_right_after_what_else_is() -> None:
    assert scrubbed("jane@x.com 030 901820", "DE") == "[EMAIL_1] [PHONE_1]"
    assert scrubbed(f"{IBAN} 030 901820 joe@x.com (030) 901821", "DE") == "[IBAN_1] [PHONE_1] [EMAIL_1] [PHONE_2]"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["ann@x.com", "joann@x.com"], ["[EMAIL_1]", "[EMAIL_2]"]),
        (["ann@x.com", "ann@x.com.au", "ann@x.community"], ["[EMAIL_1]", "[EMAIL_2]", "[EMAIL_3]"]),
        (["+49 30 901820", "+49 30 9018201"], ["[PHONE_1]", "[PHONE_2]"]),
        (["4111111111111111", "order 9411111111111111107"], ["[CARD_1]", "order 9411111111111111107"]),
    ],
)
def test_one_that_holds_another_is_another(texts: list[str], expected: list[str]) -> None:
    assert scrubbed(texts, NO_COUNTRY) == expected


def test_a_placeholder_that_is_there_already_stands_for_nobody_else() -> None:
    assert scrubbed(["jane@x.com and joe@x.com", "[EMAIL_1] wrote"], NO_COUNTRY) == ["[EMAIL_2] and [EMAIL_3]", "[EMAIL_1] wrote"]


def test_of_any_json_only_texts_change() -> None:
    value = {"jane@x.com": [1, 4111111111111111, None, True, {"to": "joe@x.com"}], "plain": 1.5}
    assert scrubbed(value, NO_COUNTRY) == {"[EMAIL_1]": [1, 4111111111111111, None, True, {"to": "[EMAIL_2]"}], "plain": 1.5}
    assert value["jane@x.com"] != [], "what is given stays"


def trace(message: str, answer: str, raw: str) -> dict[str, Any]:
    call = {"predictor": "reply", "inputs": {"message": message}, "outputs": {"answer": answer}, "raw": raw, "overrides": []}
    more = {"model": "teacher/jane@x.com", "usage": {"calls": 1}, "seconds": 0.1, "reasoning": f"hm, {answer}"}
    error = {"type": "E", "message": f"bad: {answer}", "traceback": ""}
    return {"status": "ok", "inputs": {"message": message}, "outputs": {"answer": answer}, "calls": [{**call, **more}], "error": error}


class TestTrace:
    def test_what_the_program_answered_still_is_what_its_lm_said(self) -> None:
        """Also where the LM's text is JSON, in which a line's end before an address looks like a letter of it."""
        answer = f"To:\njane@x.com\n+49 30 901820\tand {IBAN}, üser@x.com"
        raw = json.dumps({"answer": answer})
        found = scrubbed_trace(trace(f"I am Jane, jane@x.com, {IBAN.replace(' ', '')}", answer, raw), NO_COUNTRY)
        assert found["inputs"] == {"message": "I am Jane, [EMAIL_1], [IBAN_1]"}
        assert found["outputs"] == {"answer": "To:\n[EMAIL_1]\n[PHONE_1]\tand [IBAN_1], [EMAIL_2]"}
        (call,) = found["calls"]
        assert call["outputs"] == found["outputs"] == json.loads(call["raw"])
        assert call["reasoning"] == f"hm, {found['outputs']['answer']}"
        assert found["error"]["message"] == f"bad: {found['outputs']['answer']}"

    def test_what_the_server_wrote_and_the_trace_that_is_given_stay(self) -> None:
        given = trace("jane@x.com", "ok", "ok")
        before = json.dumps(given)
        found = scrubbed_trace(given, NO_COUNTRY)
        assert json.dumps(given) == before
        assert found["calls"][0]["model"] == "teacher/jane@x.com"
        assert {**found, "inputs": given["inputs"], "calls": given["calls"]} == given

    def test_twice_is_once(self) -> None:
        once = scrubbed_trace(trace("jane@x.com", "joe@x.com", "joe@x.com"), NO_COUNTRY)
        assert scrubbed_trace(once, NO_COUNTRY) == once


def test_answers_are_compared_wherever_their_numbers_began() -> None:
    assert same_but_for_numbers({"a": ["[EMAIL_2] [PHONE_1]"]}, {"a": ["[EMAIL_1] [PHONE_1]"]})
    assert not same_but_for_numbers({"a": "[EMAIL_1]"}, {"a": "[PHONE_1]"})


@pytest.mark.parametrize("piece", ["2", "a", "+1", "@", "DE12", "4 ", "a@", "+49 ", "a.", "DE89 "])
@pytest.mark.parametrize("country", [NO_COUNTRY, "US"])
def test_no_text_takes_long(piece: str, country: str) -> None:
    text = (piece * 20_000)[:20_000]
    started = time.thread_time()
    scrubbed(text, country)
    assert time.thread_time() - started < 2


def test_no_number_of_values_takes_long() -> None:
    texts = [f"jane{at}@x.com" for at in range(3000)]
    many = [" ".join(f"{at:x}a@x{at % 7}.com" for at in range(20_000)), "1a2b3c4d5e6f7890" * 20_000]
    started = time.thread_time()
    assert scrubbed(texts, NO_COUNTRY)[-1] == "[EMAIL_3000]"
    assert scrubbed(many, NO_COUNTRY) == [" ".join(f"[EMAIL_{at}]" for at in range(1, 20_001)), many[1]]
    assert time.thread_time() - started < 2
