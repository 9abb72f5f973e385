"""Learn passages one after another, merging each, and measure what is forgotten and what prevents it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _backend, _options, command
from seal.training_config import PAPER_INNER


@_options.grouped
def continual(
    *,
    dataset: Annotated[str, Argument(help="Passages: a SQuAD or SEAL JSON file, builtin, or invented.")],
    model: Annotated[str, Option(help="Hub id, folder, .gguf file or built-in name.")],
    out: _options.Out,
    prompt: Annotated[
        str, Option(help="Kind of self-edit (see `seal make-data`), or none.")
    ] = "implications",
    edits: Annotated[int, Option(min=1, help="Passages learned one after another.")] = 8,
    sequences: Annotated[int, Option(min=1, help="Sequences, each with its own passages and order.")] = 8,
    methods: Annotated[
        str,
        Option(help="By commas: official, or replay, gate and kl by +; the first one names the result."),
    ] = "official,replay,gate,kl",
    replay: Annotated[int, Option(min=0, help="Earlier sequences that an edit trains on again.")] = 16,
    tolerance: Annotated[float, Option(help="Nats a token that earlier sequences may lose (gate).")] = 0.1,
    kl: Annotated[float, Option(min=0, help="Weight of the KL to the model before the edit (kl).")] = 1.0,
    split_newlines: _options.Split = True,
    training: _options.Training = PAPER_INNER,
    sampling: _options.SamplingOptions,
    heat_map: Annotated[Path | None, Option(help="Picture of the matrices; default: beside --out.")] = None,
    seed: _options.Seed = 0,
    grading: _options.Grading,
    budget: _options.Budget,
    device_options: _options.DeviceOptions,
    changes: _options.Changes = None,
    log_level: _options.LogLevel = "INFO",
) -> None:
    """Write the (K+1) x K accuracy matrices in SEAL's own format, a table and a heat map."""
    from seal import setup
    from seal.extras import need
    from seal.recipes import continual as recipe
    from seal.recipes import continual_report as report
    from seal.recipes import pipeline

    need("matplotlib", report.HEAT_MAP)  # before hours of work, not after
    config = pipeline.settings(
        model,
        dataset,
        out,
        _options.parse_changes(changes or []),
        **device_options.settings(),
        **grading.settings(),
        **budget.settings("grader"),
        **sampling.settings(),
        **pipeline.inner_settings(training),
        inner__workers=1,  # the weights change in this process
        data_config__prompt_type=prompt,
        data_config__split_newlines=split_newlines,
        samples_per_iteration=1,
        seed=seed,
    )
    chains = recipe.Chains(edits, sequences, replay, tolerance, kl)
    names = [name.strip() for name in methods.split(",")]
    with _backend.interruptible(log_level, "the same command goes on") as progress:
        loaded = device_options.load(model)
        purse = setup.purse(config)
        grader = setup.grader(config, loaded, purse)
        domain = setup.make_domain(config, grader)
        step = pipeline.Step.here("continual", out, command())
        with pipeline.open_run(config, step) as run, _backend.paying(run, purse):
            run.progress = progress
            result = recipe.continual(
                run, loaded, lambda now: setup.estep(config, run, domain, grader, now), chains, names, out
            )
    print(report.table(result))
    print(report.heat_map(result, heat_map or out.with_suffix(".png")))
    print(out)
