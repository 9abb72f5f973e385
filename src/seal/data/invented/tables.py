"""The word tables beside this file: families with their wordings, pools of everyday words, syllables."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def table(name: str) -> Any:
    """The content of `name`, a YAML file of this package: read it, do not change it."""
    return yaml.safe_load((resources.files("seal.data.invented") / name).read_text(encoding="utf-8"))
