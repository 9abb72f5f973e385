"""Ask a taught model: seal ask my-model "…" (--compare: with and without what it was taught)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _options


@_options.grouped
def ask(
    *,
    model: Annotated[Path, Argument(help="Folder of a taught model.")],
    question: Annotated[str, Argument(help="The question; - reads it from standard input.")],
    compare: Annotated[bool, Option("--compare", help="Untaught and taught side by side.")] = False,
    adapter: Annotated[str, Option(help="auto, untaught, or the name of an adapter.")] = "auto",
    max_tokens: Annotated[int, Option(min=1, help="Longest answer, in tokens.")] = 128,
    source: Annotated[bool, Option(help="Say which passage the question seems to be about.")] = True,
    place: _options.DeviceOptions,
    log_level: _options.LogLevel = "WARNING",
) -> None:
    """The answer is printed as it is written. It is greedy: the same question has the same answer."""
    import sys

    from seal.cli import _ask
    from seal.records import Sampling
    from seal.run import log
    from seal.taught.model import TaughtModel

    log.set_up(log_level.upper())
    if question == "-":
        question = sys.stdin.read()
    sampling = Sampling(temperature=0.0, max_new_tokens=max_tokens)
    opened = TaughtModel(model, place.device, place.dtype)
    if compare:
        _ask.side_by_side(opened, question, sampling)
    else:
        reply = opened.ask(question, adapter=adapter, on_text=_ask.say, sampling=sampling)
        print(flush=True)
        if source:
            _ask.say_source(reply)
