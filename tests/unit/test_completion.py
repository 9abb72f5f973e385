"""Completion, tried in a real shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from seal.cli import main, verbs
from seal.config import preset_names


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def complete(file: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    program = (
        f'source {file}; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _seal; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    command = ["bash", "-c", program, "bash", *words]
    return set(
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=file.parent).stdout.split()
    )


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "seal.bash"
    file.write_text(script("bash", capsys))
    assert complete(file, "seal", "") == set(verbs())
    assert complete(file, "seal", "tr") == {"train", "train-sft"}
    assert complete(file, "seal", "train", "--max") == {"--max-iterations"}
    assert complete(file, "seal", "train", "--preset", "") == set(preset_names())
    assert complete(file, "seal", "presets", "few") == {"few_shot_demo", "few_shot_learning_arc"}
    assert complete(file, "seal", "arc", "sh") == {"show"}
    assert complete(file, "seal", "completion", "f") == {"fish"}
    (tmp_path / "a file.yaml").touch()
    assert complete(file, "seal", "train", "--config", "se") == {"seal.bash"}


def test_zsh_gets_the_same_by_way_of_bash(capsys: pytest.CaptureFixture[str]) -> None:
    bash, zsh = script("bash", capsys), script("zsh", capsys)
    assert zsh.endswith(bash)
    assert "bashcompinit" in zsh


def test_fish_names_every_command_and_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = script("fish", capsys)
    for verb in verbs():
        assert f"-a {verb} -d " in text
    assert "complete -c seal -n '__fish_seen_subcommand_from train' -l dry-run\n" in text
    if shutil.which("fish"):
        (tmp_path / "seal.fish").write_text(text)
        subprocess.run(["fish", "--no-execute", tmp_path / "seal.fish"], check=True)


def test_another_shell_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err
