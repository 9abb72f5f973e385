"""The first steps of `benchmarks.gpu`: what is installed, what runs, whether its numbers are right."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch

from benchmarks import gpu_probes
from benchmarks.devices import compare
from benchmarks.gpu_plan import State, dtype_of, make_jobs, plain
from benchmarks.measure import gemm_peak
from seal.inner.adapt import train
from seal.inner.memory import fitting, footprint, free_bytes
from seal.inner.runtime import Runtime
from seal.models.load import load_model
from seal.models.lora import LoRAWrapper
from seal.records import TrainingConfig


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
    state.peak = gemm_peak(dtype_of(state.plan), state.plan.device, 0.2 if state.plan.quick else 2.0)
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
        own = make_jobs(3, config, 250, sequences=3)
        ours = {t.job.id: t for t in train(Runtime.of(loaded.model), own, 3, 512)}
        losses, off, size = 0.0, 0.0, 0.0
        for job in own:
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


def devices(state: State) -> dict[str, Any]:
    """One tiny fp32 job here and on the CPU; see `benchmarks.devices`."""
    apart = compare(str(state.plan.device))
    return {**plain(apart), "equal": apart.equal}


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
    torch.set_default_dtype(dtype_of(state.plan))
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
    return {"weights": weights, "need": plain(need), "auto": plain(fits), "sum": need.total(fits)}
