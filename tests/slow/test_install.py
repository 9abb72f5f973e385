"""As a stranger meets it: built, installed into a fresh environment, extended by a package of one's own."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import seal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(seal.__file__).parents[2]
PLUGIN = ROOT / "examples" / "domain-package"


def run(*command: str | Path, at: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command with nothing of this checkout on its path."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "COVERAGE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run([*command], cwd=at, env=environment, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def tracked() -> set[str]:
    names = run("git", "ls-files", "-co", "--exclude-standard", at=ROOT).stdout.splitlines()
    return {name for name in names if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist), the wheel built out of the sdist, as `python -m build` does."""
    pytest.importorskip("build", reason="the dev extra is not installed")
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    for name in tracked():  # a copy: building leaves traces in the source folder
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, at=source)
    (wheel,), (sdist,) = out.glob("seal_lm-*-py3-none-any.whl"), out.glob("seal_lm-*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a new virtual environment with the wheel; the dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, at=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    install(folder / "bin", built[0])
    return folder / "bin"


def install(bin: Path, *what: str | Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", bin / "python", "install", "--quiet", "--no-deps"]
    options = ["--no-build-isolation", "--ignore-installed", "--no-index"]
    run(*pip, *options, *what, at=bin)


def test_the_wheel_holds_every_file_of_the_package(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[0]).namelist())
    package = {n.removeprefix("src/") for n in tracked() if n.startswith("src/seal/")}
    assert package - names == set()
    assert {n for n in names if not n.startswith(("seal/", "seal_lm-"))} == set()


def test_the_source_distribution_holds_the_project(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    # Of the checkout alone: git's own files, and those of the forge.
    assert {n for n in tracked() - names if not n.startswith((".git", ".pre-commit"))} == set()


def test_a_fresh_environment_runs_the_commands(environment: Path, tmp_path: Path) -> None:
    seal_command = environment / "seal"
    assert "usage: seal COMMAND" in run(seal_command, "--help", at=tmp_path).stdout
    assert "demo" in run(seal_command, "presets", at=tmp_path).stdout
    program = """
import seal
from seal.config import load_config, preset_names
from seal.data.loader import load_tasks
from seal.domains.knowledge import KnowledgeIncorporation
from seal.extras import install
assert "site-packages" in seal.__file__, seal.__file__
assert set(dir(seal)) == set(seal.__all__) and all(getattr(seal, name) for name in seal.__all__)
assert all(load_config(preset=name) for name in preset_names()) and len(preset_names()) >= 5
assert len(load_tasks("builtin")) > 20
assert KnowledgeIncorporation("study_plan").create_self_edit_prompt("Text.")
print(install("serving"))
"""
    done = run(environment / "python", "-c", program, at=tmp_path)
    assert "seal_lm-" in done.stdout  # not yet on an index: the wheel itself is named
    assert done.stdout.rstrip("'\n").endswith("[serving]")


def test_a_package_brings_a_domain_a_reward_and_a_loader(environment: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    for name in tracked():
        if name.startswith("examples/domain-package/"):
            target = plugin / Path(name).relative_to("examples/domain-package")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    before = run(environment / "seal", "train", "--config", "riddles.yaml", at=plugin, check=False)
    assert before.returncode == 2
    assert "domain: must be knowledge_incorporation, few_shot_learning or an import path" in before.stderr
    install(environment, plugin)
    done = run(environment / "seal", "train", "--config", "riddles.yaml", at=plugin)
    assert "held-out, 2 questions of 2 tasks" in done.stdout
    assert "3 passed" in run(environment / "python", "-m", "pytest", "-q", at=plugin).stdout
