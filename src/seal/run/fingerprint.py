"""Settings of a run that nobody changed unseen: a checksum in `config.yaml`, and whose code they name.

A resumed run takes its settings from a file, and classes and programs that the file names are called. So the
first line of the file holds the checksum of the rest, and settings that name code of the user's own are
remembered where the run begins: taken up by someone who never began such a run, they are asked for again.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from seal.cache import cache_dir
from seal.errors import RunError
from seal.plugins import is_import_path
from seal.settings import SEALConfig

_HEAD = "# sha256 of the settings below: "
ACCEPT = "--accept-settings"


def signed(text: str) -> str:
    """The settings `text` below their checksum."""
    return f"{_HEAD}{_digest(text)}\n{text}"


def check_sum(file: Path) -> None:
    """Raise `RunError` unless the settings in `file` are as they were written."""
    head, _, settings = file.read_text("utf-8").partition("\n")
    if head != _HEAD + _digest(settings):
        why = "has changed since the run began" if head.startswith(_HEAD) else "has lost its checksum"
        raise RunError(
            f"{file}: {why}",
            f"restore it; if it is as it should be, run: seal resume {file.parent} {ACCEPT}",
        )


def unsigned(text: str) -> str:
    """The settings without a checksum above them."""
    return text.partition("\n")[2] if text.startswith(_HEAD) else text


def own_code(config: SEALConfig) -> dict[str, str]:
    """Settings that name a class to import or a program to run, and what they name."""
    data = config.data_config
    named = {
        "domain": config.domain,
        "reward": config.reward,
        "data_config.loader": data.loader,
        "data_config.path": data.path,
        "data_config.val_path": data.val_path,
        "data_config.dataset_name": data.dataset_name,
    }
    generation = config.generation
    programs = {"deploy_hook": generation.deploy_hook, "python": generation.python}
    if generation.engine == "vllm":
        programs["engine_arguments"] = shlex.join(generation.engine_arguments)
    return {name: value for name, value in named.items() if value and is_import_path(value)} | {
        f"generation.{name}": value for name, value in programs.items() if value
    }


def remember(config: SEALConfig) -> None:
    """The user began a run with these settings, or accepted them: classes in them are known."""
    if own_code(config):
        try:
            known = _memory(config)
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()
        except OSError:
            pass  # asked for again when the run is taken up


def check_classes(config: SEALConfig, folder: Path) -> None:
    """Raise `RunError` where settings name classes and this user never began a run with them."""
    named = own_code(config)
    if named and not _memory(config).exists():
        name, value = next(iter(named.items()))
        raise RunError(
            f"{folder}: a run that was begun elsewhere asks for code: {name} {value!r}",
            f"look at that code; to run it: seal resume {folder} {ACCEPT}",
        )


def _memory(config: SEALConfig) -> Path:
    return cache_dir() / "settings" / _digest(config.to_yaml())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
