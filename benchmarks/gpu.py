"""The engine on one GPU, beside tuned PEFT and `generate`, in one command: `python -m benchmarks.gpu`.

Needs no network, no data and no checkpoint: the 7B model has random weights. The JSON is written after every
step; one that fails, runs out of memory or past its deadline is written down as that, and the next begins.
With `--quick` a tiny model goes through everything, on the CPU too.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_probes
from benchmarks.measure import gemm_peak, rate, training_flops
from benchmarks.peers import TunedPeft, generate
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.decode import Decoder, Request
from seal.inner.loop import LocalInnerLoop
from seal.inner.memory import capacity, fitting, footprint, free_bytes
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel, load_model
from seal.models.lora import LoRAWrapper
from seal.records import AdaptJob, EvalPrompt, Sampling, TrainingConfig, TrainingSequence

#: The paper's inner loop: sequences a job, their shortest and longest, questions, tokens of an answer.
SEQUENCES, SHORTEST, LONGEST, QUESTIONS, ANSWER = 9, 25, 75, 5, 48


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    device: torch.device
    quick: bool
    counts: tuple[tuple[int, int], ...] = ((1, 32), (8, 32), (24, 32), (32, 32), (64, 8))
    """(adapters at once, rank)."""
    rounds: int = 6
    rows: int = 32
    epochs: int = 10


@dataclass(slots=True)
class State:
    """What the steps hand on."""

    plan: Plan
    shape: LoadedModel | None = None
    peak: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> LoadedModel:
        """The model of the long measures. Raises where its step failed."""
        if self.shape is None:
            raise RuntimeError("there is no model: its step did not end well")
        return self.shape


def versions(state: State) -> dict[str, Any]:
    """Of what this is."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "device": str(state.plan.device)}
    for name in ("torch", "transformers", "peft", "triton"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if state.plan.device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"gpu": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability()}
        found |= {"memory": total, "free": free, "cuda": torch.version.cuda}
    state.peak = gemm_peak(_dtype(state.plan), state.plan.device, 0.2 if state.plan.quick else 2.0)
    return found | {"matrix product, FLOP/s": state.peak}


def probes(state: State) -> dict[str, Any]:
    """The kernels that the engine leans on."""
    found: dict[str, Any] = {}
    for name, probe in (("grouped", gpu_probes.grouped_products), ("attention", gpu_probes.attention)):
        try:
            found[name] = probe(state.plan.device)
        except (RuntimeError, NotImplementedError) as error:
            found[name] = {"error": str(error).splitlines()[0]}
    return found


def equality(state: State) -> dict[str, Any]:
    """Learnt weights and losses of three jobs at once, beside PEFT's one by one: relative difference."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        loaded = load_model("tiny-random-llama", device=str(state.plan.device), dtype=dtype)
        config = TrainingConfig(rank=8, alpha=16, epochs=2, batch_size=2, learning_rate=1e-3)
        jobs = _jobs(3, config, 250, sequences=3)
        ours = {t.job.id: t for t in train(Runtime.of(loaded.model), jobs, 3, 512)}
        losses, off, size = 0.0, 0.0, 0.0
        for job in jobs:
            with LoRAWrapper.from_config(loaded.model, config) as peft:
                peft.reset(job.seed)
                theirs = peft.fit(job.sequences, config, job.seed)
                factors = peft.factors()
            done = ours[job.id]
            assert done.adapter is not None
            losses = max(losses, *(abs(a - b) / b for a, b in zip(done.losses, theirs, strict=True)))
            for name, pair in done.adapter.factors.items():
                for mine, reference in zip(pair, factors[name], strict=True):
                    off += float((mine.cpu() - reference).square().sum())
                    size += float(reference.square().sum())
        found[dtype] = {"losses": losses, "weights": (off / size) ** 0.5}
    return found


def shape(state: State) -> dict[str, Any]:
    """A 7B model (Qwen2.5's shape) of random weights on the device; tiny with --quick."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tiny = load_model("tiny-random-llama", device="cpu")
    config = Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152064, max_position_embeddings=32768,
    )  # fmt: skip
    if state.plan.quick:
        config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2})
        config.update(
            {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 260, "layer_types": None}
        )
        config = Qwen2Config(**{k: v for k, v in config.to_dict().items() if v is not None})
    torch.manual_seed(0)
    was = torch.get_default_dtype()
    torch.set_default_dtype(_dtype(state.plan))
    try:
        with torch.device(state.plan.device):
            model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(was)
    model.generation_config.eos_token_id = None
    state.shape = replace(tiny, model=model, source="random weights")
    weights = sum(p.numel() for p in model.parameters())
    need = footprint(model, TrainingConfig(rank=32), state.plan.device, model.dtype)
    fits = fitting(need, free_bytes(state.plan.device), state.plan.device)
    return {"weights": weights, "need": _plain(need), "auto": _plain(fits), "sum": need.total(fits)}


def training(state: State) -> dict[str, Any]:
    """Tokens a second and peak memory with N adapters at once."""
    found = {}
    for n, rank in state.plan.counts:
        found[f"{n} × rank {rank}"] = _guarded(lambda n=n, rank=rank: _training(state, n, rank))  # type: ignore[misc]
        _free(state.plan.device)
    return found


def _training(state: State, n: int, rank: int) -> dict[str, Any]:
    plan, model = state.plan, state.model.model
    runtime = Runtime.of(model)
    config = TrainingConfig(rank=rank, alpha=2.0 * rank, steps=plan.rounds, batch_size=1)
    need = footprint(model, config, plan.device, model.dtype)
    most = capacity(need, free_bytes(plan.device), plan.device, n, "auto")
    runtime.recompute = most.recompute
    jobs = _jobs(n, config, runtime.vocabulary)
    list(train(runtime, _jobs(n, replace(config, steps=1), runtime.vocabulary), n, most.token_budget))
    _reset_peak(plan.device)
    tokens = sum(len(row.ids) for job in jobs for row in job.sequences) / SEQUENCES * plan.rounds
    seen = 0

    def work() -> float:
        nonlocal seen
        done = list(train(runtime, jobs, n, most.token_budget))
        errors = [str(t.error) for t in done if t.error is not None]
        if errors:
            raise RuntimeError(errors[0])
        seen = sum(t.tokens for t in done)
        return float(seen)

    speed = rate(work, plan.device)
    flops = training_flops(model, config, [row for job in jobs for row in job.sequences])
    return {
        "tokens/s": speed, "share of the matrix product": speed * flops / state.peak,
        "s a round": tokens / speed / plan.rounds, "peak bytes": _peak(plan.device),
        "sum of bytes": need.total(most), "token budget": most.token_budget, "recompute": most.recompute,
        "tokens": seen,
    }  # fmt: skip


def launches(state: State) -> dict[str, Any]:
    """Kernels of a round of eight adapters, and the share of its time in which one runs. Only on CUDA."""
    if state.plan.device.type != "cuda":
        return {
            "not measured": "kernels are launched on a GPU alone; tests/unit/test_launches.py counts them"
        }
    from torch.profiler import ProfilerActivity, profile

    runtime, config = Runtime.of(state.model.model), TrainingConfig(rank=32, steps=2, batch_size=1)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        started = time.perf_counter()
        list(train(runtime, _jobs(8, config, runtime.vocabulary), 8, 8192))
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    kernels = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(e.device_time_total for e in kernels) / 1e6
    return {"kernels a round": len(kernels) / 2, "busy share": busy / seconds}


def decoding(state: State) -> dict[str, Any]:
    """Tokens a second with a row for each of several adapters, bare, and by transformers' `generate`."""
    plan, loaded = state.plan, state.model
    runtime = Runtime.of(loaded.model)
    rng = random.Random(1)
    prompts = [tuple(rng.randrange(4, 250) for _ in range(rng.randint(30, 60))) for _ in range(plan.rows)]
    adapters = [Adapter(runtime, TrainingConfig(rank=32), i) for i in range(min(8, plan.rows))]
    sampling = Sampling(temperature=0.0, max_new_tokens=ANSWER)
    decoder = Decoder(runtime, lambda ids: "", frozenset(), max_rows=256, token_budget=16384)

    def ours(adapted: bool) -> float:
        requests = [
            Request(p, adapters[i * len(adapters) // len(prompts)] if adapted else None, sampling)
            for i, p in enumerate(prompts)
        ]
        return float(len(decoder.run(requests)) * ANSWER)

    found = {}
    for name, work in {
        "with adapters": lambda: ours(True),
        "bare": lambda: ours(False),
        "generate": lambda: float(generate(loaded.model, prompts, ANSWER, 0) * ANSWER),
    }.items():
        work()
        found[f"{name}, tokens/s"] = rate(work, plan.device)
    return found


def job(state: State) -> dict[str, Any]:
    """Whole jobs of the official make-up: training, answers with and without the adapter; seconds each."""
    plan, loaded = state.plan, state.model
    n, rank = (8, 32) if plan.quick else (32, 32)
    config = TrainingConfig(
        rank=rank, alpha=2.0 * rank, epochs=1 if plan.quick else plan.epochs, batch_size=1
    )
    need = footprint(loaded.model, config, plan.device, loaded.model.dtype)
    most = fitting(need, free_bytes(plan.device), plan.device)
    rng = random.Random(2)
    sampling = Sampling(temperature=0.0, max_new_tokens=ANSWER)
    prompts = [
        tuple(
            EvalPrompt(f"{i}.{q}", tuple(rng.randrange(4, 250) for _ in range(40)), sampling)
            for q in range(QUESTIONS)
        )
        for i in range(n)
    ]
    jobs = [
        replace(own, eval_prompts=asked, baseline=True)
        for own, asked in zip(_jobs(n, config, 250), prompts, strict=True)
    ]
    loop = LocalInnerLoop(
        loaded, slots=min(n, most.slots), token_budget=most.token_budget, recompute=most.recompute
    )
    _reset_peak(plan.device)
    started = time.perf_counter()
    outcomes = list(loop.run(jobs))
    seconds = time.perf_counter() - started
    errors = [str(o.error) for o in outcomes if o.error is not None]
    return {
        "jobs": len(outcomes), "s a job": seconds / n, "at once": loop.slots, "errors": errors[:1],
        "peak bytes": _peak(plan.device),
    }  # fmt: skip


def peft(state: State) -> dict[str, Any]:
    """Tuned PEFT, one adapter after another; last, since it changes the model."""
    plan, loaded = state.plan, state.model
    config = TrainingConfig(rank=32, alpha=64.0, steps=plan.rounds, batch_size=1)
    peer = TunedPeft(loaded, config)
    jobs = _jobs(2, config, 250)
    peer.fit(jobs[0])
    _reset_peak(plan.device)
    return {"tokens/s": rate(lambda: float(peer.fit(jobs[1])), plan.device), "peak bytes": _peak(plan.device)}


#: Steps in order, each with its deadline in seconds.
STEPS: dict[str, tuple[Callable[[State], dict[str, Any]], int]] = {
    "versions": (versions, 30),
    "probes": (probes, 30),
    "equality": (equality, 60),
    "shape": (shape, 60),
    "training": (training, 120),
    "launches": (launches, 40),
    "decoding": (decoding, 60),
    "job": (job, 60),
    "peft": (peft, 40),
}


def run(plan: Plan, out: Path, steps: Sequence[str], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Take the steps, and write what is known after each to `out`."""
    state, found = State(plan), dict[str, Any]()
    for name in steps:
        step, limit = STEPS[name]
        started = time.perf_counter()
        found[name] = _guarded(lambda step=step: step(state), limit)  # type: ignore[misc]
        found[name]["seconds"] = round(time.perf_counter() - started, 2)
        say(f"{name}: {json.dumps(found[name])}")
        unfinished = out.with_suffix(".part")
        unfinished.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        unfinished.replace(out)
        _free(plan.device)
    return found


def _guarded(work: Callable[[], dict[str, Any]], limit: int = 0) -> dict[str, Any]:
    """What `work` gives; where it fails, the first line of why."""
    try:
        with _deadline(limit):
            return work()
    except torch.OutOfMemoryError as error:
        return {"failed": f"out of memory: {str(error).splitlines()[0] if str(error) else ''}"}
    except Exception as error:  # noqa: BLE001 (a report with a hole is worth more than none)
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


@contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Raises `TimeoutError` in the block after so many seconds; 0: never."""
    if not seconds:
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    was = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, was)


def _jobs(n: int, config: TrainingConfig, vocabulary: int, sequences: int = SEQUENCES) -> list[AdaptJob]:
    rng = random.Random(0)
    top = min(vocabulary, 250)
    return [
        AdaptJob(
            str(i),
            tuple(
                TrainingSequence(tuple(rng.randrange(4, top) for _ in range(rng.randint(SHORTEST, LONGEST))))
                for _ in range(sequences)
            ),
            config,
            (),
            i,
        )
        for i in range(n)
    ]


def _dtype(plan: Plan) -> torch.dtype:
    return torch.float32 if plan.device.type == "cpu" else torch.bfloat16


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from benchmarks.inner_loop import parts

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, a minute, on the CPU too")
    parser.add_argument("--only", help=f"some of {','.join(STEPS)}")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu.json"), help="the JSON file, written step by step"
    )
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.quick:
        parser.error("there is no CUDA device; --quick tries everything on the CPU")
    steps = parts(options.only, tuple(STEPS)) if options.only else tuple(STEPS)
    quick = Plan(device, True, counts=((1, 8), (8, 8)), rounds=2, rows=4)
    run(quick if options.quick else Plan(device, False), options.out, steps)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
