"""Full fine-tuning on token rows: every weight trains (the second version of continued pretraining)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seal.errors import AdaptError
from seal.inner.schedule import learning_rate, step_sequences, total_steps
from seal.records import TrainingConfig, TrainingSequence

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

log = logging.getLogger("seal.cpt")


def full_finetune(
    model: PreTrainedModel, rows: Sequence[TrainingSequence], training: TrainingConfig, seed: int
) -> list[float]:
    """Train all weights of `model` in place with AdamW; the mean loss (nats a token) of every step.

    Only the training settings of `training` count. Rows, schedule and loss are those of the inner loop: a
    step's loss is the sum of its token losses over its labelled tokens, and pads count nowhere.

    Raises:
        AdaptError: a row is longer than the model's window, or a loss is not finite.
    """
    import torch

    window = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31)
    longest = max((len(row.ids) for row in rows), default=0)
    if longest > window:
        raise AdaptError(f"a row has {longest} tokens, the model's window is {window}", "split the passage")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    total, losses = total_steps(len(rows), training), []
    for step, chosen in enumerate(step_sequences(len(rows), training, seed)):
        losses.append(_backward(model, [rows[i] for i in chosen], training.batch_size))
        if training.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimiser.param_groups[0]["lr"] = learning_rate(training, step, total)
        optimiser.step()
        optimiser.zero_grad()
        if step % 20 == 0:
            log.info("step %d of %d, loss %.4f", step + 1, total, losses[-1])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return losses


def _backward(model: PreTrainedModel, rows: Sequence[TrainingSequence], batch_size: int) -> float:
    """Add the gradient of the rows' mean token loss; return that mean."""
    labelled = sum(len(row.labelled()) for row in rows)
    total = 0.0
    for first in range(0, len(rows), batch_size):
        loss = _summed_loss(model, rows[first : first + batch_size])
        (loss / max(1, labelled)).backward()
        total += loss.item()
    mean = total / max(1, labelled)
    if not math.isfinite(mean):
        raise AdaptError(f"the training loss became {mean}", "lower the learning rate")
    return mean


def _summed_loss(model: PreTrainedModel, rows: Sequence[TrainingSequence]) -> Tensor:
    """Sum of the negative log-likelihoods of the labelled tokens of a right-padded batch, in nats; ()."""
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)  # (B, T)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = torch.tensor(row.ids)
        mask[b, : len(row.ids)] = 1
        counted = row.labelled()
        labels[b, counted] = ids[b, counted]
    ids, labels, mask = (tensor.to(model.device) for tensor in (ids, labels, mask))
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
