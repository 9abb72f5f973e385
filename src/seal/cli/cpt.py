"""Train on the self-edits of many passages together (continued pretraining), and answer all questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from seal.cli import _backend, _options, command
from seal.errors import ConfigError
from seal.training_config import TrainingConfig, checked

if TYPE_CHECKING:
    from seal.estep import EStep

_TRAINING = TrainingConfig(batch_size=4, accumulation=2)
_FLAGS = {name: field for name, field in _options.INNER_FLAGS.fields.items() if name not in ("epochs", "lr")}


@_options.grouped
def cpt(
    *,
    data: _options.Data,
    out: _options.Out,
    backend: _backend.Backend,
    full: Annotated[
        bool, Option("--full", help="Train all weights, not a LoRA adapter (--local only).")
    ] = False,
    save: Annotated[Path | None, Option(help="Folder for the model that --full makes.")] = None,
    n: _options.Articles = None,
    k: _options.Completions = None,
    split_newlines: _options.Split = True,
    training: Annotated[TrainingConfig, _options.Flags(_FLAGS)] = _TRAINING,
    epochs: Annotated[int | None, Option(help="Passes over the sequences.")] = None,
    lr: Annotated[float | None, Option(help="Peak learning rate.")] = None,
    seed: _options.Seed = 0,
    grading: _options.Grading,
    budget: _options.Budget,
    engine_options: _options.EngineOptions,
    device_options: _options.DeviceOptions,
    log_level: _options.LogLevel = "INFO",
) -> None:
    """Write a result file in SEAL's own format. `--k 0` trains on the passages alone.

    Without --epochs and --lr: 3 epochs at 1e-3; with --full 1 epoch at 7e-5.
    """
    _check(backend, full, save)
    from seal import setup
    from seal.recipes import cpt as recipe
    from seal.recipes import pipeline
    from seal.recipes.articles import read_articles

    training = _training(full, training, epochs, lr)
    articles = read_articles(data, n, k or None)  # said before a server is waited for
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
            seed=seed,
        )
        pairs = pipeline.pair_with_tasks(articles, config, policy.tokenizer)
        step = pipeline.Step.here("cpt --full" if full else "cpt", out, command())
        with pipeline.open_run(config, step) as run, _backend.paying(run, setup.purse(config)) as purse:
            run.progress = progress
            estep = backend.estep(run, policy, purse)

            def taught(folder: Path) -> EStep:
                return backend.estep(run, device_options.load(str(folder)), purse)

            if save is None:
                result = recipe.cpt(estep, pairs, out, passages_only=k == 0)
            else:
                result = recipe.cpt_full(estep, pairs, out, save, taught, passages_only=k == 0)
            estep.close()
    _say(result)
    print(out)


def _check(backend: _backend.Backend, full: bool, save: Path | None) -> None:
    backend.check()
    if full and backend.local is None:
        raise ConfigError("--full trains in this process", "give --local MODEL, not --server")
    if full != (save is not None):
        raise ConfigError("--full and --save belong together", "give both or neither")


def _training(
    full: bool, training: TrainingConfig, epochs: int | None, learning_rate: float | None
) -> TrainingConfig:
    """`training`, with the paper's epochs and rate of this way where none are given. Raises `ConfigError`."""
    from seal.recipes import cpt as recipe

    official = recipe.PAPER_CPT_FULL if full else recipe.PAPER_CPT
    course = {
        "epochs": official.epochs if epochs is None else epochs,
        "learning_rate": official.learning_rate if learning_rate is None else learning_rate,
    }
    return checked(course, training, {"epochs": "--epochs", "learning_rate": "--lr"})


def _say(result: dict[str, Any]) -> None:
    overall, bounds = result["overall"], result["intervals"]
    for name, key in (
        ("baseline", "baseline_accuracy"),
        ("adapted ", "adapter_accuracy"),
        ("gain    ", "gain"),
    ):
        print(f"{name} {_backend.percent(overall[key], bounds[key])}")
