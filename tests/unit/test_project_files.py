"""Files for whoever carries the project on: they parse, and what they name exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import seal
from seal.models.gguf import WHEELS

ROOT = Path(seal.__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_names_the_version_and_the_paper() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == seal.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    paper = citation["preferred-citation"]
    names = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    bibtex = re.search(r"author  = \{(.*)\},", read("README.md"))
    assert bibtex is not None
    assert names == bibtex[1].replace('{\\"u}', "ü")


def test_the_forge_runs_what_a_contributor_runs_on_every_python_that_is_promised() -> None:
    (job,) = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    promised = [c.rpartition(" :: ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert job["strategy"]["matrix"]["python"] == promised
    assert f">={promised[0]}" == PROJECT["requires-python"]
    targets = re.findall(r"^make ([\w-]+)", read(".ci/run"), re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """Package -> version of a lock."""
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", read(name), re.MULTILINE)
    return {package.lower().replace("_", "-"): version.partition("+")[0] for package, version in found}


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_what_a_run_needs_is_locked_with_hashes_apart_from_what_tests_need(platform: str) -> None:
    text = re.sub(r"\\\n", "", read(f"requirements/{platform}.txt"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    locked, everything = pins(f"requirements/{platform}.txt"), pins("requirements.txt")
    wanted = [*PROJECT["dependencies"]]
    for extra in ("documents", "serving", "remote", "plots"):
        wanted += PROJECT["optional-dependencies"][extra]
    names = {re.split(r"[\s<>=!~;\[]", each, maxsplit=1)[0].lower() for each in wanted}
    assert names - locked.keys() == set()
    assert names - everything.keys() == set()
    shared = locked.keys() & everything.keys()
    assert {n: locked[n] for n in shared} == {n: everything[n] for n in shared}
    assert {"pytest", "ruff", "mypy", "wandb", "mkdocs"} & locked.keys() == set()
    assert any(name.startswith("nvidia-") for name in locked) is (platform == "cuda")


def test_the_hooks_before_a_commit_are_those_of_the_check() -> None:
    (repo,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    commands = {hook["entry"].split()[0] for hook in repo["hooks"]}
    assert commands == {".venv/bin/ruff", ".venv/bin/mypy"}


def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if line[:1] != "#"))
    pairs = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest) for word, _, rest in pairs]


def test_the_container_is_built_from_what_there_is() -> None:
    found = instructions(read("Dockerfile"))
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in found} <= known
    let_in = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    for word, rest in found:
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source.removeprefix("./") in let_in, f"{source} is kept out by .dockerignore"
    everything = read("Dockerfile")
    wheel = WHEELS["smollm2-135m-instruct"]
    assert f"{wheel.distribution}=={wheel.version}" in everything
    for extra in re.findall(r'"\.\[(\w+)\]"', everything):
        assert extra in PROJECT["optional-dependencies"]
    assert [rest for word, rest in found if word == "USER"] == ["1000"]
    python = re.search(r"FROM python:(3\.\d+)", everything)
    assert python is not None
    assert python[1] in read(".github/workflows/ci.yml")


def test_every_module_that_the_map_names_exists() -> None:
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+\.py)`", read("CONTRIBUTING.md"))
    assert len(named) > 8
    for name in named:
        assert any((base / name).exists() for base in (ROOT, ROOT / "src" / "seal")), name
