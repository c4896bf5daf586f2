"""Settings: where they come from, which are refused, what is derived."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tickertape.cli.main as cli
from tickertape.cli import serve
from tickertape.engine import hardware
from tickertape.engine.hardware import Detected
from tickertape.errors import OptionError
from tickertape.server.settings import MEBIBYTE, Settings

GIBIBYTE = 1024 * MEBIBYTE


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, cores=2, memory=4 * GIBIBYTE)


def set_machine(monkeypatch: pytest.MonkeyPatch, *, cores: int, memory: int) -> None:
    """Let the machine have these cores and this memory in bytes."""
    monkeypatch.setattr(hardware, "cores", lambda: Detected(cores, "for the test"))
    monkeypatch.setattr(hardware, "memory", lambda: Detected(memory, "for the test"))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PORT", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(variable, raising=False)


def test_flags_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source gives way to the one before it; a flag that was not given is no flag."""
    file = tmp_path / "tickertape.toml"
    file.write_text('port = 1\nbatch = 1\nbeam_size = 1\nmodels = ["a=x", "b=y"]\n')
    monkeypatch.setenv("TICKERTAPE_PORT", "2")
    monkeypatch.setenv("TICKERTAPE_BATCH", "2")
    loaded = Settings.load(file, port=3, host=None)
    assert (3, 2, 1, ("a=x", "b=y")) == (loaded.port, loaded.batch, loaded.beam_size, loaded.models)


def test_yaml_files_are_read(tmp_path: Path) -> None:
    """A YAML file does as well as TOML."""
    file = tmp_path / "tickertape.yaml"
    file.write_text("port: 9\ncors_origins: [https://a.example]\n")
    assert (9, ("https://a.example",)) == (Settings.load(file).port, Settings.load(file).cors_origins)


def test_lists_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several models fit into one variable."""
    monkeypatch.setenv("TICKERTAPE_MODELS", "a=/x, b=/y")
    assert ("a=/x", "b=/y") == Settings.load().models


def test_foreign_variables_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """PORT and GOOGLE_CLOUD_PROJECT count, unless our own variable is set."""
    monkeypatch.setenv("PORT", "7")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    assert (7, "p") == (Settings.load().port, Settings.load().project)
    monkeypatch.setenv("TICKERTAPE_PORT", "8")
    assert 8 == Settings.load().port


SERVICE_LINKS = {
    "{}_SERVICE_HOST": "10.0.0.1", "{}_SERVICE_PORT": "8080", "{}_SERVICE_PORT_HTTP": "8080",
    "{}_PORT": "tcp://10.0.0.1:8080", "{}_PORT_8080_TCP": "tcp://10.0.0.1:8080", "{}_PORT_8080_TCP_PROTO": "tcp",
    "{}_PORT_8080_TCP_PORT": "8080", "{}_PORT_8080_TCP_ADDR": "10.0.0.1",
}  # fmt: skip


@pytest.mark.parametrize("service", ["TICKERTAPE", "TICKERTAPE_SERVE_SVC"])
def test_variables_of_kubernetes_services_are_ignored(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod beside a Service named `tickertape` or `tickertape-serve-svc` starts with the settings it was given."""
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name.format(service), value)
    monkeypatch.setenv("PORT", "7")
    monkeypatch.setenv("TICKERTAPE_PROXY_BODY_LIMIT", "1000")
    assert Settings(port=7) == Settings.load()
    monkeypatch.setenv("TICKERTAPE_SERVICE", "x")
    with pytest.raises(OptionError, match="TICKERTAPE_SERVICE is not a setting"):
        Settings.load()


def test_the_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings()` is the defaults wherever it runs."""
    monkeypatch.setenv("TICKERTAPE_PORT", "1")
    monkeypatch.setenv("PORT", "2")
    assert 8080 == Settings().port


@pytest.mark.parametrize(
    ("variable", "value"), [("TICKERTAPE_PROT", "1"), ("TICKERTAPE_PORT", "x"), ("TICKERTAPE_PORT", "70000")]
)
def test_bad_variables_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """A misspelt variable or a bad value stops the start; the message names it."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(OptionError) as raised:
        Settings.load()
    assert variable.removeprefix("TICKERTAPE_").lower() in raised.value.message.lower()
    assert "invalid_settings" == raised.value.code


@pytest.mark.parametrize("text", ["prot = 1", "port = [", "port = 'x'", "keys_file = 5"])
def test_bad_files_are_refused(tmp_path: Path, text: str) -> None:
    """Unknown names, bad syntax and bad values in the file are refused alike."""
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(OptionError):
        Settings.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that was named must be there."""
    with pytest.raises(OptionError):
        Settings.load(tmp_path / "none.toml")


def test_values_are_not_repeated_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the wrong place may be a secret."""
    monkeypatch.setenv("TICKERTAPE_PORT", "tt-secret")
    with pytest.raises(OptionError) as raised:
        Settings.load()
    assert "secret" not in str(raised.value)


def test_zeros_are_derived_from_the_machine() -> None:
    """What was left alone is derived from the machine; what was set stays."""
    resolved = Settings(batch=3).resolve()
    assert (2, 3, 128 * MEBIBYTE) == (resolved.threads, resolved.batch, resolved.body_limit)


@pytest.mark.parametrize(("gibibytes", "longest", "processes"), [(4, 0, 2), (32, 0, 8), (4, 60, 8)])
def test_recordings_being_decoded_fit_the_memory(
    monkeypatch: pytest.MonkeyPatch, gibibytes: int, longest: float, processes: int
) -> None:
    """Cores without memory decode fewer recordings at once: two of two hours fill a quarter of 4 GiB."""
    set_machine(monkeypatch, cores=8, memory=gibibytes * GIBIBYTE)
    assert processes == Settings(max_audio_seconds=longest).resolve().decode_processes


def test_fetched_files_may_exceed_the_limit_of_uploads() -> None:
    """A lower `body_limit`, as on Cloud Run, leaves fetched files as large as the memory allows."""
    assert 128 * MEBIBYTE == Settings(body_limit=MEBIBYTE).fetch_limit
    assert GIBIBYTE == Settings(body_limit=GIBIBYTE).fetch_limit


def test_resolving_twice_changes_nothing() -> None:
    """A resolved value is as good as a set one."""
    once = Settings().resolve()
    assert once == once.resolve(cores=64, memory=64 * GIBIBYTE)


@given(
    cores=st.integers(1, 256),
    memory=st.integers(256 * MEBIBYTE, 1024 * GIBIBYTE),
    engines=st.integers(1, 64),
)
@pytest.mark.slow
def test_derived_values_fit_any_machine(cores: int, memory: int, engines: int) -> None:
    """Everything is positive; the longest recording always finds room."""
    resolved = Settings(engine_replicas=engines).resolve(cores, memory)
    assert min(resolved.threads, resolved.batch, resolved.body_limit, resolved.max_audio_seconds) > 0
    assert resolved.audio_seconds_in_flight >= resolved.max_audio_seconds
    assert resolved.threads * engines <= max(cores, engines)


def test_every_setting_is_explained() -> None:
    """No knob is without a help text."""
    assert [] == [name for name, field in Settings.model_fields.items() if not field.description]


# --- every setting by flag, environment and file


ODD: dict[str, tuple[str, object]] = {  # what is said, and what it means, where a figure will not do
    "models": ("a=x,b=y", ("a=x", "b=y")),
    "cors_origins": ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
    "object_hosts": ("gs://bucket,a.example", ("gs://bucket", "a.example")),
    "log_level": ("warning", "warning"),
    "device": ("cpu", "cpu"),
    "keys_file": ("keys.json", Path("keys.json")),
}


def said(name: str) -> tuple[str, Any]:
    """Words for a setting's value, which is not its default, and the value."""
    default = Settings.model_fields[name].default
    if name in ODD:
        return ODD[name]
    if isinstance(default, bool):
        return str(not default).lower(), not default
    if isinstance(default, str):
        return "other", "other"
    return "3", type(default)(3)


def served(*words: str) -> Settings:
    """What `tickertape serve` would serve with."""
    asked: list[Settings] = []

    def note(*given: Any) -> int:
        asked.append(serve.load_settings(*given))
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "launch", note)
        code = cli.main(["serve", *words])
    if code:
        raise SystemExit(code)
    return asked[0]


@pytest.mark.parametrize("name", Settings.model_fields)
@pytest.mark.slow
def test_every_setting_is_a_flag_a_variable_and_a_line_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three say the same, and the flag in both ways of writing it."""
    words, value = said(name)
    flag = f"--{name.replace('_', '-')}"
    assert value != getattr(Settings(), name)
    assert value == getattr(served(flag, words), name)
    assert value == getattr(served(f"{flag}={words}"), name)
    file = tmp_path / "tickertape.toml"
    quoted = (
        words if isinstance(value, bool | int | float) else list(value) if isinstance(value, tuple) else f"'{words}'"
    )
    file.write_text(f"{name} = {quoted}\n")
    assert value == getattr(served("--config", str(file)), name)
    monkeypatch.setenv(f"TICKERTAPE_{name.upper()}", words)
    assert value == getattr(served(), name)


@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if field.annotation is bool])
@pytest.mark.slow
def test_switches_are_said_in_every_way(name: str) -> None:
    """On and off, with a value and without."""
    for value, words in {True: "true on 1", False: "false off 0"}.items():
        for word in words.split():
            assert value is getattr(served(f"--{name}", word), name) is getattr(served(f"--{name}={word}"), name)
    assert (True, False) == (getattr(served(f"--{name}"), name), getattr(served(f"--no-{name}"), name))


def test_lists_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag of a list may come again, and hold several; the environment gives way to all of them."""
    monkeypatch.setenv("TICKERTAPE_CORS_ORIGINS", "z")
    assert ("a", "b", "c") == served("--cors-origins", "a", "--cors-origins=b,c").cors_origins
    assert ("gs://a-b", "c.de") == served("--object-hosts", "gs://a-b", "--object-hosts", "c.de").object_hosts
    assert ("a", "b=x", "c") == served("--model", "a", "-m", "b=x", "--models", "c").models


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--prot 1", "--prot"),
        ("--body-limit many", "body_limit: input should be a valid integer"),
        ("--body-limit 1 --body-limit 2", "--body-limit is given twice"),
        ("--docs --no-docs", "--docs is given twice"),
        ("call.wav", "unexpected extra argument"),
        ("--port 1 --port 2", "--port is given twice"),
        ("--page=maybe", "page: input should be a valid boolean"),
        ("--ray --no-ray", "--ray is given twice"),
    ],
)
def test_bad_flags_are_refused_with_a_way_out(words: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what is wrong and where to look; the list of settings is named where one was meant."""
    with pytest.raises(SystemExit, match="2"):
        served(*words.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert re.search("Try: .* serve --help", line)
    assert (complaint.partition(":")[0] in {"body_limit", "page"}) == ("docs/reference/settings.md" in line)
