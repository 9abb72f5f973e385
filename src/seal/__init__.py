"""SEAL: self-adapting language models. Public names are imported on first use, so `import seal` is cheap."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "SEALConfig": "seal.config",
    "SEALFramework": "seal.framework",
    "SelfEditGenerator": "seal.self_edit",
    "ReSTEMOptimizer": "seal.restem",
    "BaseDomain": "seal.domains.base",
    "KnowledgeIncorporation": "seal.domains.knowledge",
    "FewShotLearning": "seal.domains.few_shot",
    "LoRAWrapper": "seal.models.lora",
    "BaseRewardModel": "seal.reward",
    "DataLoader": "seal.data.loader",
    "DataPreprocessor": "seal.data.preprocess",
}
__all__ = [*sorted(_HOMES), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seal' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
