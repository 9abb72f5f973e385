"""How long a sequence a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def window(model: PreTrainedModel) -> int | None:
    """Longest sequence the model takes, in tokens; None when its config does not say."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)
