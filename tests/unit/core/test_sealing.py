"""Sealed secrets."""

from __future__ import annotations

import base64
import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distill.errors import CannotOpen
from distill.sealing import FILE, drop_old_keys, has_several_keys, put_new_key_first, seal, sealed_anew, unseal
from distill.settings import get_settings
from tests.support.databases import forget_settings

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path))
    forget_settings()
    return tmp_path


class TestSealing:
    def test_opens_for_its_own_purpose_only(self) -> None:
        sealed = seal(b"whisper", "one")
        assert b"whisper" not in sealed
        assert unseal(sealed, "one") == b"whisper"
        with pytest.raises(CannotOpen):
            unseal(sealed, "other")
        with pytest.raises(CannotOpen):
            unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]), "one")

    def test_the_same_secret_is_sealed_differently_each_time(self) -> None:
        assert seal(b"whisper", "one") != seal(b"whisper", "one")

    def test_processes_that_make_the_key_at_once_make_one(self, home: Path) -> None:
        get_settings()
        with ThreadPoolExecutor(8) as pool:
            sealed = list(pool.map(lambda _: seal(b"whisper", "one"), range(16)))
        assert {unseal(each, "one") for each in sealed} == {b"whisper"}
        assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600
        assert [path.name for path in home.iterdir()] == [FILE]

    def test_the_environment_comes_before_the_file(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sealed = seal(b"whisper", "one")
        monkeypatch.setenv("STILLHOUSE_SEALING_KEY", KEY)
        forget_settings()
        with pytest.raises(CannotOpen, match="sealed under another key"):
            unseal(sealed, "one")

    @pytest.mark.parametrize("key", ["", "no base64!", base64.b64encode(bytes(16)).decode()])
    def test_a_key_that_is_none_is_told_without_its_text(self, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
        monkeypatch.setenv("STILLHOUSE_SEALING_KEY", key)
        forget_settings()
        with pytest.raises(CannotOpen) as refused:
            seal(b"whisper", "one")
        assert refused.value.message == "STILLHOUSE_SEALING_KEY does not hold 32 bytes in base64"

    def test_a_file_that_cannot_be_read_is_told_without_its_path(self, home: Path) -> None:
        (home / FILE).mkdir()
        with pytest.raises(CannotOpen) as refused:
            seal(b"whisper", "one")
        assert refused.value.message == "sealing.key in the home cannot be read: Is a directory"


class TestSeveralKeys:
    def test_the_first_seals_and_all_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]

        def given(text: str) -> None:
            monkeypatch.setenv("STILLHOUSE_SEALING_KEY", text)
            forget_settings()

        given(keys[0])
        old = seal(b"whisper", "one")
        given(f"{keys[1]},{keys[0]}")
        assert has_several_keys()
        assert unseal(old, "one") == b"whisper"
        new = sealed_anew(old, "one")
        assert new is not None
        assert sealed_anew(new, "one") is None
        with pytest.raises(CannotOpen):
            sealed_anew(old, "other")
        given(keys[1])
        assert unseal(new, "one") == b"whisper"
        with pytest.raises(CannotOpen):
            unseal(old, "one")

    def test_the_keys_of_the_file(self, home: Path) -> None:
        old = seal(b"whisper", "one")
        put_new_key_first()
        new = sealed_anew(old, "one")
        assert unseal(old, "one") == b"whisper"
        drop_old_keys()
        assert new is not None
        assert unseal(new, "one") == b"whisper"
        with pytest.raises(CannotOpen):
            unseal(old, "one")
        assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600
        assert [path.name for path in home.iterdir()] == [FILE]

    def test_the_file_stays_with_whom_it_belongs_to(self, home: Path) -> None:
        """Whoever exchanges the keys: the server reads them as another user."""
        seal(b"whisper", "one")
        (home / FILE).chmod(0o640)
        os.chown(home / FILE, *((12345, 12345) if os.geteuid() == 0 else (-1, os.getgroups()[-1])))
        before = whose(home / FILE)
        put_new_key_first()
        assert whose(home / FILE) == before
        drop_old_keys()
        assert whose(home / FILE) == before

    def test_who_may_not_leave_it_to_its_owner_changes_nothing(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        seal(b"whisper", "one")
        keys = (home / FILE).read_bytes()
        monkeypatch.setattr("os.fchown", refused)
        with pytest.raises(CannotOpen, match=r"sealing.key in the home cannot be written: Operation not permitted"):
            put_new_key_first()
        assert (home / FILE).read_bytes() == keys
        assert [path.name for path in home.iterdir()] == [FILE]


def whose(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
