"""Measure what every self-edit of a data set is worth (single passage), through a server or in process."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from seal.cli import _backend, _options, command
from seal.errors import ConfigError
from seal.training_config import PAPER_INNER


@_options.grouped
def query(
    *,
    data: _options.Data,
    out: _options.Out,
    backend: _backend.Backend,
    n: _options.Articles = None,
    k: _options.Completions = None,
    repeats: Annotated[int, Option("--eval-times", min=1, help="Adapters trained a completion.")] = 3,
    split_newlines: _options.Split = True,
    training: _options.Training = PAPER_INNER,
    exp_name: Annotated[str, Option(help="Name of the experiment, for the result file.")] = "",
    seed: _options.Seed = 0,
    shutdown_server: Annotated[bool, Option("--shutdown-server", help="End the server when done.")] = False,
    grading: _options.Grading,
    budget: _options.Budget,
    engine_options: _options.EngineOptions,
    device_options: _options.DeviceOptions,
    log_level: _options.LogLevel = "INFO",
) -> None:
    """Write run_<name>.json in SEAL's own format, with a run folder beside it. A server grades itself."""
    backend.check()
    if k == 0:
        raise ConfigError("--k is 0", "measure at least 1 completion")
    from seal import setup
    from seal.recipes import pipeline
    from seal.recipes.articles import read_articles
    from seal.recipes.query import query as run_query

    articles = read_articles(data, n, k)  # what is wrong with the data is said before a server is waited for
    with _backend.interruptible(log_level, "the same command goes on") as progress:
        policy = backend.policy(device_options)
        config = pipeline.settings(
            policy.source,
            str(data),
            out,
            **device_options.settings(),
            **grading.settings(),
            **budget.settings("grader"),
            **engine_options.settings(),
            **pipeline.inner_settings(training),
            data_config__split_newlines=split_newlines,
            tasks_per_iteration=len(articles),
            samples_per_iteration=max(len(a.completions) for a in articles),
            repeats=repeats,
            seed=seed,
        )
        pairs = pipeline.pair_with_tasks(articles, config, policy.tokenizer)
        step = pipeline.Step.here("query", out, command())
        with pipeline.open_run(config, step) as run, _backend.paying(run, setup.purse(config)) as purse:
            run.progress = progress
            estep = backend.estep(run, policy, purse)
            result = run_query(estep, pairs, out, exp_name)
            estep.close()
        if shutdown_server and backend.server is not None:
            backend.shut_down()
    overall, bounds = result.overall, (result.model_extra or {})["intervals"]
    print(f"baseline {_backend.percent(overall.baseline_mean_accuracy, bounds['baseline_mean_accuracy'])}")
    print(f"adapted  {_backend.percent(overall.adapter_mean_accuracy, bounds['adapter_mean_accuracy'])}")
    print(f"gain     {_backend.percent(overall.mean_gain, bounds['mean_gain'])}")
    print(out)
    _backend.say_next(f"seal build-sft {out}")
