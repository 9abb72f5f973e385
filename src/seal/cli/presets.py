"""List the presets, or show one."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option


def presets(
    name: Annotated[str | None, Argument(help="Preset to show; none: list them.")] = None,
    resolved: Annotated[bool, Option("--resolved", help="Show every setting, defaults too.")] = False,
) -> None:
    """List the presets, or show one as YAML (a file to copy and change)."""
    from seal.config import load_config, preset_names, preset_text

    if name is None:
        for each in preset_names():
            about = preset_text(each).splitlines()[0].lstrip("# ")
            print(f"{each:<30} {about}")
    elif resolved:
        print(load_config(preset=name).to_yaml(), end="")
    else:
        print(preset_text(name), end="")
