"""SEAL: self-adapting language models. Public names are imported on first use, so `import seal` is cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seal.reward import RewardModel as RewardModel
    from seal.taught.api import teach as teach
    from seal.taught.model import TaughtModel as TaughtModel

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
    "RewardModel": "seal.reward",
    "TaughtModel": "seal.taught.model",
    "teach": "seal.taught.api",
}
__all__ = [*sorted(_HOMES), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seal' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
