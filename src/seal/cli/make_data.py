"""Write k self-edits for every passage of a data set, with a local model or an OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from seal.cli import _backend, _options, command
from seal.errors import ConfigError

OPENAI = "https://api.openai.com/v1"


@_options.grouped
def make_data(
    *,
    dataset: Annotated[str, Argument(help="Passages: a SQuAD or SEAL JSON file, a folder, or builtin.")],
    out: Annotated[Path, Option(help="The JSON file to write; <out>.meta comes beside it.")],
    prompt: Annotated[
        str, Option(help="implications, self-qa, rewrite, … (see docs), or none.")
    ] = "implications",
    model: Annotated[
        str | None, Option(help="Local model: hub id, folder, .gguf file, built-in name.")
    ] = None,
    base_url: Annotated[
        str | None, Option(help="OpenAI-compatible server (http://host:port/v1; 'openai': OpenAI's own).")
    ] = None,
    server_model: Annotated[str, Option(help="Its name for the model.")] = "",
    api: Annotated[str, Option(help="chat, or completions for base models.")] = "chat",
    api_key_env: Annotated[str, Option(help="Variable that holds the key.")] = "",
    concurrency: Annotated[int, Option(min=1, help="Requests under way at once.")] = 8,
    start: Annotated[int, Option(min=0, help="First passage of the official shuffle (seed 42).")] = 0,
    n: Annotated[int | None, Option(min=1, help="Passages; default: all.")] = None,
    k: Annotated[int, Option(min=1, help="Completions a passage.")] = 5,
    options: _options.SamplingOptions,
    budget: _options.Budget,
    seed: _options.Seed = 0,
    batch: Annotated[int, Option(min=1, help="Completions asked for at once.")] = 32,
    device_options: _options.DeviceOptions,
    log_level: _options.LogLevel = "INFO",
) -> None:
    """Write the data set in SEAL's own format. The same command goes on where it was interrupted."""
    if (model is None) == (base_url is None):
        raise ConfigError("one of --model and --base-url is needed", "name a local model, or a server")
    if api not in ("chat", "completions"):
        raise ConfigError(f"--api is {api!r}", "choose chat or completions")
    if base_url is not None and not server_model:
        raise ConfigError("--server-model is missing", "give the server's name for the model")
    from seal import setup
    from seal.recipes import pipeline
    from seal.recipes.make_data import make_data as run_make_data
    from seal.writers import Writers

    remote: dict[str, Any] = {}
    if base_url is not None:
        remote = {
            "generation__base_url": OPENAI if base_url == "openai" else base_url,
            "generation__model": server_model,
            "generation__api": api,
            "generation__api_key_env": api_key_env,
            "generation__concurrency": concurrency,
            "generation__timeout_s": 600.0,
            "data_config__options": {"chat": api == "chat"},
        }
    config = pipeline.settings(
        model or server_model,
        dataset,
        out,
        **device_options.settings(),
        **options.settings(),
        **remote,
        **budget.settings("generation"),
        data_config__prompt_type=prompt,
        samples_per_iteration=k,
        seed=seed,
    )
    with _backend.interruptible(log_level, "the same command goes on") as progress:
        domain = setup.make_domain(config, None)
        loaded = device_options.load(model) if model is not None else None
        version = loaded.version if loaded else server_model
        step = pipeline.Step.here("make-data", out, command())
        purse = setup.purse(config)
        generator = Writers(config.generation, config.model_name, purse=purse).generator(loaded)
        sampler = setup.edit_sampler(config, domain, generator, loaded.tokenizer if loaded else None)
        with pipeline.open_run(config, step) as run, _backend.paying(run, purse):
            run.progress = progress
            print(run_make_data(run, sampler, version, out, start, n, batch))
    _backend.say_next(f"seal query --data {out} --out RUN.json --local MODEL (or --server ADDRESS)")
