"""Several GPUs of one node through the pool, with pretend devices: who is to load the policy where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from seal.cluster.crew import RayCrew, RaySettings
from seal.engine import EngineSettings, inner_loop
from seal.models.load import LoadedModel
from seal.pool import Pool
from seal.workers.process import ProcessWorker, WorkerModel, WorkerSetup


@dataclass
class OnGPU:
    """A model as far as the engine looks at one that lies on a GPU."""

    device: torch.device
    dtype: torch.dtype = torch.bfloat16


@pytest.fixture
def placed(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def at(device: str, gpus: int) -> LoadedModel:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        return replace(tiny(), source="a-model", version="v", model=OnGPU(torch.device(device)))

    return at


@pytest.mark.parametrize(
    ("device", "gpus", "workers", "places"),
    [
        ("cuda:0", 2, None, ["cuda:0", "cuda:1"]),
        ("cuda:0", 2, 3, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", 4, None, ["cuda:1", "cuda:2", "cuda:3", "cuda:0"]),
    ],
)
def test_every_gpu_gets_a_worker_that_loads_the_policy_itself(
    placed: Any, device: str, gpus: int, workers: int | None, places: list[str]
) -> None:
    loop = inner_loop(placed(device, gpus), EngineSettings(workers, slots=4, token_budget=64), 8)
    assert isinstance(loop, Pool)
    models = []
    for worker in loop.workers:
        assert isinstance(worker, ProcessWorker)
        models.append(worker.setup.model)
    assert [model.device for model in models] == places
    assert all((m.source, m.version, m.dtype, m.loaded) == ("a-model", "v", "bfloat16", None) for m in models)
    assert loop.slots == 4 * len(places)
    loop.close()


@pytest.mark.parametrize(
    ("device", "room"),
    [("cuda:0", 3), ("cpu", 10)],
)
def test_a_cluster_has_room_for_an_actor_a_gpu_or_a_core(device: str, room: int) -> None:
    """A node of two GPUs and four cores, one of eight GPUs and a core, five cores, one that left and one that
    is about to."""

    class Ray:
        def nodes(self) -> list[dict[str, Any]]:
            has = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 8.0}, {"CPU": 5.0}, {"CPU": 7.0, "GPU": 7.0}]
            here = [{"Alive": True, "NodeID": str(i), "Resources": has[i]} for i in range(len(has))]
            return [*here, {"Alive": False, "NodeID": "left", "Resources": {"CPU": 64.0, "GPU": 8.0}}]

    class Session:
        ray = Ray()

    setup = WorkerSetup(WorkerModel("m", "v", device, "float32"), 1, 2, 64)
    crew = RayCrew(RaySettings("run"), setup, lambda: pytest.fail("nothing is fetched"))
    crew._session = Session()  # type: ignore[assignment]
    crew._leaving = frozenset({"3"})
    assert crew._room() == room
