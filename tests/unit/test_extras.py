"""Every optional package is declared, and its absence is said in one line with the command that brings it."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import seal
from made_up_run import MadeUpRun
from seal import extras
from seal.cli import main
from seal.errors import MissingExtra

SOURCE = Path(seal.__file__).parent
PROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
#: Which file sees to it that a module is there, for files that import it without asking.
ASKED_BEFORE = {
    "serve/server.py": "cli/serve.py",
    "serve/listener.py": "cli/serve.py",
    "taught/serving/app.py": "cli/serve_model.py",
    "taught/serving/run.py": "cli/serve_model.py",
    "models/openai_generator.py": "remote.py",
    "grading.py": "remote.py",
    "models/lora.py": "launch/__init__.py",
    **{f"cluster/{name}.py": "cluster/session.py" for name in ("actors", "census", "shipment", "slot")},
}


def distribution(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


DECLARED = {distribution(r) for r in PROJECT["dependencies"]}


def imports() -> Iterator[tuple[str, str]]:
    """(file, top-level module) of every import that is neither Python's nor ours, wherever it stands."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in {name.split(".")[0] for name in names}:
                if name != "seal" and name not in sys.stdlib_module_names:
                    yield str(path.relative_to(SOURCE)), name


def asks(file: str, module: str) -> bool:
    text = (SOURCE / file).read_text(encoding="utf-8")
    if f'need("{module}"' in text or "need(name," in text:
        return True
    return f'"{module}"' in text and "need(module," in text


def test_every_import_is_declared() -> None:
    known = packages_distributions()
    # parts of the interfaces of jinja2 and openai; triton comes with torch's CUDA builds
    declared = DECLARED | {"markupsafe", "httpx2", "triton"}
    unknown = [
        f"{file} imports {module}"
        for file, module in imports()
        if module not in extras.MODULES
        and not declared & {name.lower().replace("_", "-") for name in known.get(module, [module])}
    ]
    assert unknown == []


def test_every_import_of_an_extra_is_asked_for_first() -> None:
    for file, module in imports():
        if module in extras.MODULES:
            assert asks(file, module) or asks(ASKED_BEFORE[file], module), f"{file} imports {module}"


def test_every_extra_has_code_behind_it() -> None:
    collections = {"all", "docs", "dev"}
    assert set(PROJECT["optional-dependencies"]) - collections == set(extras.MODULES.values())
    assert PROJECT["name"] == extras.DISTRIBUTION


def read(name: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from seal.data.documents.library import read_library

        (folder / name).write_bytes("Caf\xe9 crème".encode("latin-1") * 9)
        return read_library([folder])

    return run


def judge(folder: Path) -> object:
    from seal.grading import JudgeGrader

    return JudgeGrader(model="m", base_url="http://127.0.0.1:9/v1", api_key_env="")


def key_in_a_file(folder: Path) -> object:
    from seal import keys

    (folder / ".env").write_text("SOME_KEY=x\n")
    with contextlib.chdir(folder):
        return keys.key("SOME_KEY")


def find_server(folder: Path) -> object:
    from seal.serve.link import Link

    return Link("tcp://127.0.0.1:9").open(3)


def draw(folder: Path) -> object:
    from seal.report.plots import save_pngs

    return save_pngs([], folder)


def command(*words: str) -> Callable[[Path], object]:
    return lambda folder: main([*words])


def sharded(folder: Path) -> object:
    return extras.need("deepspeed", "ZeRO-3")  # its caller needs a GPU


def quantised(kind: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        import torch

        from seal.models.quantise import quantise

        return quantise(torch.nn.Module(), kind, torch.device("cpu"))

    return run


ENTRIES: dict[str, Callable[[Path], object]] = {
    "openai": judge,
    "tenacity": judge,
    "dotenv": key_in_a_file,
    "zmq": find_server,
    "starlette": command("serve-model", "nowhere"),
    "uvicorn": command("serve-model", "nowhere"),
    "pypdf": read("x.pdf"),
    "docx": read("x.docx"),
    "markdownify": read("x.html"),
    "bs4": read("x.html"),
    "semantic_text_splitter": read("x.md"),
    "charset_normalizer": read("x.txt"),
    "matplotlib": draw,
    "deepspeed": sharded,
    "torchao": quantised("int8"),
    "bitsandbytes": quantised("nf4"),
    "ray": command("doctor", "--cluster", "127.0.0.1:9"),
}
TRACKERS = {"wandb", "tensorboard", "trackio", "mlflow"}


def test_every_module_has_a_test() -> None:
    assert ENTRIES.keys() | TRACKERS == set(extras.MODULES)


@pytest.mark.parametrize("module", ENTRIES)
def test_a_missing_package_is_named_with_its_command(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    said = ""
    try:
        assert ENTRIES[module](tmp_path) == 2
    except MissingExtra as error:
        said = f"{error.message}. {error.fix.capitalize()}"
    said = said or capsys.readouterr().err
    fixes = [extras.install(extras.MODULES[module])]
    with contextlib.chdir(tmp_path):  # where one of them looks from
        fixes.append(extras.install(extras.MODULES[module]))
    named = [f"needs {module}, which is not installed. run: {fix}".lower() for fix in fixes]
    assert any(text in said.lower() for text in named), said


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_missing_tracker_is_named_and_the_run_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from seal.report.sinks import open_sinks
    from seal.run.folder import Run

    logging.getLogger("seal").propagate = True
    monkeypatch.setitem(sys.modules, name, None)
    MadeUpRun(tmp_path / "run", rounds=1)
    with Run.open(tmp_path / "run") as run:
        open_sinks(run.config.model_copy(update={"trackers": (name,)}), run).round(0)
        assert extras.install(name) in caplog.text
        assert (run.path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("direct", "marker", "expected"),
    [
        (None, "", "pip install 'seal-lm[ray]'"),
        ({"url": "file:///x/seal", "dir_info": {"editable": True}}, "", "pip install -e '/x/seal[ray]'"),
        ({"url": "file:///x/my%20seal", "dir_info": {}}, "", "pip install '/x/my seal[ray]'"),
        ({"url": "file:///x/s.whl", "archive_info": {}}, "", "pip install '/x/s.whl[ray]'"),
        (None, "pipx_metadata.json", f"{shlex.quote(sys.executable)} -m pip install 'seal-lm[ray]'"),
    ],
)
def test_the_command_fits_how_seal_was_installed(
    direct: Any, marker: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return json.dumps(direct) if direct else None

    monkeypatch.setattr(extras.metadata, "distribution", lambda name: Installed())
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    if marker:
        (tmp_path / marker).touch()
    assert extras.install("ray") == expected
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    without_pip = extras.install("ray")
    assert without_pip.startswith("uv pip install --python ")  # made by uv, `uv tool` among them
    assert shlex.split(without_pip)[-1].endswith("[ray]")


def test_a_package_that_is_there_but_broken_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text("import no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(MissingExtra, match="cannot be imported: No module named 'no_such_thing'"):
        extras.need("trackio", "x")


def test_the_doctor_mends_what_is_needed_and_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a command that is the real pip, asked for nothing but its version."""
    from seal.cli import doctor

    broken = [doctor.Check("model", "not here", "pip --version"), doctor.Check("x", "no", "false", False)]
    monkeypatch.setattr(doctor, "_packages", lambda: iter(broken))
    monkeypatch.setattr(doctor, "_models", lambda: iter(broken))
    monkeypatch.setattr(doctor, "checks", lambda: iter([]))
    calls: list[list[str]] = []
    real = subprocess.run

    def watched(words: list[str], **more: Any) -> Any:
        calls.append(words)
        return real(words, capture_output=True, **more)

    monkeypatch.setattr(doctor.subprocess, "run", watched)
    assert main(["doctor", "--fix"]) == 0
    assert calls == [[sys.executable, "-m", "pip", "--version"]]
    assert "$ pip --version" in capsys.readouterr().out
    broken[0] = doctor.Check("model", "not here", "false")
    assert main(["doctor", "--fix"]) == 2
    assert "`false` failed with exit code 1" in capsys.readouterr().err
    broken[0] = doctor.Check("model", "not here", "no-such-uv pip install x")
    assert main(["doctor", "--fix"]) == 2
    assert "no-such-uv is not on the PATH" in capsys.readouterr().err
