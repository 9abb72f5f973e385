"""A stand-in for vLLM's interface, whose log-probabilities come from a real model with the adapter named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loopback_http import JSON
from seal.models.adapter_reader import read_adapter
from seal.models.load import LoadedModel
from seal.models.lora import LoRAWrapper
from seal.models.merge import merge
from seal.models.stacked import save_stacked
from seal.records import TrainingConfig


@dataclass
class FakeVLLM:
    """Serves `models` by name; `mode` says what it does wrong."""

    url: str = ""
    mode: str = "good"
    names: dict[str, LoadedModel] = field(default_factory=dict)
    made: Callable[[str], LoadedModel] = lambda path: (_ for _ in ()).throw(AssertionError)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def answer(self, path: str, body: Any) -> tuple[int, str, str]:
        self.asked.append((path, body))
        if path == "/v1/models":
            return 200, JSON, json.dumps({"data": [{"id": name} for name in self.names]})
        if path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], body["lora_path"])
        if path == "/v1/unload_lora_adapter":
            self.names.pop(body["lora_name"], None)
            return 200, JSON, "Success"
        model = self.names.get(body["model"])
        if model is None:
            return 404, JSON, "no such model"
        ids = torch.tensor([body["prompt"]])
        with torch.inference_mode():
            logits = torch.log_softmax(model.model(input_ids=ids, use_cache=False).logits[0].float(), -1)
        found = [None, *(float(logits[i, t]) for i, t in enumerate(body["prompt"][1:]))]
        return 200, JSON, json.dumps({"choices": [{"logprobs": {"token_logprobs": [*found, -1.0]}}]})

    def _load(self, name: str, path: str) -> tuple[int, str, str]:
        if self.mode == "404":
            return 404, JSON, "Not Found"
        if self.mode == "duplicate":
            return 400, JSON, json.dumps({"message": f"The lora adapter '{name}' has already been loaded."})
        if self.mode == "unlisted":
            return 200, JSON, "Success"
        stale = {"ignores": "base", "stale": "old"}.get(self.mode)
        self.names[name] = self.names[stale] if stale else self.made(path)
        return 200, JSON, "Success: LoRA adapter added successfully."


SHAPE = TrainingConfig(rank=4, alpha=8.0)


def drawn(loaded: LoadedModel, seed: int) -> Any:
    """Factors that change what the model says."""
    with LoRAWrapper.from_config(loaded.model, SHAPE) as adapter:
        adapter.reset(seed)
        factors = adapter.factors()
    made = torch.Generator().manual_seed(seed)
    return {n: (a, 0.1 * torch.randn(b.shape, generator=made)) for n, (a, b) in factors.items()}


@dataclass
class World:
    server: FakeVLLM
    policy: LoadedModel
    adapter: Path


def save(loaded: LoadedModel, factors: Any, folder: Path) -> Path:
    save_stacked(loaded.model, factors, 2.0, folder)
    return folder


def make_world(server: FakeVLLM, tiny: Callable[[], LoadedModel], folder: Path) -> World:
    """A base on the server, an older adapter on it, and a policy of ours that is to go there."""
    base = tiny()

    def with_adapter(path: str) -> LoadedModel:
        saved, loaded = read_adapter(path), tiny()
        merge(loaded.model, saved.factors, saved.alpha / saved.rank)
        return loaded

    old, new = (save(base, drawn(base, seed), folder / f"a{seed}") for seed in (1, 2))
    server.made = with_adapter
    server.names = {"base": base, "old": with_adapter(str(old))}
    return World(server, with_adapter(str(new)), new)
