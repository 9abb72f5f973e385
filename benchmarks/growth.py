"""How speed and memory grow with the number of adapters and the length of the sequences."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Spread, Work, race
from benchmarks.peers import TunedPeft
from benchmarks.workload import uniform_jobs
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.loop import default_token_budget
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel, load_model
from seal.records import AdaptJob, TrainingConfig

#: Tokens of one sequence of the published self-edits, on average.
TYPICAL_LENGTH = 51


def adapter_growth(runtime: Runtime, counts: Sequence[int], rank: int, rounds: int) -> list[dict[str, Any]]:
    """Training tokens a second with 1, 2, 4 ... adapters in the batch, one typical sequence each a step."""
    vocabulary = runtime.model.get_input_embeddings().num_embeddings
    contenders: dict[str, Work] = {}
    for n in counts:
        jobs = uniform_jobs(n, TYPICAL_LENGTH, rank, vocabulary, steps=2)
        contenders[str(n)] = partial(_train, runtime, jobs, n)
    contenders[str(counts[0])]()
    rates = race(contenders, rounds, runtime.device)
    return [{"adapters": n, "tokens_per_s": Spread.of(rates[str(n)]).median} for n in counts]


def length_growth(
    runtime: Runtime, copy: LoadedModel, lengths: Sequence[int], rank: int, rounds: int
) -> list[dict[str, Any]]:
    """Training tokens a second of eight adapters, and of PEFT alone, by the length of the sequences."""
    vocabulary = runtime.model.get_input_embeddings().num_embeddings
    peer = TunedPeft(copy, TrainingConfig(rank=rank, alpha=2.0 * rank))
    found = []
    for length in lengths:
        jobs = uniform_jobs(8, length, rank, vocabulary)
        contenders: dict[str, Work] = {
            "ours": partial(_train, runtime, jobs, 8),
            "peft": partial(_one_by_one, peer, jobs),
        }
        peer.fit(jobs[0])
        rates = race(contenders, rounds, runtime.device)
        ours, theirs = (Spread.of(rates[name]).median for name in ("ours", "peft"))
        found.append({"length": length, "tokens_per_s": ours, "peft_tokens_per_s": theirs})
    return found


def memory_growth(
    model: str, dtype: str, counts: Sequence[int], rank: int, threads: int
) -> list[dict[str, Any]]:
    """Peak memory of training N adapters at once, each N in a process of its own."""
    found = []
    root = Path(__file__).parents[1]
    for n in counts:
        command = [sys.executable, "-m", "benchmarks.growth", model, dtype, str(n), str(rank), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def _train(runtime: Runtime, jobs: Sequence[AdaptJob], slots: int) -> int:
    done = list(train(runtime, iter(jobs), slots, default_token_budget(runtime.device)))
    assert all(t.error is None for t in done)
    return sum(t.tokens for t in done)


def _one_by_one(peer: TunedPeft, jobs: Sequence[AdaptJob]) -> int:
    return sum(map(peer.fit, jobs))


def _memory(model: str, dtype: str, n: int, rank: int, threads: int) -> dict[str, Any]:
    """MiB of this process before training, at its peak, and of the adapters' own state."""
    torch.set_num_threads(threads)
    loaded = load_model(model, "cpu", dtype)
    runtime = Runtime.of(loaded.model)
    vocabulary = runtime.model.get_input_embeddings().num_embeddings
    jobs = uniform_jobs(n, TYPICAL_LENGTH, rank, vocabulary, steps=2)
    _train(runtime, jobs[:1], 1)
    before = _peak_mib()
    _train(runtime, jobs, n)
    own = (
        Adapter(runtime, jobs[0].training, 0).weights.numel() * 4 * 4
    )  # weights, gradient, Adam's two moments
    return {"adapters": n, "rank": rank, "before": before, "peak": _peak_mib(), "own": n * own / 2**20}


def _peak_mib() -> float:
    """Largest resident size so far. On Linux of this program alone: `getrusage` counts the parent's too."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    return next(float(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    name, kind, *numbers = sys.argv[1:]
    print(json.dumps(_memory(name, kind, *map(int, numbers))))
