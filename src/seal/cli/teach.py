"""Teach a model your documents: seal teach DOCS --out my-model; then seal ask my-model "…"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _backend, _options
from seal.errors import ConfigError


@_options.grouped
def teach(
    *,
    documents: Annotated[
        list[str] | None,
        Argument(help="Files and folders: .txt .md .pdf .docx .html .json .jsonl .csv .parquet"),
    ] = None,
    out: Annotated[Path | None, Option(help="Folder of the new taught model.")] = None,
    into: Annotated[Path | None, Option(help="A taught model that learns more.")] = None,
    undo: Annotated[
        int | None, Option(min=1, help="With --into: take this batch and later ones out again.")
    ] = None,
    model: Annotated[
        str, Option(help="Base: built-in name, hub id, folder or .gguf file.")
    ] = "smollm2-135m-instruct",
    apart: Annotated[bool, Option("--apart", help="One adapter a document; `seal ask` picks one.")] = False,
    updates: Annotated[int, Option(min=1, help="Training steps a passage.")] = 80,
    replay: Annotated[float, Option(help="With --into: share of the steps that repeat what it knows.")] = 1
    / 3,
    keep: Annotated[float, Option(help="Share of the steps that repeat the base's own answers.")] = 0.2,
    rank: Annotated[int, Option(min=1, help="LoRA rank.")] = 32,
    lr: Annotated[float, Option(help="Peak learning rate.")] = 1e-3,
    measure: Annotated[bool, Option(help="Ask test questions before and after.")] = True,
    questions: Annotated[
        str, Option(help="Your own test questions: JSON, JSONL or CSV with question and answer.")
    ] = "",
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be taught, and stop.")] = False,
    seed: _options.Seed = 0,
    place: _options.DeviceOptions,
    log_level: _options.LogLevel = "WARNING",
) -> None:
    """Read documents, train one adapter on them, and say what it knew before, knows now and has lost.

    The same command goes on where it was interrupted.
    """
    if (out is None) == (into is None):
        raise ConfigError("one of --out and --into is needed", "name a new folder, or a taught model")
    from seal.cli import _teach

    folder = out or into or Path()
    if undo is not None:
        _teach.take_back(into, undo, documents)
        return
    from seal.data.documents.library import read_library
    from seal.taught.batches import unfinished
    from seal.taught.manifest import is_taught, read_manifest
    from seal.taught.settings import TRAINING, TeachSettings
    from seal.taught.teach import Teaching

    if into is not None:
        known = read_manifest(into)
        model, apart, rank = known.base, known.apart, int(known.training["rank"])
    elif is_taught(folder) and not unfinished(folder):
        raise ConfigError(f"{folder} is taught already", f"add to it: seal teach DOCS --into {folder}")
    training = replace(TRAINING, rank=rank, alpha=2.0 * rank, learning_rate=lr)
    settings = TeachSettings(
        tuple(documents or ()), updates, replay, keep, apart, measure, training, seed, questions
    )
    settings.check()
    library = read_library(settings.documents)
    _teach.show_library(library)
    with _backend.interruptible(log_level, "the same command goes on"):
        loaded = place.load(model)
        if dry_run:
            _teach.show_plan(Teaching(folder, settings, loaded), library)
            return
        with _teach.progress() as progress:
            manifest = Teaching(folder, settings, loaded, progress).run(library)
    _teach.conclude(folder, manifest.batches[-1])
