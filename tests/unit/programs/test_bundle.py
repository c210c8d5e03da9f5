"""What a bundle may say, before anybody opens it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from stillhouse_programs.spec import ReferenceFault, SpecError, parse_bundle

FILES = {"desk/__init__.py": "", "desk/scores.py": "x = 1", "desk/a.txt": "é"}
DOCUMENT: dict[str, Any] = {"bundle_version": 1, "python": "3.11", "files": FILES}
DATA = base64.b64encode(b"no pickle").decode()


def refused(**changes: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_bundle({**DOCUMENT, **changes})
    return caught.value


def test_its_modules_and_what_they_are_imported_by() -> None:
    bundle = parse_bundle({**DOCUMENT, "files": {**DOCUMENT["files"], "alone.py": "", "spaces/far/in_it.py": ""}})
    assert bundle.modules == ["alone", "desk", "desk.scores", "spaces.far.in_it"]
    assert bundle.tops == ["alone", "desk", "spaces"]


def test_the_digest_is_of_what_is_said_and_not_of_its_order() -> None:
    turned = {**dict(reversed(DOCUMENT.items())), "files": dict(reversed(DOCUMENT["files"].items())), "packages": {}}
    assert parse_bundle(turned).digest == parse_bundle(DOCUMENT).digest
    assert parse_bundle({**DOCUMENT, "packages": {"numpy": "2.3.1"}}).digest != parse_bundle(DOCUMENT).digest


@pytest.mark.parametrize(
    "path",
    [
        "../a.py", "/a.py", "a//b.py", "a/./b.py", "a/../b.py", "", ".", "a\\b.py", ".a/b.py", "a/b.py\n", "a\0.py", "a/", "ä/b.txt",
        "a" * 129 + ".txt", "a/b/c/d/e/f/g/h/i.py", "1a.py", "a-b.py", "a.b.py", "a-b/c.py",
    ],
)  # fmt: skip
def test_a_path_that_is_none_is_refused(path: str) -> None:
    assert refused(files={path: ""}).param == "files"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "", "a.txt/b": ""}, "a file and a folder at once"),
        ({"a.py": "", "a/__init__.py": ""}, "is the module a, which another file is too"),
        ({}, "has files or pickles"),
        ({f"a/f{n}.txt": "" for n in range(501)}, "501 are more than 500"),
        ({"a.txt": "x" * 4 * 1024 * 1024}, "rows go into a dataset"),
    ],
)
def test_files_that_do_not_go_together_are_refused(files: dict[str, str], message: str) -> None:
    assert message in refused(files=files).message


@pytest.mark.parametrize("name", ["json.py", "os/path.py", "stillhouse_bundle.py", "stillhouse_programs/ops.py", "__init__.py"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    fault = refused(files={name: ""})
    assert isinstance(fault, ReferenceFault)
    assert fault.code == "bundle_shadows"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"bundle_version": 2}, "bundle_version"),
        ({"python": "3"}, "python"),
        ({"python": "3.11.7"}, "python"),
        ({"files": {"a.py": 1}}, "files.a.py"),
        ({"packages": {"a b": "1"}}, "packages.a b"),
        ({"packages": {"numpy": ""}}, "packages.numpy"),
        ({"pickles": {"program": {"makes": "tea", "data": DATA}}}, "pickles.program.makes"),
        ({"pickles": {"program": {"makes": "program", "data": "!"}}}, "pickles.program.data"),
        ({"pickles": {"a.b": {"makes": "program", "data": DATA}}}, "pickles.a.b"),
        ({"identity": "me"}, "identity"),
        ({"modules": []}, "modules"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(changes: dict[str, Any], param: str) -> None:
    assert refused(**changes).param.removesuffix(".[key]") == param
