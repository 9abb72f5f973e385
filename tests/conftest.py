"""Fixtures that all tests share. No test needs a network: the hub is switched off before it is imported."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # several workers on few cores; results must not depend on it

settings.register_profile("seal", deadline=None)  # a busy machine is no failure
settings.load_profile("seal")

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _collected() -> None:
    """What was there before a test is no garbage of its own: a collection then looks at the test's objects
    alone. Trainers collect after every fit, and torch and transformers are a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state, whichever tests ran before it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the official SEAL artefacts and the spec, which are not part of this repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the official SEAL artefacts are not beside the repository (../shared)")
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LoadedModel]:
    """`tiny("gpt2")`: a fresh tiny random model in float32 on the CPU, a test's own to change."""
    from seal.models.load import load_model

    def load(family: str = "llama", dtype: str = "float32") -> LoadedModel:
        return load_model(f"tiny-random-{family}", device="cpu", dtype=dtype)

    return load


@pytest.fixture(params=FAMILIES)
def tiny_family(request: pytest.FixtureRequest, tiny: Callable[..., LoadedModel]) -> LoadedModel:
    """The tiny model of each supported family in turn."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def smollm() -> LoadedModel:
    """The real built-in model, once a session: read it, do not change it."""
    from seal.errors import ModelError
    from seal.models.gguf import wheel_file
    from seal.models.load import load_model

    try:
        wheel_file("smollm2-135m-instruct")
    except ModelError as error:
        pytest.skip(str(error))
    return load_model("smollm2-135m-instruct", device="cpu")
