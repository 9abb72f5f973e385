"""Measure what every self-edit of a data set is worth (single passage), through a server or in process."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from seal.cli import _ttt
from seal.errors import ConfigError


def query(
    data: _ttt.Data,
    out: _ttt.Out,
    server: _ttt.Server = None,
    local: _ttt.Local = None,
    n: _ttt.Articles = None,
    k: _ttt.Completions = None,
    repeats: Annotated[int, Option("--eval-times", min=1, help="Adapters trained a completion.")] = 3,
    split_newlines: _ttt.Split = True,
    rank: _ttt.Rank = 32,
    alpha: _ttt.Alpha = 64.0,
    dropout: _ttt.Dropout = 0.0,
    epochs: _ttt.Epochs = 10,
    lr: _ttt.Rate = 1e-3,
    batch_size: _ttt.Batch = 1,
    grad_accum: _ttt.Accumulation = 1,
    exp_name: Annotated[str, Option(help="Name of the experiment, for the result file.")] = "",
    seed: _ttt.Seed = 0,
    shutdown_server: Annotated[bool, Option("--shutdown-server", help="End the server when done.")] = False,
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
    """Write run_<name>.json in SEAL's own format. With a server, the server grades."""
    if (server is None) == (local is None):
        raise ConfigError("one of --server and --local is needed", "name a server, or a model to load here")
    if k == 0:
        raise ConfigError("--k is 0", "measure at least 1 completion")
    from seal.recipes.query import QuerySettings
    from seal.recipes.query import query as run

    settings = QuerySettings(
        data=data,
        out=out,
        n=n,
        k=k,
        repeats=repeats,
        split_newlines=split_newlines,
        recipe=_ttt.recipe(rank, alpha, dropout, epochs, lr, batch_size, grad_accum),
        exp_name=exp_name,
        seed=seed,
    )
    with _ttt.interruptible(log_level, "the same command goes on"):
        if local is not None:
            judge = _ttt.make_grader(grader, judge_url, judge_model, judge_key_env)
            result = run(settings, _ttt.local_ttt(_ttt.load(local, device, dtype), judge))
        else:
            result = run(settings, _ttt.remote_ttt(server or "", wait, keys, server_key))
            if shutdown_server:
                _end(server or "", keys, server_key)
    overall, bounds = result.overall, (result.model_extra or {})["intervals"]
    print(f"baseline {_ttt.percent(overall.baseline_mean_accuracy, bounds['baseline_mean_accuracy'])}")
    print(f"adapted  {_ttt.percent(overall.adapter_mean_accuracy, bounds['adapter_mean_accuracy'])}")
    print(f"gain     {_ttt.percent(overall.mean_gain, bounds['mean_gain'])}")
    print(out)


def _end(server: str, keys: _ttt.Keys, server_key: _ttt.ServerKey) -> None:
    from seal.serve.client import TTTClient

    TTTClient(_ttt.link(server, 5.0, keys, server_key)).command("shutdown")
