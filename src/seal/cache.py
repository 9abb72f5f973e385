"""The folder in which built models, remembered hashes and known settings live."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$SEAL_CACHE`, else the platform's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("SEAL_CACHE") or user_cache_dir("seal", appauthor=False)).expanduser()
