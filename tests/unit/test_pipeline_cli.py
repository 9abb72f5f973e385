"""The pipeline's verbs as a person meets them: what is said first, and what comes next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seal.cli import main
from seal.launch import CONFIGS

TINY = ["--local", "tiny-random-llama", "--dtype", "float32", "--device", "cpu"]
SMALL = ["--lora-rank", "2", "--epochs", "1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    record = {
        "title": "T",
        "context": "A passage.",
        "questions": [{"question": "What?", "answer": "A passage"}],
        "completions": ["It is one.", "It is a passage."],
        "prompt": "Say it.",
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record, {**record, "title": "U"}]))
    return path


@pytest.mark.parametrize("verb", ["query", "cpt"])
def test_data_is_read_before_a_server_is_waited_for(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--data", str(tmp_path / "none.json"), "--out", str(tmp_path / "out.json")]
    assert main([verb, *files, "--server", str(tmp_path / "server.json"), "--wait", "100000"]) == 2
    assert "none.json: no such file" in capsys.readouterr().err


def test_every_step_names_the_next_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.json"
    assert main(["query", "--data", str(data), "--out", str(out), "--eval-times", "1", *SMALL, *TINY]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out)
    assert f"next: seal build-sft {out}" in said.err
    assert main(["build-sft", str(out)]) == 0
    said = capsys.readouterr()
    made = Path(said.out.splitlines()[-1])
    assert f"next: seal train-sft {made} --model MODEL --output-dir FOLDER" in said.err
    assert len(made.read_text().splitlines()) == 2


def test_a_tuned_model_is_saved_without_a_progress_bar(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = ["--data", str(data), "--out", str(tmp_path / "cpt.json"), "--save", str(tmp_path / "model")]
    assert main(["cpt", *files, "--full", "--n", "1", "--k", "1", *TINY]) == 0
    assert "Writing model shards" not in capfd.readouterr().err


def test_zero_3_is_not_dropped_in_silence_where_there_is_no_gpu(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "sft.jsonl"
    pairs.write_text('{"prompt": "a", "completion": "b"}\n')
    given = ["--model", "tiny-random-llama", "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    assert main(["train-sft", str(pairs), *given, "--zero3"]) == 2
    assert (
        "ZeRO-3 cuts the base up over GPUs, and there is none. Use fsdp2, or leave" in capsys.readouterr().err
    )


def test_accelerate_reads_the_zero_3_config() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(CONFIGS["zero3"]))
    assert config.distributed_type == DistributedType.DEEPSPEED
    assert config.deepspeed_config["zero_stage"] == 3
    assert (config.mixed_precision, config.num_machines) == ("bf16", 1)


def test_resume_goes_on_with_a_step_as_with_any_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    files = ["--data", data.name, "--out", "run.json", "--eval-times", "1"]
    assert main(["query", *files, *SMALL, *TINY]) == 0
    result, rows = Path("run.json").read_text(), Path("run.run/journal.jsonl").read_text()
    Path("run.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", str(data.parent / "run.run")]) == 0
    assert (data.parent / "run.json").read_text() == result
    assert (data.parent / "run.run/journal.jsonl").read_text() == rows, "nothing was measured again"
