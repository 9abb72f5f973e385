"""Bad input through the command line: one line with cause and fix, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seal.cli import main
from seal.run.journal import Journal

Output = pytest.CaptureFixture[str]

GOOD = {
    "title": "Vell",
    "context": "Vell lies on the river Osk.",
    "questions": [{"question": "Where does Vell lie?", "answer": "on the Osk"}],
}
QUICK = {
    "max_outer_iterations": 1,
    "tasks_per_iteration": 1,
    "generation.max_new_tokens": 6,
    "evaluation.max_new_tokens": 4,
    "inner.epochs": 1,
}


def sets(overrides: dict[str, Any]) -> list[str]:
    return [part for key, value in overrides.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def train(folder: Path, **overrides: Any) -> list[str]:
    changes = sets(QUICK | {key.replace("__", "."): value for key, value in overrides.items()})
    return ["train", "--preset", "test", "--output-dir", str(folder), "--log-level", "ERROR", *changes]


def refused(capsys: Output, command: list[str], *words: str) -> str:
    """The one line that a command the user can put right ends with; it has a cause and a fix."""
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert ". " in error or " (" in error, "a fix follows the cause"
    return error


# --- data -----------------------------------------------------------------------------------------------

DATA: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "missing file": ("absent.json", None, ("absent.json: no such file", "Check the path")),
    "malformed JSON": ("a.json", '[\n  {"title": "a",,}\n]', ("a.json, line 2, column 17",)),
    "malformed JSONL": ("a.jsonl", json.dumps(GOOD) + "\n{", ("a.jsonl, line 2",)),
    "empty data set": ("a.json", "[]", ("a.json: the data set is empty", "Add at least one passage")),
    "empty file": ("a.json", "", ("a.json, line 1",)),
    "no questions": (
        "a.json",
        json.dumps([GOOD | {"questions": []}]),
        ("record 1: the passage has no questions",),
    ),
    "no answer": (
        "a.json",
        json.dumps([GOOD, GOOD | {"questions": [{"question": "Who?"}]}]),
        ("record 2, question 1: 'Who?' has no answer", 'Give it "answer"'),
    ),
    "no passage": ("a.json", json.dumps([{"title": "x"}]), ("record 1: no passage in it",)),
    "not UTF-8": ("a.json", None, ("a.json: byte 3 is not UTF-8",)),
    "unknown ending": ("a.xyz", "a,b", ("unknown kind of file '.xyz'", ".jsonl")),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case: str, tmp_path: Path, capsys: Output) -> None:
    name, text, words = DATA[case]
    if text is not None:
        (tmp_path / name).write_text(text)
    elif case == "not UTF-8":
        (tmp_path / name).write_bytes(b'[{"\xe9\xff"}]')
    refused(capsys, train(tmp_path / "run", data_config__path=str(tmp_path / name)), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "overrides", "cause"),
    [
        (400, {"max_length": 300}, "tokens, more than 300"),
        (6000, {"max_length": 9000, "data_config__options": {}}, "4096"),
    ],
)
def test_a_passage_longer_than_the_model_reads(
    words: int, overrides: dict[str, Any], cause: str, tmp_path: Path, capsys: Output
) -> None:
    """Refused before anything is computed, with the task's name."""
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD | {"title": "Long", "context": "So. " * words}]))
    command = train(tmp_path / "run", data_config__path=str(tmp_path / "a.json"), **overrides)
    refused(capsys, command, "task 'long-", cause, "Split the passage")
    assert not (tmp_path / "run").exists()


def test_an_unknown_data_set(tmp_path: Path, capsys: Output) -> None:
    command = train(tmp_path / "run", data_config__dataset_name="sqaud")
    refused(capsys, command, "no data set is called 'sqaud'", "builtin")
    assert not (tmp_path / "run").exists()


# --- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", ".nan"),
        ("learning_rate", "-1e-3"),
        ("learning_rate", "0"),
        ("lora_alpha", ".inf"),
        ("lora_r", "0"),
        ("lora_dropout", "1.0"),
        ("inner.epochs", "-1"),
        ("inner.batch_size", "0"),
        ("inner.warmup_ratio", "2"),
        ("sft.learning_rate", ".nan"),
        ("generation.temperature", "-0.1"),
        ("generation.top_p", "0"),
        ("reward_threshold", ".nan"),
        ("samples_per_iteration", "none"),
        ("seed", "-1"),
        ("keep_k", "9"),
        ("lora_r", "1" + 400 * "0"),
        ("lora_alpha", "1" + 400 * "0"),
        ("seed", "1" + 400 * "0"),
        ("inner.epochs", "1" + 400 * "0"),
        ("inner.slots", "1" + 400 * "0"),
        ("max_length", "1" + 400 * "0"),
        ("max_outer_iterations", "1" + 400 * "0"),
        ("data_config.max_samples", "0"),
    ],
)
def test_hyper_parameters(setting: str, value: str, tmp_path: Path, capsys: Output) -> None:
    error = refused_or_listed(capsys, [*train(tmp_path / "run"), "--set", f"{setting}={value}"])
    assert setting in error
    assert not (tmp_path / "run").exists()


def refused_or_listed(capsys: Output, command: list[str]) -> str:
    """Settings are checked all at once; a single mistake is still a single line."""
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("c.yaml", "lora_r: 4\nlora_alpha: [\n", "c.yaml:3: malformed YAML"),
        ("c.yaml", "lora_r: 4\n\tseed: 1\n", "c.yaml:2: malformed YAML"),
        ("c.json", '{"lora_r": 4,\n "seed": }', "c.json:2: malformed JSON"),
        ("c.yaml", "- lora_r\n", "c.yaml:1: holds list, not settings"),
        ("c.yaml", "lora_rank: 4\n", "c.yaml:1: unknown setting 'lora_rank'"),
    ],
)
def test_config_files(name: str, text: str, where: str, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / name).write_text(text)
    command = ["train", "--config", str(tmp_path / name), "--output-dir", str(tmp_path / "run")]
    assert where in refused_or_listed(capsys, command)
    assert not (tmp_path / "run").exists()


# --- models and the network -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"model_name": "somebody/absent"},
            ("the Hugging Face hub cannot be reached", "hf download somebody/absent"),
        ),
        ({"model_name": "./absent"}, ("there is no model folder ./absent", "Check the path")),
        ({"data_config__dataset_name": "squad"}, ("cannot be had from the hub", "builtin")),
        ({"device": "cuda:31"}, ("device 'cuda:31' is not available here", "device: cpu")),
        ({"inner__targets": ["q_prox"]}, ("LoRA target 'q_prox' names no linear layer",)),
        ({"data_config__prompt_type": "poem"}, ("unknown prompt_type 'poem'", "implications")),
        ({"data_config__options": {"chat": True}}, ("no chat template", "false")),
        ({"data_config__options": {"colour": 1}}, ("data_config.options", "colour")),
    ],
)
def test_what_cannot_be_had(
    overrides: dict[str, Any], words: tuple[str, ...], tmp_path: Path, capsys: Output
) -> None:
    refused(capsys, train(tmp_path / "run", **overrides), *words)


def test_a_judge_without_its_key(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEAL_TEST_KEY", raising=False)
    overrides = {"grader__kind": "judge", "grader__model": "m", "grader__api_key_env": "SEAL_TEST_KEY"}
    refused(capsys, train(tmp_path / "run", **overrides), "SEAL_TEST_KEY is not set", "Export it")
    assert not (tmp_path / "run").exists()


# --- folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["http://user:hunter2@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?api_key=hunter2"]
)
def test_a_password_in_an_address_is_refused_and_shown_nowhere(
    address: str, tmp_path: Path, capsys: Output
) -> None:
    judge = {"grader.kind": "judge", "grader.base_url": address}
    error = refused_or_listed(capsys, [*train(tmp_path / "run"), *sets(judge)])
    assert "grader.base_url: must hold no name, password or key" in error
    assert "hunter2" not in error
    assert not (tmp_path / "run").exists()


def test_an_existing_run_and_other_files_are_left_alone(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "run"
    assert main(train(folder)) == 0
    before = (folder / "journal.jsonl").read_bytes()
    refused(capsys, train(folder), "holds a run already", f"seal resume {folder}")
    assert (folder / "journal.jsonl").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    refused(
        capsys, train(tmp_path / "other"), "is not empty, it holds thesis.txt", "Choose another --output-dir"
    )
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    refused(capsys, train(tmp_path / "other" / "thesis.txt"), "a file is in the way")


def test_an_unwritable_output_folder(tmp_path: Path, capsys: Output) -> None:
    refused(capsys, train(Path("/proc/seal/run")), "cannot be written", "Choose another --output-dir")


def test_a_damaged_run_says_what_is_damaged(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "run"
    assert main(train(folder, keep="best_of_k", reward="log_likelihood")) == 0
    resume = ["resume", str(folder), "--log-level", "ERROR"]
    journal, weights = folder / "journal.jsonl", folder / "checkpoints" / "policy-1" / "model.safetensors"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], lines[3].replace(b"0", b"1", 1), *lines[4:]]))
    refused(capsys, resume, "journal.jsonl:4: the line is corrupt", "Restore")
    journal.write_bytes(b"".join(lines))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(capsys, resume, "model.safetensors is damaged", "Restore")
    weights.write_bytes(content)
    shutil.move(folder / "config.yaml", tmp_path / "config.yaml")
    refused(capsys, resume, "not a run folder, config.yaml is missing")
    shutil.move(tmp_path / "config.yaml", folder / "config.yaml")
    assert main(resume) == 0


# --- a full disk ----------------------------------------------------------------------------------------

FULL_DISK = """
set -u
mount -t tmpfs -o size=$1 tmpfs "$2"
"$3" -m seal train --preset test --output-dir "$2/run" --log-level ERROR "${@:4}"; echo "train $?"
find "$2" -name '*.part' -o -name '.policy*'
mount -o remount,size=64m "$2"
[ -d "$2/run" ] || exit 0
"$3" -m seal resume "$2/run" --log-level ERROR; echo "resume $?"
cp "$2/run/journal.jsonl" "$2/../journal.jsonl"
"""


@pytest.mark.e2e
@pytest.mark.parametrize(
    "size", ["4k", *(pytest.param(size, marks=pytest.mark.slow) for size in ("24k", "120k"))]
)
def test_a_full_disk_loses_nothing(size: str, tmp_path: Path) -> None:
    """A real small file system fills up: as the run begins, in the journal, in the checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs more rights")
    arguments = [
        size,
        str(disk),
        sys.executable,
        *sets(QUICK | {"keep": "best_of_k", "reward": "log_likelihood"}),
    ]
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", FULL_DISK, "bash", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"WANDB_SILENT": "true"},
    )
    said = done.stdout.splitlines()
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "train 2" in said, done.stderr
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert "disk is full" in errors[0] or "No space left on device" in errors[0]
    assert "ree some space" in errors[0] or "free disk space" in errors[0].lower()
    assert not [line for line in said if line.startswith(str(disk)) and line != str(disk)], (
        "nothing half-written"
    )
    if size == "4k":
        assert "resume 2" not in said
        return
    assert "resume 0" in said, done.stderr
    summary = [row for row in Journal.read(tmp_path / "journal.jsonl") if row.kind == "summary"]
    assert len(summary) == 1
