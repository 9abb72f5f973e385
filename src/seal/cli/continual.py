"""Learn passages one after another, merging each, and measure what is forgotten and what prevents it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _backend, _options


@_options.grouped
def continual(
    *,
    dataset: Annotated[str, Argument(help="Passages: a SQuAD or SEAL JSON file, or builtin.")],
    model: Annotated[str, Option(help="Hub id, folder, .gguf file or built-in name.")],
    out: _options.Out,
    prompt: Annotated[
        str, Option(help="Kind of self-edit (see `seal make-data`), or none.")
    ] = "implications",
    edits: Annotated[int, Option(min=1, help="Passages learned one after another.")] = 8,
    sequences: Annotated[int, Option(min=1, help="Sequences, each with its own passages and order.")] = 8,
    methods: Annotated[
        str, Option(help="By commas: official, replay, gate, replay+gate; the first one names the result.")
    ] = "official,replay,gate",
    replay: Annotated[int, Option(min=0, help="Earlier sequences that an edit trains on again.")] = 16,
    tolerance: Annotated[float, Option(help="Nats a token that earlier sequences may lose (gate).")] = 0.1,
    split_newlines: _options.Split = True,
    training: _options.Training,
    sampling: _options.SamplingOptions,
    heat_map: Annotated[Path | None, Option(help="Picture of the matrices; default: beside --out.")] = None,
    seed: _options.Seed = 0,
    grading: _options.Grading,
    device_options: _options.DeviceOptions,
    log_level: _options.LogLevel = "INFO",
) -> None:
    """Write the (K+1) x K accuracy matrices in SEAL's own format, a table and a heat map."""
    from seal.domains.knowledge import KnowledgeIncorporation
    from seal.inner.loop import LocalGenerator
    from seal.recipes import continual as recipe
    from seal.recipes import continual_report as report

    settings = recipe.ContinualSettings(
        dataset=dataset,
        out=out,
        edits=edits,
        sequences=sequences,
        methods=tuple(name.strip() for name in methods.split(",")),
        split_newlines=split_newlines,
        training=training,
        sampling=sampling.sampling(),
        replay=replay,
        tolerance=tolerance,
        seed=seed,
    )
    domain = KnowledgeIncorporation(prompt)
    with _backend.interruptible(log_level, "the same command goes on"):
        judge = grading.make()
        loaded = device_options.load(model)
        factories = recipe.Factories(
            inner_of=lambda edited: _backend.engine(edited, judge),
            generator_of=LocalGenerator,
            prompt_of=lambda task: domain.prompt_for(task, loaded.tokenizer),
        )
        result = recipe.continual(settings, loaded, factories)
    print(report.table(result))
    print(report.heat_map(result, heat_map or out.with_suffix(".png")))
    print(out)
