"""The long steps of `benchmarks.gpu`: training, launches, decoding, whole jobs, and PEFT beside them."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu_plan import (
    ANSWER,
    QUESTIONS,
    SEQUENCES,
    State,
    free,
    guarded,
    make_jobs,
    peak,
    reset_peak,
)
from benchmarks.measure import rate, training_flops
from benchmarks.peers import TunedPeft, generate
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.decode import Decoder, Request
from seal.inner.loop import LocalInnerLoop
from seal.inner.memory import capacity, fitting, footprint, free_bytes
from seal.inner.runtime import Runtime
from seal.records import EvalPrompt, Sampling, TrainingConfig


def training(state: State) -> dict[str, Any]:
    """Tokens a second and peak memory with N adapters at once."""
    found = {}
    for n, rank in state.plan.counts:
        found[f"{n} × rank {rank}"] = guarded(lambda n=n, rank=rank: _training(state, n, rank))  # type: ignore[misc]
        free(state.plan.device)
    return found


def _training(state: State, n: int, rank: int) -> dict[str, Any]:
    plan, model = state.plan, state.model.model
    runtime = Runtime.of(model)
    config = TrainingConfig(rank=rank, alpha=2.0 * rank, steps=plan.rounds, batch_size=1)
    need = footprint(model, config, plan.device, model.dtype)
    most = capacity(need, free_bytes(plan.device), plan.device, n, "auto")
    runtime.recompute = most.recompute
    jobs = make_jobs(n, config, runtime.vocabulary)
    list(train(runtime, make_jobs(n, replace(config, steps=1), runtime.vocabulary), n, most.token_budget))
    reset_peak(plan.device)
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
        "tokens/s": speed, "share of the matrix product": speed * flops / state.peak if state.peak else None,
        "s a round": tokens / speed / plan.rounds, "peak bytes": peak(plan.device),
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
        list(train(runtime, make_jobs(8, config, runtime.vocabulary), 8, 8192))
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
        for own, asked in zip(make_jobs(n, config, 250), prompts, strict=True)
    ]
    loop = LocalInnerLoop(
        loaded, slots=min(n, most.slots), token_budget=most.token_budget, recompute=most.recompute
    )
    reset_peak(plan.device)
    started = time.perf_counter()
    outcomes = list(loop.run(jobs))
    seconds = time.perf_counter() - started
    errors = [str(o.error) for o in outcomes if o.error is not None]
    return {
        "jobs": len(outcomes), "s a job": seconds / n, "at once": loop.slots, "errors": errors[:1],
        "peak bytes": peak(plan.device),
    }  # fmt: skip


def peft(state: State) -> dict[str, Any]:
    """Tuned PEFT, one adapter after another; last, since it changes the model."""
    plan, loaded = state.plan, state.model
    config = TrainingConfig(rank=32, alpha=64.0, steps=plan.rounds, batch_size=1)
    peer = TunedPeft(loaded, config)
    jobs = make_jobs(2, config, 250)
    peer.fit(jobs[0])
    reset_peak(plan.device)
    return {"tokens/s": rate(lambda: float(peer.fit(jobs[1])), plan.device), "peak bytes": peak(plan.device)}
