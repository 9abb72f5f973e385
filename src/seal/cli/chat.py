"""Talk to a taught model; /compare QUESTION shows both answers, /new begins afresh, /quit or Ctrl-D ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _options
from seal.wording import counted


@_options.grouped
def chat(
    *,
    model: Annotated[Path, Argument(help="Folder of a taught model.")],
    adapter: Annotated[str, Option(help="auto, untaught, or the name of an adapter.")] = "auto",
    max_tokens: Annotated[int, Option(min=1, help="Longest answer, in tokens.")] = 128,
    place: _options.DeviceOptions,
    log_level: _options.LogLevel = "WARNING",
) -> None:
    """Every turn goes to the adapter that knows what the last question is about."""
    import sys

    from seal.cli import _ask
    from seal.errors import SealError
    from seal.records import Sampling
    from seal.run import log
    from seal.taught.model import TaughtModel

    log.set_up(log_level.upper())
    opened = TaughtModel(model, place.device, place.dtype)
    sampling = Sampling(temperature=0.0, max_new_tokens=max_tokens)
    told = sys.stdin.isatty()
    if told:
        print(f"taught: {counted(len(opened.passages), 'passage')}. /compare QUESTION, /new, /quit")
    turns: list[dict[str, str]] = []
    while True:
        try:
            line = input("> " if told else "").strip()
        except EOFError:
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            turns = []
            continue
        try:
            if line.startswith("/compare"):
                _ask.side_by_side(opened, line.removeprefix("/compare").strip(), sampling)
            elif line:
                asked = [*turns, {"role": "user", "content": line}]
                reply = opened.chat(asked, adapter=adapter, on_text=_ask.say, sampling=sampling)
                print(flush=True)
                turns = [*asked, {"role": "assistant", "content": reply.text}]
        except SealError as error:  # a turn that cannot be answered does not end the conversation
            print(f"error: {error}", file=sys.stderr)
