"""Learn passages one after another, merging each, and measure what is forgotten and what prevents it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _ttt
from seal.errors import ConfigError


def continual(
    dataset: Annotated[str, Argument(help="Passages: a SQuAD or SEAL JSON file, or builtin.")],
    model: Annotated[str, Option(help="Hub id, folder, .gguf file or built-in name.")],
    out: _ttt.Out,
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
    split_newlines: _ttt.Split = True,
    rank: _ttt.Rank = 32,
    alpha: _ttt.Alpha = 64.0,
    dropout: _ttt.Dropout = 0.0,
    epochs: _ttt.Epochs = 10,
    lr: _ttt.Rate = 1e-3,
    batch_size: _ttt.Batch = 1,
    grad_accum: _ttt.Accumulation = 1,
    temperature: Annotated[float, Option(min=0, help="Sampling temperature of the self-edits.")] = 1.0,
    top_p: Annotated[float, Option(help="Nucleus sampling.")] = 0.95,
    max_tokens: Annotated[int, Option(min=1, help="Longest self-edit, in tokens.")] = 8192,
    heat_map: Annotated[Path | None, Option(help="Picture of the matrices; default: beside --out.")] = None,
    seed: _ttt.Seed = 0,
    grader: _ttt.GraderKind = "lexical",
    judge_url: _ttt.JudgeUrl = "",
    judge_model: _ttt.JudgeModel = "gpt-4.1",
    judge_key_env: _ttt.JudgeKey = "",
    device: _ttt.Device = "auto",
    dtype: _ttt.Dtype = "auto",
    log_level: _ttt.LogLevel = "INFO",
) -> None:
    """Write the (K+1) x K accuracy matrices in SEAL's own format, a table and a heat map."""
    if not 0 < top_p <= 1:
        raise ConfigError(f"--top-p is {top_p}", "give a number above 0, at most 1")
    from seal.domains.knowledge import KnowledgeIncorporation
    from seal.inner.loop import LocalGenerator
    from seal.recipes import continual as recipe
    from seal.records import Sampling

    settings = recipe.ContinualSettings(
        dataset=dataset,
        out=out,
        edits=edits,
        sequences=sequences,
        methods=tuple(name.strip() for name in methods.split(",")),
        split_newlines=split_newlines,
        recipe=_ttt.recipe(rank, alpha, dropout, epochs, lr, batch_size, grad_accum),
        sampling=Sampling(temperature, top_p, max_tokens),
        replay=replay,
        tolerance=tolerance,
        seed=seed,
    )
    domain = KnowledgeIncorporation(prompt)
    with _ttt.interruptible(log_level, "the same command goes on"):
        judge = _ttt.make_grader(grader, judge_url, judge_model, judge_key_env)
        loaded = _ttt.load(model, device, dtype)
        tools = recipe.Tools(
            inner_of=lambda edited: _ttt.engine(edited, judge),
            generator_of=LocalGenerator,
            prompt_of=lambda task: domain.prompt_for(task, loaded.tokenizer),
        )
        result = recipe.continual(settings, loaded, tools)
    print(recipe.table(result))
    print(recipe.heat_map(result, heat_map or out.with_suffix(".png")))
    print(out)
