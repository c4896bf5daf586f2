"""`tickertape doctor`: every check in a table, and a crash of native code as one of its lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_factory import edit_json, make_checkpoint
from tickertape.checkpoints.cache import write_manifest
from tickertape.checkpoints.prepare import prepare
from tickertape.cli.main import main

KINDS = [f"decoding: {kind}" for kind in ("text", "words", "language", "translate", "beam")]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of random weights, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_checkpoint(tmp_path / "model", "custom", config={"audio_context": "trimmed"})


def examined(model: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and each check's result and detail."""
    code = main(["doctor", str(model), "--json"])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["ok"] == (code == 0)
    return code, {row["check"]: (row["result"], row["detail"]) for row in report["checks"]}


@pytest.mark.slow
def test_a_whole_checkpoint_passes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every relation and every kind of request is a line that is ok, as a table or as JSON; the exit code is 0."""
    code, found = examined(checkpoint, capsys)
    assert 0 == code
    assert {"ok"} == {result for result, _ in found.values()}
    assert {"tokenizer", "token ids", "alignment heads", "weights", *KINDS} <= found.keys()
    assert 0 == main(["doctor", str(checkpoint)])
    table = capsys.readouterr().out
    assert all(check in table for check in found)


@pytest.mark.slow
def test_what_was_assumed_is_told(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A default is a line with its reason; the checkpoint serves."""
    edit_json(checkpoint / "generation_config.json", alignment_heads=[[9, 9]], lang_to_id=None)
    code, found = examined(checkpoint, capsys)
    assert 0 == code
    assert {"alignment heads", "languages", "preparing"} == {n for n, row in found.items() if row[0] == "assumed"}
    assert "layers" in found["alignment heads"][1]


def test_a_refused_checkpoint_fails(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All checks are made although one failed; nothing is decoded; the exit code is 1."""
    edit_json(checkpoint / "generation_config.json", no_timestamps_token_id=7)
    code, found = examined(checkpoint, capsys)
    assert 1 == code
    assert ("failed", "ok") == (found["token ids"][0], found["weights"][0])
    assert "same model" in found["token ids"][1]
    assert not set(KINDS) & found.keys()
    assert 1 == main(["doctor", str(checkpoint)])
    assert "failed" in capsys.readouterr().out


def test_a_missing_checkpoint_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no table, and the exit code is 2."""
    assert 2 == main(["doctor", str(tmp_path / "none"), "--offline"])
    assert "" == capsys.readouterr().out


@pytest.mark.slow
def test_a_crash_of_native_code_is_a_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A prepared folder that was forged so that word times crash: that line fails, the others are ok."""
    folder = prepare(checkpoint).folder
    model = json.loads((folder / "manifest.json").read_text())["model"]
    (folder / "manifest.json").unlink()
    edit_json(folder / "config.json", alignment_heads=[[10**6, 0]])
    write_manifest(folder, model)
    code, found = examined(folder, capsys)
    assert 1 == code
    assert ("failed", "the process died of SIGSEGV") == found["decoding: words"]
    assert ["ok"] * 4 == [found[kind][0] for kind in KINDS if kind != "decoding: words"]
