"""Logging: for people on the terminal, as JSON lines in the run folder; secrets appear in neither."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

_SECRET_NAME = re.compile(r"(^|_)(API_?)?(KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Shorter values are switches (`USE_TOKEN=1`), not secrets; blanking them would garble every line."""


def redact(text: str) -> str:
    """`text` with the values of environment variables named like secrets replaced by their names."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, f"<{name}>")
    return text


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


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


def set_up(level: str = "INFO", folder: Path | None = None) -> None:
    """Show messages from `level` on stderr, and write all from DEBUG to `folder/seal.jsonl`.

    Only the loggers under `seal` are touched. Calling it again replaces what an earlier call set up.
    """
    logger = logging.getLogger("seal")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    terminal = _terminal()
    terminal.setLevel(level)
    logger.addHandler(terminal)
    logger.propagate = False
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / "seal.jsonl", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_JsonLines())
        logger.addHandler(file)
    logger.setLevel("DEBUG" if folder is not None else level)


def _terminal() -> logging.Handler:
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        rich = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")
        rich.setFormatter(_Plain("%(message)s"))
        return rich
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return plain
