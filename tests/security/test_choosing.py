"""Which rung is chosen, and what is said where none holds."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from distill.sandbox import RUNGS, Choice, Outcome, choose, rungs, try_rung
from distill.sandbox.rungs import Place
from distill.sandbox.seccomp import UnknownProcessor, program
from tests.security.test_escapes import WAYS


class Open:
    """A rung that locks nothing."""

    name = "open"
    is_in_memory = False

    def command(self, argv: Sequence[str], place: Place) -> list[str]:
        return list(argv)


class TestSelfTest:
    def test_the_best_rung_holds_here(self) -> None:
        """Where bubblewrap is not installed, and this is not root, the second one does."""
        chosen = choose()
        assert chosen.rung is not None
        assert chosen.outcomes[-1].holds
        assert chosen.rung.name == ("bubblewrap" if shutil.which("bwrap") else "landlock"), chosen.why

    def test_a_rung_that_locks_nothing_is_named_with_every_way_that_led_out(self) -> None:
        found = try_rung(Open(), sys.executable)
        assert sorted(found.got_out) == sorted(WAYS)
        assert not found.holds
        assert str(found).startswith("open does not hold: tcp, udp, dns")

    def test_what_is_private_is_not_read_even_beside_an_interpreter(self, tmp_path: Path) -> None:
        """A home below a folder that the interpreter needs would be seen with it."""
        tmp_path.chmod(0o755)
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "credentials.json").write_text("{}")
        (tmp_path / "python").symlink_to(sys.executable)
        (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix, 'bin')}\n")
        (tmp_path / "bin").mkdir()
        (tmp_path / "python").rename(tmp_path / "bin" / "python")
        found = try_rung(choose().rung, str(tmp_path / "bin" / "python"), [tmp_path / "lib"])
        assert found.got_out == ("private_files",)

    def test_a_server_that_keeps_its_temporary_files_in_its_home_has_a_sandbox(self) -> None:
        """The way to a process's own folder is seen inside, and nothing beside it."""
        assert try_rung(choose().rung, sys.executable, [Path(tempfile.gettempdir())]).got_out == ()

    @pytest.mark.parametrize("home", ["/", "/usr/sbin"])
    def test_a_home_where_nobody_lives_is_not_private(self, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
        """Services have such ones; everybody may see what is in there."""
        monkeypatch.setenv("HOME", home)
        assert try_rung(choose().rung, sys.executable).got_out == ()

    def test_a_user_without_a_home_has_a_sandbox(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a container, for one."""

        def unknown(uid: int) -> None:
            raise KeyError(uid)

        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", unknown)
        assert try_rung(choose().rung, sys.executable).holds

    def test_a_rung_that_is_not_installed_says_so(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(rungs, "PROGRAMS", str(tmp_path))
        found = try_rung(RUNGS[0], sys.executable)
        assert (found.holds, str(found)) == (False, "bubblewrap does not start: bwrap is not installed")


class TestChoice:
    def test_none_is_tried_where_none_is_wanted(self) -> None:
        assert choose("none") == Choice(None)
        assert choose("none").why == '[sandbox] rung is "none"'

    def test_a_user_of_a_server_without_any_is_told_to_have_it_switched_on(self) -> None:
        said = choose("none").refusal
        assert '([sandbox] rung is "none"); its operator may set [sandbox] rung to "auto"' in said
        assert "install" not in said

    def test_elsewhere_than_on_linux_other_things_help(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        assert choose.__wrapped__() == Choice(None)
        assert "run workers and API on Linux" in Choice(None).refusal

    def test_a_user_is_told_why_and_what_helps_but_no_folder(self) -> None:
        outcomes = (Outcome("bubblewrap", reason="Permission denied /srv/secret"), Outcome("landlock", got_out=("udp",)))
        said = Choice(None, outcomes).refusal
        assert "(bubblewrap does not start, landlock is left by udp)" in said
        assert "install bubblewrap" in said
        assert "/srv" not in said
        assert "/srv/secret" in Choice(None, outcomes).why


class TestFilter:
    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    def test_fits_what_the_kernel_takes(self, machine: str) -> None:
        made = program(machine)
        assert len(made) % 8 == 0
        assert 100 < len(made) // 8 < 4096

    def test_another_processor_is_refused(self) -> None:
        with pytest.raises(UnknownProcessor, match="riscv64"):
            program("riscv64")
