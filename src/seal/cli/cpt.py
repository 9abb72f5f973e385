"""Train on the self-edits of many passages together (continued pretraining), and answer all questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from seal.cli import _ttt
from seal.errors import ConfigError


def cpt(
    data: _ttt.Data,
    out: _ttt.Out,
    server: _ttt.Server = None,
    local: _ttt.Local = None,
    full: Annotated[
        bool, Option("--full", help="Train all weights, not a LoRA adapter (--local only).")
    ] = False,
    save: Annotated[Path | None, Option(help="Folder for the model that --full makes.")] = None,
    n: _ttt.Articles = None,
    k: _ttt.Completions = None,
    split_newlines: _ttt.Split = True,
    rank: _ttt.Rank = 32,
    alpha: _ttt.Alpha = 64.0,
    dropout: _ttt.Dropout = 0.0,
    epochs: Annotated[int | None, Option(min=0, help="Default: 3, with --full 1.")] = None,
    lr: Annotated[float | None, Option(help="Default: 1e-3, with --full 7e-5.")] = None,
    batch_size: _ttt.Batch = 4,
    grad_accum: _ttt.Accumulation = 2,
    seed: _ttt.Seed = 0,
    wait: _ttt.Wait = 0.0,
    keys: _ttt.Keys = None,
    server_key: _ttt.ServerKey = None,
    grader: _ttt.GraderKind = "lexical",
    judge_url: _ttt.JudgeUrl = "",
    judge_model: _ttt.JudgeModel = "gpt-4.1",
    judge_key_env: _ttt.JudgeKey = "",
    device: _ttt.Device = "auto",
    dtype: _ttt.Dtype = "auto",
    log_level: _ttt.LogLevel = "INFO",
) -> None:
    """Write a result file in SEAL's own format. `--k 0` trains on the passages alone."""
    if (server is None) == (local is None) or (full and local is None):
        raise ConfigError("one of --server and --local is needed, and --full is --local", "choose one")
    if full != (save is not None):
        raise ConfigError("--full and --save belong together", "give both or neither")
    from seal.recipes.cpt import CPTSettings, cpt_full
    from seal.recipes.cpt import cpt as run

    lr = lr if lr is not None else 7e-5 if full else 1e-3
    epochs = epochs if epochs is not None else 1 if full else 3
    settings = CPTSettings(
        data=data,
        out=out,
        n=n,
        k=k,
        split_newlines=split_newlines,
        recipe=_ttt.recipe(rank, alpha, dropout, epochs, lr, batch_size, grad_accum),
        seed=seed,
    )
    with _ttt.interruptible(log_level, "the same command goes on"):
        result: dict[str, Any]
        if local is None:
            result = run(settings, _ttt.remote_ttt(server or "", wait, keys, server_key))
        else:
            judge = _ttt.make_grader(grader, judge_url, judge_model, judge_key_env)
            loaded = _ttt.load(local, device, dtype)
            if save is not None:
                result = cpt_full(
                    settings,
                    loaded,
                    lambda tuned: _ttt.engine(tuned, judge),
                    save,
                    lambda folder: _ttt.load(str(folder), device, dtype),
                )
            else:
                result = run(settings, _ttt.local_ttt(loaded, judge))
    overall, bounds = result["overall"], result["intervals"]
    print(f"baseline {_ttt.percent(overall['baseline_accuracy'], bounds['baseline_accuracy'])}")
    print(f"adapted  {_ttt.percent(overall['adapter_accuracy'], bounds['adapter_accuracy'])}")
    print(f"gain     {_ttt.percent(overall['gain'], bounds['gain'])}")
    print(out)
