"""The one place where engines are built: how many workers and slots, how many threads each, and where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from seal.cluster.crew import RaySettings
    from seal.models.load import LoadedModel
    from seal.protocols import InnerLoop
    from seal.workers.process import WorkerModel

#: Models with fewer weights are through before another process has started.
_WORTH_WEIGHTS = 20_000_000
#: Memory that a worker needs, in models: reordered weights, adapters, activations. The first process, which
#: also writes self-edits and holds the M-step, needs three times as much.
_MEMORY_FACTOR = 5


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the user wants of an engine; None: decided here, by model and machine."""

    workers: int | None = None
    """Processes that share the work."""
    slots: int | None = None
    """Adapters trained at once by each of them."""
    token_budget: int | None = None
    """Tokens of one forward and backward pass."""
    server: str | None = None
    """A TTT server that trains instead of this machine: its address, or an endpoint file."""
    server_keys: Path | None = None
    """This client's key_secret file, for a server with CURVE keys."""
    recompute: bool = False
    """Compute layers again in the backward pass instead of keeping them."""
    ray: RaySettings | None = None
    """A Ray cluster whose actors share the work."""


def default_batch(device: torch.device) -> int:
    """Jobs of one batch: as many as are trained at once by default, and on a GPU some to take their place."""
    return 8 if device.type == "cpu" else 64


def default_workers(loaded: LoadedModel) -> int:
    """Processes that share the work: one per core or GPU, as memory allows; one for a tiny model."""
    import psutil
    import torch

    model = loaded.model
    if model.device.type == "cuda":
        return torch.cuda.device_count()
    weights = sum(p.numel() for p in model.parameters())
    if model.device.type != "cpu" or weights < _WORTH_WEIGHTS:
        return 1
    need = _MEMORY_FACTOR * weights * model.dtype.itemsize
    return max(1, min(torch.get_num_threads(), int(psutil.virtual_memory().total // need) - 3))


def inner_loop(loaded: LoadedModel, settings: EngineSettings, batch: int | None) -> InnerLoop:
    """The engine for `loaded`: this process, worker processes that share the cores or GPUs, a server, or
    actors of a Ray cluster.

    Args:
        loaded: the policy; its weights must not change while the engine is open.
        settings: what the user wants.
        batch: jobs of a batch of fixed make-up; None: jobs join what is being trained (a server's queue).
    """
    if settings.server is not None:
        return _remote(loaded, settings.server, settings.server_keys)
    import torch

    from seal.inner.loop import LocalInnerLoop, default_slots, default_token_budget
    from seal.pool import Pool
    from seal.workers.inprocess import InProcessWorker
    from seal.workers.process import ProcessWorker, WorkerSetup

    device = loaded.model.device
    slots = settings.slots or default_slots(device)
    budget = settings.token_budget or default_token_budget(device)
    if settings.ray is not None:
        return _cluster(loaded, settings.ray, settings, slots, budget, batch)
    n = settings.workers or default_workers(loaded)
    if n == 1:
        local = LocalInnerLoop(loaded, slots=slots, token_budget=budget, recompute=settings.recompute)
        return local if batch is None else Pool([InProcessWorker(local)], batch)
    threads = max(1, torch.get_num_threads() // n)
    again = settings.recompute
    setups = [WorkerSetup(model, threads, slots, budget, again) for model in _models(loaded, n)]
    return Pool([ProcessWorker(setup) for setup in setups], batch)


def _remote(loaded: LoadedModel, server: str, keys: Path | None) -> InnerLoop:
    from seal.pool import Pool
    from seal.serve.link import find
    from seal.workers.remote import RemoteWorker

    return Pool([RemoteWorker(find(server, keys), loaded.version)], None)


def _cluster(
    loaded: LoadedModel,
    ray: RaySettings,
    settings: EngineSettings,
    slots: int,
    budget: int,
    batch: int | None,
) -> InnerLoop:
    import torch

    from seal.cluster.crew import RayCrew
    from seal.models.load import resolve
    from seal.pool import Pool
    from seal.workers.process import WorkerModel, WorkerSetup

    if batch is None:
        raise ConfigError("a server's queue cannot be shared out to Ray", "leave inner.backend out")
    device = "cuda:0" if loaded.model.device.type == "cuda" else "cpu"  # Ray shows an actor its own GPU alone
    here = ray.where is None
    n = settings.workers or (default_workers(loaded) if here else None)
    threads = max(1, torch.get_num_threads() // n) if n and here else 1
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    model = WorkerModel(loaded.source, loaded.version, device, dtype, prompts=loaded.contract.settings)
    weights = sum(p.numel() for p in loaded.model.parameters()) * loaded.model.dtype.itemsize
    memory = 0 if here else _MEMORY_FACTOR * weights
    crew = RayCrew(
        replace(ray, workers=n, memory=memory),
        WorkerSetup(model, threads, slots, budget, settings.recompute),
        lambda: resolve(loaded.source),
    )
    return Pool(crew.workers(), batch, attend=crew.attend)


def _models(loaded: LoadedModel, n: int) -> list[WorkerModel]:
    """The model for `n` worker processes: the same memory on a CPU, a GPU each otherwise."""
    import torch

    from seal.workers.process import WorkerModel
    from seal.workers.sharing import shared

    device = loaded.model.device
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{n} workers cannot share {device.type}", "set inner.workers: 1")
    gpus = max(1, torch.cuda.device_count())
    places = [
        f"cuda:{((device.index or 0) + i) % gpus}" if device.type == "cuda" else "cpu" for i in range(n)
    ]
    dtype = loaded.quantised or str(loaded.model.dtype).removeprefix("torch.")
    handed, told = shared(loaded), loaded.contract.settings
    return [WorkerModel(loaded.source, loaded.version, place, dtype, handed, told) for place in places]
