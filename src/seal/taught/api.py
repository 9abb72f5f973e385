"""`seal.teach("docs/")`: the whole of it in Python."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seal.taught.model import Documents, TaughtModel
from seal.taught.settings import TRAINING, TeachSettings
from seal.taught.teach import Progress, Teaching

if TYPE_CHECKING:
    from seal.models.load import LoadedModel


def teach(
    documents: Documents,
    base: str = "smollm2-135m-instruct",
    out: str | Path | None = None,
    *,
    updates: int = 80,
    keep: float = 0.2,
    apart: bool = False,
    rank: int = 32,
    learning_rate: float = 1e-3,
    measure: bool = True,
    questions: str | Path = "",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> TaughtModel:
    """Teach a model documents.

        model = seal.teach("docs/")
        print(model.ask("When does the gate close?"))
        model.save("my-model")

    Args:
        documents: files and folders of text, Markdown, PDF, Word, HTML, JSON, CSV and Parquet.
        base: built-in name, hub id, folder or .gguf file.
        out: new folder of the taught model; None: a temporary one (`TaughtModel.save` keeps it). An
            interrupted call with the same arguments is gone on with.
        updates: training steps a passage.
        keep: share of the steps that repeat the base's own answers to general questions, against forgetting.
        apart: one adapter a document.
        rank, learning_rate: of the LoRA adapters; alpha is twice the rank.
        measure: ask test questions before and after; see `TaughtModel.scores`.
        questions: a file of your own test questions, with `question` and `answer`.
        seed: every other seed derives from it.
        device, dtype: as in `seal.models.load.load_model`.
        progress: called with what is being done, how much of it is done, and of how much.

    Raises:
        DataError: the documents cannot be used; nothing was written.
        ConfigError, ModelError, RunError: an argument is out of range, no such base, `out` is in use.
    """
    from seal.models.load import load_model

    training = replace(TRAINING, rank=rank, alpha=2.0 * rank, learning_rate=learning_rate)
    paths = _paths(documents)
    settings = TeachSettings(
        paths,
        updates,
        keep=keep,
        apart=apart,
        measure=measure,
        training=training,
        seed=seed,
        questions=str(questions),
    )
    settings.check()
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="seal-taught-")) / "model"
    return _taught(folder, settings, load_model(base, device, dtype), progress)


def learn(
    model: TaughtModel,
    documents: Documents,
    *,
    updates: int = 80,
    replay: float = 1 / 3,
    keep: float = 0.2,
    measure: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> TaughtModel:
    """Teach `model` more; `replay` is the share of the steps that repeat what it knows. See `teach`."""
    known = model.manifest.training
    rank, learning_rate = int(known["rank"]), float(known["learning_rate"])
    training = replace(TRAINING, rank=rank, alpha=2.0 * rank, learning_rate=learning_rate)
    paths = _paths(documents)
    settings = TeachSettings(paths, updates, replay, keep, model.manifest.apart, measure, training, seed)
    return _taught(model.folder, settings, model.loaded, progress)


def _taught(
    folder: Path, settings: TeachSettings, loaded: LoadedModel, progress: Progress | None
) -> TaughtModel:
    Teaching(folder, settings, loaded, progress).run()
    return TaughtModel(folder, loaded=loaded)


def _paths(documents: Documents) -> tuple[str, ...]:
    return (str(documents),) if isinstance(documents, str | Path) else tuple(map(str, documents))
