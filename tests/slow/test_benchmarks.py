"""The benchmark runs from end to end on a tiny model and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def estep(out: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.inner_loop", "--quick", "--threads", "1", "--out", str(out)]
    subprocess.run(
        [*command, "--dtype", "float32", *options], check=True, cwd=ROOT, capture_output=True, timeout=280
    )
    found: dict[str, Any] = json.loads((out / "inner_loop.json").read_text())
    return found


def test_every_part_is_measured_and_reported(tmp_path: Path) -> None:
    result = estep(tmp_path, "--profile")
    measures = result["dtypes"]["float32"]["measures"]
    assert [m["unit"] for m in measures] == ["tokens/s"] * 3 + ["GFLOP/s", "answers/s", "tokens/s", "jobs/h"]
    for m in measures:
        assert 0 < m["ratio"]["low"] <= m["ratio"]["median"] <= m["ratio"]["high"]
    assert all(row["peak"] >= row["before"] > row["own"] > 0 for row in result["memory"])
    assert sum(row["share"] for row in result["dtypes"]["float32"]["profile"]) <= 1
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.count("| training |") == 3
    assert page.count("| training in one process of 1 threads |") == 1
    assert "img/inner-loop.png" in page
    assert (tmp_path / "img" / "inner-loop.png").read_bytes().startswith(b"\x89PNG")

    again = estep(tmp_path, "--only", "decode")
    assert len(again["dtypes"]["float32"]["measures"]) == len(measures)
    assert again["memory"] == result["memory"]


def test_the_few_shot_benchmark_compares_every_contender_in_one_run() -> None:
    command = [sys.executable, "-m", "benchmarks.few_shot", "--model", "tiny-random-llama", "--tasks", "2"]
    options = ["--rows", "3", "--edits", "2", "--repeats", "2", "--threads", "1"]
    done = subprocess.run(command + options, check=True, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    rates = {line.split("  ")[1]: float(line.split()[-2]) for line in lines if line.endswith("/s")}
    assert set(rates) == {"batched", "one process", "one by one", "PEFT", "read once", "read again"}
    assert min(rates.values()) > 0
    assert sum("times" in line for line in lines) == 4  # the first of each kind beside all others of it


def test_the_gpu_benchmark_goes_through_every_step_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=280)
    found = json.loads(out.read_text())
    checks, measures = ("versions", "probes", "equality", "devices"), ("training", "launches", "decoding")
    assert list(found) == [*checks, "shape", *measures, "job", "peft"]
    assert found["devices"]["equal"]
    assert not [name for name, step in found.items() if "failed" in step]
    assert all(probe["equal"] for probe in found["probes"]["grouped"].values())
    assert found["equality"]["float32"]["weights"] < 1e-4
    assert min(row["tokens/s"] for name, row in found["training"].items() if name != "seconds") > 0
    assert found["job"]["errors"] == []


def test_a_step_that_fails_leaves_the_others(tmp_path: Path) -> None:
    """Without the model's step the next have none, and say so."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--only", "training,probes,job"]
    subprocess.run([*command, "--out", str(out)], check=True, cwd=ROOT, capture_output=True, timeout=280)
    found = json.loads(out.read_text())
    assert "there is no model" in found["job"]["failed"]
    assert found["probes"]["grouped"]["product"]["equal"]


def test_flops_of_a_token_equal_a_count_by_hand() -> None:
    """Per layer 64·64 + 2·64·32 + 64·64 + 3·64·128 weights, two layers, a head of 64·260, LoRA of rank 2."""
    code = (
        "from benchmarks.measure import training_flops as f;from seal.models.load import load_model as l;"
        "from seal.records import TrainingConfig as R, TrainingSequence as T;"
        "print(f(l('tiny-random-llama').model, R(rank=2), [T((5,) * 10)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    frozen, head, labelled = 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128), 64 * 260, 0.9
    low_rank = 2 * 2 * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3)
    attention = 12 * 5 * (2 * 4 * 16)
    assert float(done.stdout) == pytest.approx(4 * (frozen + head * labelled) + 6 * low_rank + attention)


@pytest.mark.timeout(600)
def test_the_server_under_load(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serve_load", "--quick", "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=500)
    result = json.loads((tmp_path / "serve_load.json").read_text())
    for name in ("shared_and_alone", "shared_and_in_process"):
        found = result[name]
        assert found["compared"] == found["equal"] == 16
    assert result["front"]["busy"] == result["front"]["sent_at_once"] - result["front"]["capacity"]
    assert result["front"]["trained"] == result["front"]["capacity"] + result["front"]["memory_requests"]
    assert result["throughput"]["refusals"] > 0
    page = (tmp_path / "benchmarks.md").read_text()
    assert "16 of 16" in page
    assert page.count("|---|---|---|") == 1


@pytest.mark.parametrize("domain", ["knowledge", "arc"])
def test_the_drivers_share(domain: str) -> None:
    command = [sys.executable, "-m", "benchmarks.driver", "--jobs", "24", "--domain", domain]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=280)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["trained"] == found["jobs"] == 24
    assert found["cpu_ms_a_job"] > 0


def test_parts_that_are_not_there_are_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.inner_loop", "--quick", "--only", "train,e-step"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode != 0
    assert "there is no part 'e-step'; choose from train,answer,decode,estep" in done.stderr
