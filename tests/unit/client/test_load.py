"""`stillhouse.load` and `stillhouse.LM` as an app uses them: following an alias, one error for outages, the right key."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest
from dspy.lm15 import unregister_provider
from dspy.utils.exceptions import LMAuthError

import stillhouse
from stillhouse import ModelUnavailable, Stillhouse
from stillhouse._follow import Follower
from tests.unit.client.conftest import reply
from tests.unit.client.test_artifacts import artifact as listed
from tests.unit.programs.samples import Support
from tests.unit.programs.scripted_server import Scripted, scripted_server
from tests.unit.programs.test_artifact import files_of, write

ALIAS = "support@prod"


@pytest.fixture
def lm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """Where the models answer; its address and key are the app's."""
    with scripted_server() as scripted:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", scripted.base_url)
        monkeypatch.setenv("STILLHOUSE_API_KEY", "sh_a_b")
        yield scripted
    unregister_provider("tune")
    unregister_provider("house")


def folder_of(place: Path, suffix: str, **manifest: Any) -> Path:
    """An artifact whose two models end in `suffix`."""
    options = {"temperature": 0.0, "max_tokens": 64}
    models = {"classify.predict": f"tune/sh-classify-{suffix}", "reply": f"tune/sh-reply-{suffix}"}
    folder = place / suffix
    write(folder, files_of(lms={name: {"model": model, **options} for name, model in models.items()}), **manifest)
    return folder


TEACHER = {name: {"model": "openai/big", "options": {"temperature": 0.5}} for name in ("classify.predict", "reply")}
OUTAGE: tuple[int, dict[str, Any], dict[str, str]] = (503, {"error": {"message": "no", "code": "model_loading"}}, {})


class Registry:
    """A server whose alias can be moved; `down` makes it unreachable. `loading` is what it says of models next, one word for each look."""

    def __init__(self, place: Path, address: str) -> None:
        self.artifacts = {f"art-{suffix}": self._files(folder_of(place, suffix, teacher={"lms": TEACHER})) for suffix in ("one", "two")}
        self.points_at = "art-one"
        self.down = False
        self.loading: list[str] = []
        self.looked_at: list[str] = []
        self.slept: list[float] = []
        self.asked = threading.Event()
        transport = httpx.MockTransport(self)
        self.client = Stillhouse(address, "sh_a_b", max_retries=0, transport=transport, sleep=self.slept.append)

    @staticmethod
    def _files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        parts = request.url.path.split("/")
        if parts[2] == "aliases":
            self.asked.set()
            return reply({"id": "alias-1", "name": ALIAS, "artifact": self.points_at})
        if parts[2] == "models":
            self.looked_at.append(parts[3])
            return reply({"id": parts[3], "status": self.loading.pop(0) if self.loading else "loaded"})
        files = self.artifacts[parts[3]]
        if len(parts) > 4:
            return httpx.Response(200, content=files["/".join(parts[5:])])
        return reply({**listed(files), "id": parts[3]})


@pytest.fixture
def registry(tmp_path: Path, lm: Scripted) -> Registry:
    return Registry(tmp_path / "made", lm.base_url)


def following(registry: Registry, tmp_path: Path, seconds: float = 3600, **more: Any) -> Any:
    return stillhouse.load(ALIAS, follow=seconds, client=registry.client, cache_dir=tmp_path / "cache", **more)


def without_retries(program: Any) -> Any:
    for predictor in program.predictors():
        predictor.lm.num_retries = 0
    return program


ONE, TWO = (["sh-classify-" + suffix, "sh-reply-" + suffix] for suffix in ("one", "two"))


def _called_at_once(followers: list[Follower]) -> int:
    """How many threads look, when several callers come to each follower at once; 100 and more for a caller that gets no program."""
    sys.setswitchinterval(1e-6)
    before, refused = threading.active_count(), 0

    def call(follower: Follower, together: threading.Barrier) -> None:
        nonlocal refused
        together.wait()
        try:
            follower.program()
        except RuntimeError:
            refused += 1

    for follower in followers:
        together = threading.Barrier(8)
        callers = [threading.Thread(target=call, args=(follower, together)) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    return threading.active_count() - before + (100 if refused else 0)


class TestFollow:
    def test_after_a_promotion_the_whole_program_is_another(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        program = following(registry, tmp_path)
        assert program(message="hi").category == "billing"
        registry.points_at = "art-two"
        program.refresh()
        assert program(message="hi").category == "billing"
        assert lm.models == ONE + TWO
        assert [predictor.lm.model for predictor in program.predictors()] == [f"tune/{model}" for model in TWO]

    def test_a_call_that_has_begun_ends_on_the_program_that_it_began_on(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        program = following(registry, tmp_path)

        class Promoting(list[Any]):
            """Between the first predictor's call and the second's."""

            def append(self, request: Any) -> None:
                super().append(request)
                if len(self) == 1:
                    registry.points_at = "art-two"
                    program.refresh()

        lm.requests = Promoting()
        program(message="hi")
        assert lm.models == ONE
        program(message="hi")
        assert lm.models == ONE + TWO

    def test_it_looks_by_itself(self, registry: Registry, tmp_path: Path) -> None:
        program = following(registry, tmp_path, seconds=0.05)
        registry.asked.clear()
        assert registry.asked.wait(30), "before anybody has called it"
        assert program.predictors()

    def test_a_forked_process_looks_too_however_many_call_it_at_once(self) -> None:
        followers = [Follower(lambda: "art-one", lambda _: dspy.Module(), 3600) for _ in range(20)]
        with warnings.catch_warnings(action="ignore"):  # other tests' threads may run; the child needs none of their locks
            child = os.fork()
        if child == 0:
            os._exit(_called_at_once(followers))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(followers)

    def test_what_cannot_be_loaded_leaves_the_program_as_it_is(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        program = following(registry, tmp_path)
        registry.points_at = "art-two"
        registry.artifacts["art-two"]["spec.json"] = b"{}"
        with pytest.raises(ValueError, match=r"spec\.json was changed"):
            program.refresh()
        program(message="hi")
        assert lm.models == ONE

    def test_while_the_server_is_down_a_restarted_app_has_the_last_program(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        following(registry, tmp_path)
        registry.down = True
        following(registry, tmp_path)(message="hi")
        assert lm.models == ONE

    def test_a_copy_stays(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        program = following(registry, tmp_path)
        copied = program.deepcopy()
        registry.points_at = "art-two"
        program.refresh()
        copied(message="hi")
        assert lm.models == ONE

    def test_what_never_changes_is_not_followed(self) -> None:
        with pytest.raises(ValueError, match="takes an alias"):
            stillhouse.load("art-1", follow=60)


class TestLoad:
    @pytest.mark.parametrize("ref", ["./router", "models/router", Path("router")])
    def test_a_path_without_a_folder_is_told_before_a_server_is_asked(self, ref: str | Path) -> None:
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            stillhouse.load(ref)

    def test_an_app_that_configures_json_gets_the_programs_own_prompt(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        program = following(registry, tmp_path)
        with dspy.context(adapter=dspy.JSONAdapter()):
            program(message="hi")
        assert all("[[ ## completed ## ]]" in body["messages"][0]["content"] for _, _, body in lm.requests)

    @pytest.mark.parametrize("own", [False, True], ids=["spec", "own class"])
    def test_strict_asks_for_every_input_before_anything_is_paid(self, lm: Scripted, tmp_path: Path, own: bool) -> None:
        program = stillhouse.load(folder_of(tmp_path, "one"), Support() if own else None, strict=True)
        with pytest.raises(TypeError, match="message"):
            program(text="hi")
        assert lm.requests == []
        assert program(message="hi").category == "billing"

    def test_an_outage_is_one_error_with_its_code_and_when_to_ask_again(
        self, tmp_path: Path, lm: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = stillhouse.load(folder_of(tmp_path, "one"))
        for predictor in program.predictors():
            predictor.lm.num_retries = 0
        lm.refuses = (503, {"error": {"message": "The model cannot answer now", "code": "model_loading"}}, {"Retry-After": "5"})
        with pytest.raises(ModelUnavailable) as raised:
            program(message="hi")
        assert (raised.value.code, raised.value.retry_after) == ("model_loading", 5.0)

    @pytest.mark.parametrize("awaited", [False, True])
    def test_the_teacher_answers_in_an_outage_where_that_is_asked_for(
        self, tmp_path: Path, lm: Scripted, caplog: pytest.LogCaptureFixture, awaited: bool
    ) -> None:
        program = without_retries(stillhouse.load(folder_of(tmp_path, "one", teacher={"lms": TEACHER}), fallback="teacher", strict=True))

        def call(**inputs: str) -> Any:
            return asyncio.run(program.acall(**inputs)) if awaited else program(**inputs)

        call(message="hi")
        assert (lm.models, program.fallbacks) == (ONE, 0)
        lm.refuses, lm.refused = OUTAGE, "sh-"
        assert call(message="hi").category == "billing"
        assert lm.models[2:] == [ONE[0], "openai/big", "openai/big"]
        assert lm.requests[-2][2]["temperature"] == 0.5
        assert program.fallbacks == 1
        assert "the teacher is asked instead" in caplog.text
        assert [predictor.lm.model for predictor in program.predictors()] == [f"tune/{model}" for model in ONE]
        with pytest.raises(TypeError, match="message"):
            call(text="hi")
        assert program.fallbacks == 1

    def test_what_follows_an_alias_counts_on_after_a_promotion(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        program = following(registry, tmp_path, fallback="teacher")
        assert program.fallbacks == 0
        lm.refuses, lm.refused = OUTAGE, "sh-"
        for artifact in ("art-one", "art-two"):
            registry.points_at = artifact
            program.refresh()
            without_retries(program)(message="hi")
        assert program.fallbacks == 2
        assert [model for model in lm.models if model != "openai/big"] == [ONE[0], TWO[0]]

    @pytest.mark.parametrize("copied", [lambda program: program.deepcopy(), copy.deepcopy])
    def test_a_copy_has_the_teacher_too_and_counts_for_itself(
        self, registry: Registry, lm: Scripted, tmp_path: Path, copied: Callable[[Any], Any]
    ) -> None:
        program = following(registry, tmp_path, fallback="teacher")
        other = without_retries(copied(program))
        lm.refuses, lm.refused = OUTAGE, "sh-"
        assert other(message="hi").category == "billing"
        assert (other.fallbacks, program.fallbacks) == (1, 0)

    def test_an_artifact_that_names_no_teacher_has_no_fallback(self, tmp_path: Path, lm: Scripted) -> None:
        with pytest.raises(ValueError, match="names no teacher"):
            stillhouse.load(folder_of(tmp_path, "one"), fallback="teacher")
        with pytest.raises(ValueError, match='there is "teacher"'):
            stillhouse.load(tmp_path / "one", fallback="base")  # type: ignore[arg-type]  # what a user may write

    def test_a_refused_key_is_no_outage(self, tmp_path: Path, lm: Scripted) -> None:
        program = stillhouse.load(folder_of(tmp_path, "one"))
        lm.refuses = (401, {"error": {"message": "no", "code": "invalid_api_key"}}, {})
        with pytest.raises(LMAuthError):
            program(message="hi")


class TestWarm:
    def test_it_returns_when_the_models_are_loaded_and_asks_them_nothing(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        registry.loading = ["loading", "unloaded"]
        program = stillhouse.load("art-one", warm=True, client=registry.client, cache_dir=tmp_path / "cache")
        assert registry.looked_at == [ONE[0], ONE[0], ONE[0], ONE[1]]
        assert len(registry.slept) == 2
        assert lm.requests == []
        assert program(message="hi").category == "billing"

    def test_without_it_the_server_is_not_asked(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        stillhouse.load("art-one", client=registry.client, cache_dir=tmp_path / "cache")
        assert registry.looked_at == []

    @pytest.mark.parametrize(("status", "code"), [("failed", "model_failed"), ("loading", "model_loading")])
    def test_a_model_that_does_not_come_is_an_outage(self, registry: Registry, tmp_path: Path, status: str, code: str) -> None:
        registry.loading = [status] * 1000
        with pytest.raises(ModelUnavailable, match=f"{ONE[0]}.*{code}") as raised:
            stillhouse.load("art-one", warm=True, client=registry.client, cache_dir=tmp_path / "cache")
        assert (raised.value.code, raised.value.retry_after) == (code, 60.0 if status == "failed" else 5.0)

    def test_so_is_a_server_that_is_away(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        def load(**options: Any) -> Any:
            return stillhouse.load("art-one", client=registry.client, cache_dir=tmp_path / "cache", **options)

        load()
        registry.down = True
        load()
        with pytest.raises(ModelUnavailable) as raised:
            load(warm=True)
        assert raised.value.code == "transport"

    def test_a_promotion_waits_for_its_models(self, registry: Registry, lm: Scripted, tmp_path: Path) -> None:
        program = following(registry, tmp_path, warm=True)
        registry.points_at, registry.loading = "art-two", ["failed"]
        with pytest.raises(ModelUnavailable):
            program.refresh()
        program(message="hi")
        program.refresh()
        program(message="hi")
        assert lm.models == ONE + TWO


class TestHouse:
    def test_the_prefix_asks_the_server_with_the_key_of_the_call_and_no_other(self, lm: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-the-users-own")
        made = stillhouse.LM("house/tiny", cache=False)
        monkeypatch.setenv("STILLHOUSE_API_KEY", "sh_new_key")
        made("hello")
        stillhouse.LM("sh-router-1", cache=False)("hello")
        assert (lm.models, lm.keys) == (["tiny", "sh-router-1"], {"Bearer sh_new_key"})

    def test_another_servers_program_leaves_the_prefixes_where_they_were(self, lm: Scripted, tmp_path: Path) -> None:
        """Else what the app asks next would go there, with the key of this one."""
        lms = {name: {"model": "openai/big", "options": {}} for name in ("classify.predict", "reply")}
        folder = folder_of(tmp_path, "one", teacher={"lms": lms})
        with scripted_server() as other, Stillhouse(other.base_url, "sh_other_key") as client:
            program = stillhouse.load(folder, fallback="teacher", client=client)
            for predictor in program.predictors():
                predictor.lm.num_retries = 0
            for model in ("house/tiny", "tune/sh-mine"):
                dspy.LM(model, cache=False)("hello")
            other.refuses, other.refused = (503, {"error": {"message": "no", "code": "model_loading"}}, {}), "sh-"
            program(message="hi")
        assert (lm.models, lm.keys) == (["tiny", "sh-mine"], {"Bearer sh_a_b"})
        assert (other.models, other.keys) == ([ONE[0], "openai/big", "openai/big"], {"Bearer sh_other_key"})

    @pytest.mark.slow
    def test_dspy_knows_the_prefix_after_our_import_whichever_is_first(self, lm: Scripted) -> None:
        asked = "import importlib.util, sys, stillhouse; assert importlib.util.find_spec('dspy') and 'dspy' not in sys.modules"
        code = f"{asked}; import dspy; dspy.LM('house/tiny', cache=False)('hello')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert lm.models == ["tiny"]
