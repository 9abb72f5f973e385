"""Write k self-edits for every passage of a data set, with a local model or an OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from seal.cli import _backend, _options
from seal.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from seal.inner.protocol import Generator
    from seal.records import Task


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
    from seal.recipes.make_data import DataSettings
    from seal.recipes.make_data import make_data as run

    with _backend.interruptible(log_level, "the same command goes on"):
        generator: Generator
        if model is not None:
            generator, prompt_of = _local(model, prompt, device_options)
        else:
            generator, prompt_of = _remote(
                base_url or "", server_model, api, api_key_env, concurrency, prompt
            )
        settings = DataSettings(
            dataset=dataset,
            out=out,
            model=model or server_model,
            start=start,
            n=n,
            k=k,
            sampling=options.sampling(),
            seed=seed,
            batch=batch,
        )
        print(run(settings, generator, prompt_of))
    _backend.say_next(f"seal query --data {out} --out RUN.json --local MODEL (or --server ADDRESS)")


def _local(
    model: str, prompt: str, device_options: _options.DeviceOptions
) -> tuple[Generator, Callable[[Task], str]]:
    from seal.domains.knowledge import KnowledgeIncorporation
    from seal.inner.loop import LocalGenerator

    domain = KnowledgeIncorporation(prompt)
    loaded = device_options.load(model)
    return LocalGenerator(loaded), lambda task: domain.prompt_for(task, loaded.tokenizer)


def _remote(
    base_url: str, model: str, api: str, key_env: str, concurrency: int, prompt: str
) -> tuple[Generator, Callable[[Task], str]]:
    from seal.domains.knowledge import KnowledgeIncorporation
    from seal.models.openai_generator import OpenAIGenerator

    if not model:
        raise ConfigError("--server-model is missing", "give the server's name for the model")
    domain = KnowledgeIncorporation(prompt, chat=api == "chat")
    generator = OpenAIGenerator(
        model,
        "" if base_url == "openai" else base_url,
        "chat" if api == "chat" else "completions",
        key_env,
        concurrency=concurrency,
    )
    return generator, domain.create_self_edit_prompt
