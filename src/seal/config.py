"""`load_config`: the settings of a run from presets, YAML or JSON files, and flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seal.config_reader import preset_names, preset_text, read
from seal.settings import SEALConfig

__all__ = ["SEALConfig", "load_config", "preset_names", "preset_text"]


def load_config(
    path: str | Path | None = None,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> SEALConfig:
    """`seal.config_reader.read` for the settings of a run."""
    return read(SEALConfig, path, preset, overrides)
