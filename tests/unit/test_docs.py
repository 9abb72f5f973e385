"""What the documents say exists: links, commands and their options, settings, the snippets of the README."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from seal.cli import main, verbs
from seal.config import load_config, preset_names
from seal.data.loader import load_tasks
from seal.plugins import load_object
from seal.yaml_lines import parse

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "AGENTS.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
#: Not commands of ours.
SHELL = {"make", "python3", "pip", "python"}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for block in blocks(path, "bash"):
            for line in block.splitlines():
                command = line.partition("#")[0].strip().replace("python train.py", "seal train")
                if command.startswith("seal "):
                    yield path.name, command


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert [t for t in targets if "://" not in t and not (path.parent / t).exists()] == []
    named = re.findall(r"`((?:src|docs|tests|experiments|general-knowledge)/[\w./-]+)`", text)
    assert [n for n in named if not (ROOT / n).exists()] == []
    assert not re.search(r"install [^\n`]*[' ]seal\[", text)  # another project has that name on the index


def test_what_it_takes_is_said_the_same_everywhere() -> None:
    """Memory and disk, where they are named."""
    texts = [
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/install.md", "Makefile")
    ]
    for pattern in (
        r"([\d.]+) GB of\s+memory",
        r"\(([\d.]+) GB with `inner\.workers: 1`\)",
        r"and ([\d.]+) GB of disk",
        r"([\d.]+) GB in all",
        r"([\d.]+) GB(?: \||; about two minutes| of pinned packages)",
    ):
        found = [set(re.findall(pattern, " ".join(text.split()))) for text in texts]
        said = [each for each in found if each]
        assert len(said) > 1, pattern
        common = set.intersection(*said)
        assert common, (pattern, said)


def test_commands_and_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(commands())
    assert len(found) > 8
    for document, command in found:
        _, verb, *words = command.split()
        assert verb in verbs(), f"{document}: {command}"
        assert main([verb, "--help"]) == 0
        help_text = capsys.readouterr().out
        for word in words:
            if word.startswith("--"):
                assert re.search(rf"{word}\b", help_text), f"{document}: {command}"
        if "--preset" in words:
            assert words[words.index("--preset") + 1] in preset_names()


def test_every_setting_that_is_named_exists() -> None:
    sections = "inner|sft|generation|evaluation|grader|data_config"
    schema = load_config().model_dump()
    for path in DOCUMENTS:
        for section, name in re.findall(rf"`({sections})\.([a-z_]+)", path.read_text(encoding="utf-8")):
            assert name in schema[section], f"{path.name}: {section}.{name}"


def test_the_readme_s_configs_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, *_ = blocks(README, "json")
    (tmp_path / "passages.json").write_text(data)
    assert len(load_tasks("passages.json")) == len(json.loads(data)) == 2
    configs = blocks(README, "yaml")
    assert len(configs) == 3
    for text in configs:
        parse(text, "README.md")
        (tmp_path / "config.yaml").write_text(text)
        load_config("config.yaml")


def test_the_readme_s_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_seal.py").write_text(blocks(README, "python")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_seal", raising=False)
    for text in blocks(README, "yaml"):
        for path in re.findall(r"my_seal:\w+", text):
            assert callable(load_object(path))
            load_object(path)()
