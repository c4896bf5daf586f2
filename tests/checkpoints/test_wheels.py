"""Checkpoints in installed distributions, and the known wheels."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.checkpoint_factory import make_adapter, make_checkpoint
from tickertape.checkpoints import wheels
from tickertape.checkpoints.prepare import prepare
from tickertape.checkpoints.source import find, locate
from tickertape.errors import CheckpointError, CorruptCheckpointError

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
