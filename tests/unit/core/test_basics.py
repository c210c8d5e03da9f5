"""Ids, settings, logs and errors."""

import json
import re
import sys
from pathlib import Path

import pytest

from distill import logs, redaction
from distill.errors import CancelRequested, Conflict, JobFault, LostLease, StartRefused, StillhouseError
from distill.ids import new_id, short_token
from distill.settings import get_settings


class TestIds:
    def test_order_of_text_is_order_of_creation(self) -> None:
        made = [new_id("cjob") for _ in range(5000)]
        assert made == sorted(made)
        assert len(set(made)) == 5000

    def test_form(self) -> None:
        assert re.fullmatch(r"cjob-[0-9a-v]{26}", new_id("cjob"))

    def test_tokens_do_not_repeat(self) -> None:
        assert len({short_token(12) for _ in range(1000)}) == 1000


class TestSettings:
    @pytest.fixture
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "stillhouse.toml"
        monkeypatch.setenv("STILLHOUSE_CONFIG", str(path))
        get_settings.cache_clear()
        return path

    def test_defaults_need_no_file(self, config: Path) -> None:
        assert get_settings().timers.lease_seconds == 120
        assert get_settings().server.host == "127.0.0.1"

    def test_file_then_environment(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config.write_text('[timers]\nlease_seconds = 60\nbeat_seconds = 5\n[connections.openai]\nbase_url = "https://api.openai.com/v1"\n')
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "7")
        monkeypatch.setenv("DATABASE_URL", "postgresql://db.test/x")
        settings = get_settings()
        assert (settings.timers.lease_seconds, settings.timers.beat_seconds) == (7, 5)
        assert settings.connections["openai"].models == "*"
        assert settings.database_url == "postgresql://db.test/x"

    def test_references_and_runtimes(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert (get_settings().references, get_settings().pythons) == ([], {"default": sys.executable})
        config.write_text('references = ["acme", "support.desk"]\n[runtimes.default]\npython = "/opt/x/bin/python"\n')
        get_settings.cache_clear()
        assert (get_settings().references, get_settings().pythons) == (["acme", "support.desk"], {"default": "/opt/x/bin/python"})
        monkeypatch.setenv("STILLHOUSE_REFERENCES", "desk, acme.tools")
        get_settings.cache_clear()
        assert get_settings().references == ["desk", "acme.tools"]
        monkeypatch.setenv("STILLHOUSE_REFERENCES", "desk:make")
        get_settings.cache_clear()
        with pytest.raises(StartRefused, match="not the name of a package"):
            get_settings()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[timers]\nlease_second = 60\n", "timers: unknown setting `lease_second`; did you mean `lease_seconds`?"),
            ('[connections.x]\nbase_url = "u"\napi_key = "sk-secret"\n', "connections.x: unknown setting `api_key`; did you mean"),
            ("[timer]\nlease_seconds = 60\n", "unknown setting `timer`; did you mean `timers`?"),
            ('[timers]\nlease_seconds = "sk-secret"\n', "timers.lease_seconds: Input should be a valid number"),
            ("[server]\nport = 99999\n", "server.port: Input should be less than or equal to 65535"),
            ("[timers\n", "cannot be read: Expected ']'"),
            (
                '[connections.x]\nbase_url = "u"\nmodels = ["big", "*"]\n',
                'connections.x.models: is no model\'s name; where any is taken, `models` itself is "*"',
            ),
        ],
    )
    def test_what_is_wrong_in_the_file_is_told_with_its_place(self, config: Path, text: str, said: str) -> None:
        config.write_text(text)
        with pytest.raises(StartRefused) as refused:
            get_settings()
        assert str(refused.value).startswith(str(config))
        assert said in str(refused.value)
        assert "sk-secret" not in str(refused.value)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("STILLHOUSE_TIMERS__LEASE_SECONDS", "soon", "STILLHOUSE_TIMERS__LEASE_SECONDS: Input should be a valid number"),
            ("STILLHOUSE_SERVER__HOSTS", "one.test", "a variable is not the JSON that it has to be"),
            (
                "STILLHOUSE_TIMERS__LEASE_SECOND",
                "5",
                "stillhouse.toml or STILLHOUSE_TIMERS__LEASE_SECOND: timers: unknown setting `lease_second`",
            ),
        ],
    )
    def test_what_is_wrong_in_a_variable_is_told_by_its_name(
        self, config: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(StartRefused, match=said):
            get_settings()

    def test_blobs_live_in_the_home_unless_told(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_HOME", "somewhere")
        assert get_settings().blob_root == Path("somewhere/blobs")


class TestRedaction:
    @pytest.fixture(autouse=True)
    def _secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234567890")
        redaction._secrets.cache_clear()

    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            ("401 for sk-canary-1234567890", "401 for [redacted]"),
            ("token sh_abc123_ABCDEFGHIJKLMNOPQRST was refused", "token [redacted] was refused"),
            ("postgresql://me:hunter2@db/x", "postgresql://me:[redacted]@db/x"),
            ("Incorrect API key provided: sk-proj-AbCdEfGh0123456789.", "Incorrect API key provided: [redacted]."),
            ("Authorization: Bearer abcdefghijklmnop0123", "Authorization: Bearer [redacted]"),
            ("hf_abcdefghijklmnopqrstuvwx and AKIAABCDEFGHIJKLMNOP", "[redacted] and [redacted]"),
            ("the task sk-1 of risk-assessment-for-banks", "the task sk-1 of risk-assessment-for-banks"),
            ("nothing to hide", "nothing to hide"),
        ],
    )
    def test_text(self, text: str, clean: str) -> None:
        assert redaction.redact_text(text) == clean

    def test_what_an_error_tells(self) -> None:
        fault = JobFault("lm_refused", "the host said: bad key sk-canary-1234567890", data={"answer": ["sk-canary-1234567890"]})
        assert "canary" not in json.dumps(fault.as_json())

    def test_nested_values(self) -> None:
        line = logs.redact(None, "info", {"event": "x", "headers": {"authorization": ["Bearer sk-canary-1234567890"]}, "count": 3})
        assert line == {"event": "x", "headers": {"authorization": ["Bearer [redacted]"]}, "count": 3}


class TestErrors:
    def test_code_is_the_classes_own_unless_given(self) -> None:
        assert Conflict("no").code == "conflict"
        assert Conflict("no", code="job_over", param="id").param == "id"

    def test_cancelled_holder_has_lost_its_right_to_publish(self) -> None:
        assert issubclass(CancelRequested, LostLease)
        assert issubclass(LostLease, StillhouseError)

    def test_fault_is_plain_json(self) -> None:
        assert JobFault("no_rows_kept", "No rows.", "user", step="prepare").as_json() == {
            "code": "no_rows_kept", "message": "No rows.", "category": "user", "param": None, "step": "prepare", "retryable": False,
        }  # fmt: skip
