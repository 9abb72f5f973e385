"""Options that the general-knowledge verbs share, and what they are turned into."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from seal.errors import ConfigError, ServeError

if TYPE_CHECKING:
    from seal.grading import Grader
    from seal.inner.protocol import InnerLoop
    from seal.models.load import LoadedModel
    from seal.serve.client import Link
    from seal.serve.messages import TTTRequest
    from seal.serve.requests import TTT

Server = Annotated[
    str | None, Option(help="TTT server: tcp://host:port, or the --endpoint-file of `seal serve`.")
]
Local = Annotated[str | None, Option(metavar="MODEL", help="Measure in this process, with this model.")]
Wait = Annotated[float, Option(help="Seconds to wait for the server to come up.")]
Keys = Annotated[Path | None, Option(help="This client's key_secret file, for a server with CURVE keys.")]
ServerKey = Annotated[Path | None, Option(help="The server's .key file; not needed with an endpoint file.")]
Device = Annotated[str, Option(help="auto, cpu, mps, cuda or cuda:1.")]
Dtype = Annotated[str, Option(help="auto, float32 or bfloat16.")]
GraderKind = Annotated[str, Option("--grader", help="lexical (offline) or judge (an LLM).")]
JudgeUrl = Annotated[str, Option(help="The judge's OpenAI-compatible address; default: OpenAI's.")]
JudgeModel = Annotated[str, Option(help="The judge's model.")]
JudgeKey = Annotated[str, Option("--judge-key-env", help="Variable that holds the judge's key.")]
Data = Annotated[Path, Option(help="Generated data (`seal make-data`).")]
Out = Annotated[Path, Option(help="Result file; the same command goes on with an unfinished one.")]
Articles = Annotated[int | None, Option("--n", min=1, help="Articles; default: all.")]
Completions = Annotated[int | None, Option("--k", min=0, help="Completions an article; default: all.")]
Split = Annotated[bool, Option(help="Every line of a completion is a sequence of its own.")]
Seed = Annotated[int, Option(min=0, help="Every other seed derives from it.")]
Rank = Annotated[int, Option("--lora-rank", min=1, help="LoRA rank.")]
Alpha = Annotated[float, Option("--lora-alpha", help="LoRA alpha.")]
Dropout = Annotated[float, Option("--lora-dropout", help="LoRA dropout.")]
Epochs = Annotated[int, Option("--epochs", min=0, help="Passes over the sequences.")]
Rate = Annotated[float, Option("--lr", help="Peak learning rate.")]
Batch = Annotated[int, Option("--batch-size", min=1, help="Sequences in one forward pass.")]
Accumulation = Annotated[int, Option("--grad-accum", min=1, help="Forward passes an update.")]
LogLevel = Annotated[str, Option(help="DEBUG, INFO, WARNING or ERROR.")]


def recipe(
    rank: int, alpha: float, dropout: float, epochs: int, lr: float, batch: int, accumulation: int
) -> TTTRequest:
    """The LoRA settings as a request without texts. Raises `ConfigError` where one is out of range."""
    from pydantic import ValidationError

    from seal.serve.messages import TTTRequest

    try:
        return TTTRequest(
            lora_rank=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            finetune_epochs=epochs,
            finetune_lr=lr,
            batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}, given {first['input']!r}") from None


def make_grader(kind: str, url: str, model: str, key_env: str) -> Grader:
    """The grader of the answers."""
    from seal import grading

    if kind == "judge":
        return grading.make_grader("judge", base_url=url, model=model, api_key_env=key_env)
    return grading.make_grader(kind)


def load(name: str, device: str, dtype: str) -> LoadedModel:
    """Load a model, quietly."""
    from seal.models.load import load_model

    return load_model(name, device, dtype)


def engine(loaded: LoadedModel, grader: Grader | None, slots: int | None = None) -> InnerLoop:
    """The engine of this process."""
    from seal.inner.loop import LocalInnerLoop

    return LocalInnerLoop(loaded, grader, slots=slots)


def local_ttt(loaded: LoadedModel, grader: Grader) -> TTT:
    """Text requests answered in this process."""
    from seal.serve.requests import LocalTTT, Requests

    return LocalTTT(engine(loaded, grader), Requests(loaded))


def remote_ttt(server: str, wait: float, keys: Path | None, server_key: Path | None) -> TTT:
    """Text requests answered by a server that is up, at the latest after `wait` seconds."""
    from seal.serve.client import RemoteTTT

    return RemoteTTT(link(server, wait, keys, server_key))


def link(server: str, wait: float, keys: Path | None, server_key: Path | None) -> Link:
    """How to reach the server.

    Raises:
        ConfigError: `server` is neither an address nor an endpoint file, or it wants keys.
        ServeError: it is not up after `wait` seconds.
    """
    from seal.serve.client import Link, TTTClient
    from seal.serve.security import read_keys, read_public

    until = time.monotonic() + wait
    while True:
        try:
            found: dict[str, Any] = (
                {"endpoint": server} if "://" in server else _endpoint(Path(server), until)
            )
            public = read_public(server_key) if server_key else str(found.get("server_key", ""))
            if public and keys is None:
                raise ConfigError("the server wants a client key", "give --keys FILE")
            made = Link(str(found["endpoint"]), server_key=public, keys=read_keys(keys) if keys else None)
            left = max(1.0, min(5.0, until - time.monotonic()))
            TTTClient(Link(made.endpoint, left, server_key=made.server_key, keys=made.keys)).command("health")
            return made
        except ServeError:
            if time.monotonic() >= until:
                raise


def _endpoint(path: Path, until: float) -> dict[str, Any]:
    """What `seal serve --endpoint-file` wrote, as soon as it is there."""
    while not path.exists():
        if time.monotonic() >= until:
            raise ServeError(f"there is no {path}", "start a server with: seal serve --endpoint-file FILE")
        time.sleep(0.2)
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict) and "endpoint" in found:
            return found
    except (OSError, ValueError):
        pass
    raise ConfigError(f"{path} is no endpoint file", "name the file of: seal serve --endpoint-file FILE")


@contextmanager
def interruptible(level: str, again: str) -> Iterator[None]:
    """Log to the terminal; SIGTERM ends like Ctrl-C, with a line that says how to go on."""
    from seal.cli import Interrupted
    from seal.track import log

    log.set_up(level.upper())
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {again}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def percent(mean: float | None, bounds: list[float] | None) -> str:
    """`12.3 % [10.0, 15.0]`."""
    if mean is None:
        return "not measured"
    spread = f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else ""
    return f"{100 * mean:.1f} %{spread}"
