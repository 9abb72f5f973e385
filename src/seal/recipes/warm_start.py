"""A warm start for few-shot learning: one adapter trained on many synthetic tasks, merged into a checkpoint.

It is the first ingredient of test-time training (Akyürek et al., arXiv 2411.07279): a model that has seen
many puzzles in this form has less to learn from the few examples of a new one. Every task is seen once,
through one augmentation drawn for it. The checkpoint is then the `model_name` of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from seal.arc.recipe import ArcRecipe
from seal.arc.serialise import Style
from seal.arc.synthetic import FAMILIES, synthetic_tasks
from seal.domains.base import InvalidEdit
from seal.domains.few_shot import FewShotLearning
from seal.records import AdaptJob, Task, TrainingConfig, TrainingSequence
from seal.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

#: Dihedral changes, shifts and new colours make a task of one family another one with as definite a rule.
_VARIED = ArcRecipe(True, False, False, False, "train_using_output_tokens", 1e-3, 1, colour=True)
RECIPE = TrainingConfig(
    rank=32, learning_rate=7e-4, epochs=1, batch_size=4, schedule="cosine", warmup_ratio=0.05
)


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What to train on. Defaults: three minutes on one CPU core with a model of 135M parameters."""

    tasks: int = 500
    """Synthetic tasks, one training row each."""
    families: tuple[str, ...] = tuple(FAMILIES)
    sizes: tuple[int, int] = (3, 3)
    """Smallest and largest side of the inputs."""
    max_row_tokens: int = 160
    """Longer rows are left out: reflections lay several grids side by side."""
    demonstrations: tuple[int, ...] = (2, 3, 4)
    """Solved examples of a task, in turn."""
    recipe: TrainingConfig = RECIPE
    seed: int = 0


@dataclass(frozen=True, slots=True)
class WarmStarted:
    """What came out: the checkpoint, its version, and the loss of every step in nats a token."""

    folder: str
    version: str
    losses: tuple[float, ...]


def warm_start_rows(
    settings: WarmStart,
    tokenizer: PreTrainedTokenizerBase,
    *,
    serialisation: Style = "compact",
    chat: bool = False,
) -> Iterator[TrainingSequence]:
    """One row a task: one of its pairs to predict from the others, through an augmentation drawn for it.

    Tasks all of whose rows are too long are left out.
    """
    domain = FewShotLearning(
        serialisation=serialisation, chat=chat, cap=10_000, demonstration_loss=True,
        max_row_tokens=settings.max_row_tokens,
    )  # fmt: skip
    for number, task in enumerate(_tasks(settings)):
        try:
            rows = domain.training_sequences(task, _VARIED.to_json(), tokenizer)
        except InvalidEdit:  # all of them are too long
            continue
        most = max(len(row.loss) for row in rows)
        chosen = [row for row in rows if len(row.loss) == most]  # leave-one-out, with every demonstration
        yield Random(derive(settings.seed, "row", number)).choice(chosen)


def _tasks(settings: WarmStart) -> list[Task]:
    """Tasks with 2, 3, ... demonstrations in turn, and their tests among them."""
    groups = [
        synthetic_tasks(
            ceil(settings.tasks / len(settings.demonstrations)),
            10**6
            + derive(settings.seed, "warm-start", n) % 10**6,  # runs draw theirs with seeds below a million
            families=settings.families,
            sizes=settings.sizes,
            demonstrations=n,
        )
        for n in settings.demonstrations
    ]
    tasks = [made.task for group in zip(*groups, strict=True) for made in group][: settings.tasks]
    return [replace(task, context=(*task.context, *task.target), target=()) for task in tasks]


def warm_start(
    settings: WarmStart,
    model: str,
    output_dir: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    serialisation: Style = "compact",
    chat: bool = False,
) -> WarmStarted:
    """Train the adapter, and save `model` with it merged in as a checkpoint in the new folder `output_dir`.

    Raises:
        AdaptError: a row does not fit into the model, or the loss is not finite.
        ModelError: the model cannot be loaded or the checkpoint not be written.
    """
    from seal.inner.adapt import train
    from seal.inner.runtime import Runtime
    from seal.models.load import load_model
    from seal.restem import save_merged

    loaded = load_model(model, device, dtype)
    rows = tuple(warm_start_rows(settings, loaded.tokenizer, serialisation=serialisation, chat=chat))
    log.info("warm start: %d rows, %d tokens", len(rows), sum(len(row.ids) for row in rows))
    job = AdaptJob("warm-start", rows, settings.recipe, (), settings.seed)
    (done,) = train(Runtime.of(loaded.model), [job], slots=1, token_budget=2048)
    if done.error is not None:
        raise done.error
    assert done.adapter is not None
    factors = {name: (a.cpu(), b.cpu()) for name, (a, b) in done.adapter.factors.items()}
    version = save_merged(loaded, factors, settings.recipe, output_dir)
    return WarmStarted(str(output_dir), version, done.losses)
