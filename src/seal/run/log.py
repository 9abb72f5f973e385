"""Logging: for people on the terminal, as JSON lines in the run folder; secrets appear in neither."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

_SECRET_NAME = re.compile(r"(^|_)(API_?)?(KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a model may write and a terminal would obey."""
_IN_ADDRESS = re.compile(
    r"(?<=://)[^/\s@'\"]+(?=@)|(?<=[?&])(?:[\w-]*(?:key|token|secret|password))=[^&\s'\"]+", re.IGNORECASE
)
"""Credentials in an address: in front of its host, or in its query."""
_SHORTEST_SECRET = 6
"""Shorter values are switches (`USE_TOKEN=1`), not secrets; blanking them would garble every line."""


def redact(text: str) -> str:
    """`text` without secrets: *** for credentials in addresses, and for the values of environment variables
    that are named like secrets their names."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, f"<{name}>")
    return _IN_ADDRESS.sub("***", text)


def refuse_secrets(value: Any, name: str = "") -> None:
    """Refuse settings that would carry a secret into a run's files and to its trackers.

    Args:
        value: lists, mappings and plain values.
        name: what the settings as a whole are called.

    Raises:
        ConfigError: a text holds credentials in an address, or the value of a secret environment variable.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_secrets(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_secrets(item, name)
    elif isinstance(value, str) and (shown := redact(value)) != value:
        raise ConfigError(
            f"{name}: {shown!r:.120} holds a password or key, which would stand in the files of the run",
            "leave it out, export it, and let what needs it read the environment",
        )


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = redact(super().format(record))
        return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return redact(json.dumps(entry, ensure_ascii=False))


class _LogFile(logging.FileHandler):
    """A log that cannot be written (a full disk) is no news of its own: the journal says it, in one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def set_up(level: str = "INFO", folder: Path | None = None) -> Console | None:
    """Show messages from `level` on stderr, and write all from DEBUG to `folder/seal.jsonl`.

    Returns the terminal that they are shown on, if it is one: a progress bar on it stays below them.

    Only the loggers under `seal` are touched. Calling it again replaces what an earlier call set up.
    """
    logger = logging.getLogger("seal")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    terminal, console = _terminal()
    terminal.setLevel(level)
    logger.addHandler(terminal)
    logger.propagate = False
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = _LogFile(folder / "seal.jsonl", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_JsonLines())
        logger.addHandler(file)
    logger.setLevel("DEBUG" if folder is not None else level)
    return console


def _terminal() -> tuple[logging.Handler, Console | None]:
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        console = Console(stderr=True)
        rich = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        rich.setFormatter(_Plain("%(message)s"))
        return rich, console
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return plain, None
