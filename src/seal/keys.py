"""API keys: from the environment, or from a file `.env` in the working directory. No message holds one."""

from __future__ import annotations

import os
from pathlib import Path

from seal.errors import ConfigError
from seal.extras import need

FILE = ".env"


def key(variable: str) -> str:
    """The key that `variable` holds; no name: none is needed.

    Raises:
        ConfigError: neither the environment nor `.env` sets it, or the file cannot be read.
        MissingExtra: it would be in `.env`, and python-dotenv is not installed.
    """
    if not variable:
        return ""
    found = os.environ.get(variable, "").strip() or _from_file(variable)
    if not found:
        raise ConfigError(
            f"the environment variable {variable} is not set",
            "export it with the API key, or put it into .env",
        )
    return found


def _from_file(variable: str) -> str:
    file = Path(FILE)  # of this very folder: a file that lies further up is not meant
    if not file.is_file():
        return ""
    read = need("dotenv", f"reading {variable} from {FILE}").dotenv_values
    try:
        return (read(file, interpolate=False).get(variable) or "").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{FILE} cannot be read", "correct it, or export the key") from None
