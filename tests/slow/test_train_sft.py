"""The SFT program: from `build-sft` lines to a checkpoint, in one process and in two."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seal.cli import main
from seal.errors import ModelError
from seal.launch import Shard, Together
from seal.models.adapter_reader import read_adapter
from seal.models.load import load_model
from seal.models.stacked import adapter_of
from seal.recipes.train_sft import SFTJob, read_pairs
from seal.records import TrainingConfig
from seal.restem import ReSTEMOptimizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = ["--rank", "4", "--alpha", "8", "--batch-size", "4", "--epochs", "3", "--learning-rate", "1e-2"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sft.jsonl"
    lines = [{"prompt": f"Write about {n}:\n", "completion": f"- {n} is number {n * n}."} for n in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=1200, env=environment
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(str(folder), "cpu", "float32").model.state_dict())


def test_one_process_is_the_m_step(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--model", "tiny-random-qwen2", "--device", "cpu", "--seed", "3"]
    assert main(["train-sft", str(data), *base, "--output-dir", str(tmp_path / "out"), *SMALL]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(tmp_path / "out")
    assert "step 3 of 3" in printed.err

    training = TrainingConfig(rank=4, alpha=8.0, batch_size=4, epochs=3, learning_rate=1e-2)
    loaded = load_model("tiny-random-qwen2", "cpu")
    update = ReSTEMOptimizer(training).update(loaded, read_pairs(data), tmp_path / "same", seed=3)
    told = json.loads((tmp_path / "out/training.json").read_text())
    assert told["version"] == update.version == load_model(str(tmp_path / "out")).version
    assert told["losses"] == list(update.losses)
    assert (told["n"], told["base"], told["processes"]) == (4, loaded.version, 1)


@pytest.mark.parametrize("more", [[], ["--fsdp2"]])
def test_two_processes_give_what_one_gives(data: Path, tmp_path: Path, more: list[str]) -> None:
    """All four pairs are in every step, so only the sharing of the work and of the weights differs."""
    base = ["--model", "tiny-random-llama", "--device", "cpu", *SMALL]
    one = run("seal", "train-sft", str(data), *base, "--output-dir", str(tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    arguments = [str(data), *base, "--output-dir", str(tmp_path / "two"), "--processes", "2", *more]
    assert main(["train-sft", *arguments]) == 0
    told = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two")]
    assert [t["processes"] for t in told] == [1, 2]
    assert told[1]["losses"] == pytest.approx(told[0]["losses"], abs=1e-5)
    assert [t["sharded"] for t in told] == [False, bool(more)]
    start = dict(load_model("tiny-random-llama", "cpu").model.state_dict())
    alone, together = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = sum((alone[name] - start[name]).norm() for name in start)
    apart = sum((alone[name] - together[name]).norm() for name in start)
    assert moved > 1
    assert apart < (1e-5 if more else 1e-3) * moved


@pytest.mark.parametrize("shard", ["off", "fsdp2"])
def test_the_frameworks_m_step_in_two_processes_is_the_one_of_one(
    shard: Shard, data: Path, tmp_path: Path
) -> None:
    """Checkpoint and stacked adapter too; the policy that the driver holds stays as it was."""
    training = TrainingConfig(rank=4, alpha=8.0, batch_size=4, epochs=3, learning_rate=1e-2)
    policy, pairs, steps = load_model("tiny-random-llama", "cpu"), read_pairs(data), []
    start = {name: w.clone() for name, w in policy.model.state_dict().items()}
    one = ReSTEMOptimizer(training, adapters=True).update(policy, pairs, tmp_path / "one", seed=3)
    two = ReSTEMOptimizer(training, together=Together(2, shard), adapters=True).update(
        policy, pairs, tmp_path / "two", seed=3, progress=lambda *at: steps.append(at)
    )
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert steps[-1] == (3, 3)
    assert all(torch.equal(w, start[name]) for name, w in policy.model.state_dict().items())
    alone, together = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = sum((alone[name] - start[name]).norm() for name in start)
    apart = sum((alone[name] - together[name]).norm() for name in start)
    assert moved > 1
    assert apart < (1e-5 if shard == "fsdp2" else 1e-3) * moved
    assert read_adapter(adapter_of(tmp_path / "two")).rank == 4


def test_processes_that_fail_say_why_once(data: Path, tmp_path: Path) -> None:
    policy = load_model("tiny-random-llama", "cpu")
    training = TrainingConfig(rank=4, batch_size=4, learning_rate=1e-2)
    gone = replace(policy, source=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match=r"there is no model folder .*gone.*training in 2 processes failed"):
        ReSTEMOptimizer(training, together=Together(2)).update(gone, read_pairs(data), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_every_field_of_a_job_is_an_option_with_the_same_default() -> None:
    from seal.cli.train_sft import train_sft

    options = inspect.signature(train_sft).parameters
    job = SFTJob("sft.jsonl", "m", "out", seed=42)
    values = dict(zip(job.arguments()[1::2], job.arguments()[2::2], strict=True))
    assert job.arguments()[0] == "sft.jsonl"
    for name, value in values.items():
        default = options[name.removeprefix("--").replace("-", "_")].default
        assert default is inspect.Parameter.empty or str(default) == value, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--rank", "0"], "--rank: must be greater than or equal to 1, given 0"),
        (["--learning-rate", "nan"], "--learning-rate: "),
        (["--schedule", "steps"], "--schedule: must be 'constant', 'linear' or 'cosine', given 'steps'"),
        (["--targets", "c_attn"], "'c_attn' names no linear layer"),
        (["--model", "no/such"], "no/such"),
        (["--zero3", "--device", "cpu"], "ZeRO-3"),
    ],
)
def test_bad_settings_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    out = str(tmp_path / "out")
    given = ["--model", "tiny-random-llama", "--device", "cpu", "--output-dir", out, *change]
    assert main(["train-sft", str(data), *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_data_and_an_existing_folder_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "tiny-random-llama", "--output-dir"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    assert main(["train-sft", str(data), *given, str(tmp_path / "full")]) == 2
    assert "full exists and is not empty" in capsys.readouterr().err
    for text, message in [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\n', "sft.jsonl, line 2: no"),
        ('{"prompt": "a", "completion": "b"}\n\nnot json\n', "sft.jsonl, line 3:"),
        ("\n", "there is nothing to train on"),
    ]:
        data.write_text(text)
        assert main(["train-sft", str(data), *given, str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
