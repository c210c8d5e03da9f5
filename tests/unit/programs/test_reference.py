"""Code that an artifact names, in a user's own process: nothing is on a list there, so only what makes programs is called."""

import logging
from collections.abc import Iterator

import dspy
import pytest

from stillhouse_programs import reference
from stillhouse_programs.build import build_program
from stillhouse_programs.describe import describe
from stillhouse_programs.spec import SpecError, canonical_json, check_allowed, check_metric, check_row, columns, parse_spec, read_prefixes
from stillhouse_programs.spec_reference import ReferenceFault
from tests.support.installed import PACKAGE, PACKAGES

FACTORY = f"{PACKAGE}.programs:make_desk"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(PACKAGES))
    yield
    reference.forget(FACTORY)


class TestOwnProcess:
    def test_annotated_function_and_class_make_programs(self) -> None:
        for name in ("make_desk", "Desk", "make_agent"):
            made = reference.make_program(f"{PACKAGE}.programs:{name}", {}, None)
            assert isinstance(made, dspy.Module)

    @pytest.mark.parametrize("target", ["subprocess:run", "os:system", f"{PACKAGE}.programs:make_nothing", f"{PACKAGE}.teams:Team"])
    def test_nothing_else_is_called(self, target: str) -> None:
        with pytest.raises(ReferenceFault) as refusal:
            reference.make_program(target, {"args": ["true"]}, None)
        assert refusal.value.code == "reference_not_allowed"

    def test_other_source_is_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        spec = describe(FACTORY, {}, {}, None, [PACKAGE])
        assert spec.reference is not None
        changed = spec.reference.model_copy(update={"source": {f"{PACKAGE}.teams": "0" * 64}})
        with caplog.at_level(logging.WARNING):
            program = build_program(spec.model_copy(update={"reference": changed}))
        assert [name for name, _ in program.named_predictors()] == ["classify", "writers['first']", "writers['again']"]
        assert f"the source of {PACKAGE}.teams is not the one that was described" in caplog.text

    def test_modules_that_were_sent_in_a_bundle_are_taken_as_they_are_here(self, caplog: pytest.LogCaptureFixture) -> None:
        spec = describe(FACTORY, {}, {}, None, [PACKAGE])
        assert spec.reference is not None
        sent = spec.reference.model_copy(update={"bundle": "v1:" + "0" * 64, "source": {f"{PACKAGE}.teams": "0" * 64}})
        with caplog.at_level(logging.WARNING):
            program = build_program(spec.model_copy(update={"reference": sent}))
        assert [name for name, _ in program.named_predictors()] == ["classify", "writers['first']", "writers['again']"]
        assert f"the source of {PACKAGE}.teams is not the one that was described" in caplog.text

    def test_what_was_sent_by_value_is_not_made_here(self) -> None:
        with pytest.raises(ReferenceFault, match="was sent by value, and is made nowhere but on the server") as refusal:
            reference.make_program("stillhouse_bundle:program", {}, None, "v1:" + "0" * 64)
        assert refusal.value.code == "reference_not_found"


class TestSpec:
    def test_survives_a_round_trip_and_holds_its_source(self) -> None:
        spec = describe(FACTORY, {"rounds": 3}, {}, None, [PACKAGE])
        text = canonical_json(spec)
        assert canonical_json(parse_spec(spec.model_dump(mode="json", by_alias=True, exclude_unset=True))) == text
        assert f'"{PACKAGE}.teams"' in text

    def test_rows_have_the_parameters_and_any_label(self) -> None:
        spec = describe(FACTORY, {}, {}, None, [PACKAGE])
        assert check_row(spec, {"message": "Help", "team": 7}) == [], "what code returns is not known"
        assert [fault.field for fault in check_row(spec, {"urgent": "very"})] == ["message", "urgent"]
        assert columns(spec)["team"].schema["enum"] == ["billing", "technical", "account"]
        check_metric({"type": "exact_match", "fields": ["whatever"]}, spec)

    def test_has_no_wiring_beside_its_code(self) -> None:
        body = describe(FACTORY, {}, {}, None, [PACKAGE]).model_dump(mode="json", by_alias=True, exclude_unset=True)
        with pytest.raises(SpecError) as refusal:
            parse_spec({**body, "outputs": {"team": {"value": "billing"}}})
        assert refusal.value.param == "outputs"


class TestAllowed:
    def test_a_name_allows_what_is_inside_it(self) -> None:
        for target in ("acme:make", "acme.tools.a:make"):
            check_allowed(target, ["acme"])
        for target in ("acmetools:make", "os:system", "acm:make"):
            with pytest.raises(ReferenceFault):
                check_allowed(target, ["acme"])

    def test_the_list_is_read_with_care(self) -> None:
        assert read_prefixes(" acme , acme.tools,") == ["acme", "acme.tools"]
        for text in ("acme:make", "acme.", "*", "a b"):
            with pytest.raises(ValueError, match="not the name of a package"):
                read_prefixes(text)


def test_no_folder_is_left_in_a_message() -> None:
    for text, shown in (
        ("no such file: '/srv/a b/x.bin'", "no such file: 'x.bin'"),
        ("cannot import name 'x' from 'y' (/opt/lib/python3/y.py)", "cannot import name 'x' from 'y' (y.py)"),
        ("the licence in /srv/secret/licence.key, of D:\\keys\\a.txt", "the licence in licence.key, of a.txt"),
        ("1/2 is a half", "1/2 is a half"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ):
        assert reference.described(ValueError(text)) == f"ValueError: {shown}"
