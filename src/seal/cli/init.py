"""Write a config file with every setting, explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from seal.errors import ConfigError


def init(
    path: Annotated[Path, Argument(help="File to write.")] = Path("config.yaml"),
    preset: Annotated[str | None, Option(help="Preset to take the values from.")] = None,
) -> None:
    """Write a config file with every setting, its meaning and its unit. Nothing is overwritten."""
    from seal.config import load_config

    text = commented(load_config(preset=preset))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists already", "give another name, or delete it") from None
    print(f"wrote {path}; run: seal train --config {path}")


def commented(config: Any) -> str:
    """All settings of a `SEALConfig` as YAML, each under the comment that explains it."""
    lines = ["# Settings of seal. Delete what you do not change: the values below are then the defaults.", ""]
    return "\n".join([*lines, *_section(config, "")]) + "\n"


def _section(section: Any, indent: str) -> list[str]:
    from pydantic import BaseModel

    from seal.yaml_lines import dump

    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            about = (type(value).__doc__ or "").strip().partition("\n")[0]
            lines += ["", f"{indent}# {about}", f"{indent}{name}:", *_section(value, indent + "  ")]
            continue
        lines += [f"{indent}# {line}" for line in (field.description or "").splitlines()]
        plain = section.model_dump(mode="json", include={name})
        lines += [indent + line for line in dump(plain).splitlines()]
    return lines
