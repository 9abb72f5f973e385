"""List the presets, or show one."""

from __future__ import annotations

import shutil
import textwrap
from itertools import takewhile
from typing import Annotated, Any

from typer import Argument, Option

_WHOLE: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}


def presets(
    name: Annotated[str | None, Argument(help="Preset to show; none: list them.")] = None,
    resolved: Annotated[bool, Option("--resolved", help="Show every setting, defaults too.")] = False,
) -> None:
    """List the presets, or show one as YAML (a file to copy and change)."""
    from seal.config import load_config, preset_names, preset_text

    if name is None:
        width = max(shutil.get_terminal_size().columns, 40)
        for each in preset_names():
            comment = takewhile(lambda line: line.startswith("#"), preset_text(each).splitlines())
            about = " ".join(line.lstrip("# ") for line in comment)
            print(each, *(f"    {line}" for line in textwrap.wrap(about, width - 4, **_WHOLE)), sep="\n")
    elif resolved:
        print(load_config(preset=name).to_yaml(), end="")
    else:
        print(preset_text(name), end="")
