"""A run is a folder: settings, environment, journal, logs, checkpoints. Nothing in it is overwritten.

config.yaml        every setting, resolved
environment.json   what it ran on (environment-2.json, … where a resumption ran on something else)
journal.jsonl      what is finished
logs/seal.jsonl    messages
checkpoints/       policies
"""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from seal.errors import ConfigError, RunError
from seal.run import environment, fingerprint
from seal.run.codec import decode
from seal.run.journal import Journal
from seal.run.log import refuse_secrets
from seal.run.progress import Progress, silent
from seal.settings import SEALConfig
from seal.whole_file import write_whole

T = TypeVar("T")
log = logging.getLogger(__name__)
_POLICY = re.compile(r"checkpoints/(policy|placebo)-\d+")
_PARTIAL = re.compile(r"\.(policy|placebo)-\d+(-adapter)?\.(part-|old\.)?\w{8}")
"""Folders that `models.checkpoint` writes a policy in before it has its name."""


class Run:
    """An open run folder; this process alone may write to it. Use `create` or `open`, and `close`."""

    def __init__(self, path: Path, config: SEALConfig, journal: Journal) -> None:
        self.path = path
        self.config = config
        self.journal = journal
        self.listeners: list[Callable[[str, Any], None]] = []
        """Called with (kind, record) after every record; trackers."""
        self.progress: Progress = silent
        """Told how far the stage under way has come."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the policies."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """Folder of the messages."""
        return self.path / "logs"

    @classmethod
    def create(cls, output_dir: str | Path, config: SEALConfig) -> Run:
        """Begin a run in `output_dir`, which must not exist or be empty.

        Raises:
            ConfigError: a setting holds a password or key.
            RunError: it holds a run or other files, is no folder, or cannot be written.
        """
        refuse_secrets(config.model_dump(mode="json"))
        path = Path(output_dir).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_used(path)
            journal = Journal(path / "journal.jsonl")
            run = cls(path, config, journal)
            try:
                _refuse_used(path)  # another process may have begun a run here before we had the lock
            except RunError:
                journal.close()
                raise
            try:
                write_whole(path / "config.yaml", fingerprint.signed(config.to_yaml()))
                fingerprint.remember(config)
                run._make_folders()
                run._note_environment()
            except BaseException:
                run._take_away()
                raise
        except (FileExistsError, NotADirectoryError):
            raise RunError(f"{path}: a file is in the way", "choose another --output-dir") from None
        except OSError as error:
            raise _unusable(path, error) from None
        return run

    @classmethod
    def open(cls, path: str | Path, *, accept_settings: bool = False) -> Run:
        """Open a run to go on with it.

        Args:
            accept_settings: take its settings although they were changed since the run began, or name classes
                and the run was begun elsewhere.

        Raises:
            RunError: it is no run, another process has it open, a file of it is corrupt or a link, or its
                settings were not accepted.
        """
        path = Path(path)
        config = read_config(path, accept_settings=accept_settings)
        if not accept_settings:
            fingerprint.check_classes(config, path)
        _refuse_links(path)
        try:
            journal = Journal(path / "journal.jsonl")
            try:
                run = cls(path, config, journal)
                if accept_settings:
                    text = (path / "config.yaml").read_text("utf-8")
                    write_whole(path / "config.yaml", fingerprint.signed(fingerprint.unsigned(text)))
                    fingerprint.remember(config)
                run._make_folders()
                run._clear_partial()
                run._note_environment()
            except BaseException:
                journal.close()
                raise
        except OSError as error:
            raise _unusable(path, error) from None
        return run

    def record(self, kind: str, key: str, record: Any) -> None:
        """Write a finished item to the journal; when this returns it is safe. Listeners hear of it."""
        self.record_all(kind, {key: record})

    def record_all(self, kind: str, records: Mapping[str, Any]) -> None:
        """Write finished items, by key, with one flush to the disk; when this returns all are safe."""
        self.journal.append_all(kind, records)
        for record in records.values():
            for listener in self.listeners:
                listener(kind, record)

    def record_once(self, kind: str, key: str, record: Any) -> None:
        """Record what is new; an item that is there stays as it is."""
        self.record_missing(kind, {key: record})

    def record_missing(self, kind: str, records: Mapping[str, Any]) -> None:
        """Record those that are new, with one flush; items that are there stay as they are."""
        self.record_all(kind, {k: r for k, r in records.items() if self.journal.get(kind, k) is None})

    def recall(self, cls: type[T], kind: str, key: str) -> T | None:
        """The finished item, or None if it is still to do."""
        data = self.journal.get(kind, key)
        return None if data is None else decode(cls, data)

    def keep_newest(self, count: int, kind: str = "update") -> None:
        """Delete the policies of earlier rounds, all but the newest `count` that the journal knows.

        `kind`: whose they are, the journal kind of their updates ("placebo": the control's).
        """
        rows = [row.data["checkpoint"] for row in self.journal.rows(kind) if row.data["checkpoint"]]
        for checkpoint in rows[:-count]:
            policy = self.policy_folder(checkpoint)
            for folder in (policy, policy.with_name(f"{policy.name}-adapter")):
                shutil.rmtree(folder, ignore_errors=True)

    def policy_folder(self, checkpoint: str) -> Path:
        """Where the policy lies that the journal calls `checkpoint`.

        Raises:
            RunError: the name leads elsewhere than to the run's own policies.
        """
        if not _POLICY.fullmatch(checkpoint):
            raise RunError(f"{self.path}: the journal names a policy {checkpoint!r:.80}", "begin a new run")
        return self.path / checkpoint

    def close(self) -> None:
        """Let another process open the run."""
        self.journal.close()

    def abandon(self) -> bool:
        """Close, and take the folder away again if nothing was ever finished in it. True: it is gone."""
        if self.journal.rows() or any(self.checkpoints.iterdir()):
            self.close()
            return False
        self._take_away()
        return True

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_away(self) -> None:
        """Close, and remove what `create` made; the folder too, if nothing else is in it."""
        self.close()
        for folder in (self.logs, self.checkpoints):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("journal.jsonl", ".journal.jsonl.lock", "environment.json", "config.yaml"):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _make_folders(self) -> None:
        self.checkpoints.mkdir(exist_ok=True)
        self.logs.mkdir(exist_ok=True)

    def _clear_partial(self) -> None:
        """Delete what a killed process left of a policy that it was writing, and nothing else."""
        for entry in self.checkpoints.iterdir():
            if _PARTIAL.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)

    def _note_environment(self) -> None:
        now = environment.describe(self.config.device)
        files = sorted(self.path.glob("environment*.json"), key=lambda file: (len(file.name), file.name))
        seen = [facts for file in files if (facts := _facts(file)) is not None]
        if now in seen:
            return
        name = f"environment-{len(files) + 1}.json" if files else "environment.json"
        write_whole(self.path / name, json.dumps(now, indent=2, ensure_ascii=False) + "\n")
        if seen:
            changed = ", ".join(sorted(key for key in now if now[key] != seen[0].get(key)))
            log.warning("the run began on another set-up (%s differs): numbers may differ too", changed)


def read_config(path: str | Path, *, accept_settings: bool = False) -> SEALConfig:
    """The settings of the run at `path`.

    Raises:
        RunError: it is no run, or its settings are damaged or (unless `accept_settings`) were changed.
    """
    file = Path(path) / "config.yaml"
    if not file.is_file():
        raise RunError(
            f"{path}: not a run folder, config.yaml is missing", "give the folder that a run printed"
        )
    try:
        config = SEALConfig.from_yaml(file)
    except ConfigError as error:
        raise RunError(error.message, "restore the file, or use the version that began the run") from None
    if not accept_settings:
        fingerprint.check_sum(file)
    return config


def _facts(file: Path) -> dict[str, Any] | None:
    """What a set-up file says; None, with a word, where it is damaged: nothing is computed from it."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(facts, dict):
            return facts
    except ValueError:
        pass
    log.warning("%s is damaged: what the run began on is not known", file)
    return None


def _refuse_links(path: Path) -> None:
    """A run reads and writes in its own folder only, whoever packed it."""
    for name in ("config.yaml", "checkpoints", "logs", "logs/seal.jsonl"):
        if (path / name).is_symlink():
            raise RunError(f"{path / name}: is a link", "put what it points to in its place")


def next_free(path: str | Path) -> Path:
    """`path`, or where a run or other files are there already, the first free of `path-2`, `path-3`, …"""
    path = Path(path).expanduser()
    number, candidate = 1, path
    while candidate.exists() and (not candidate.is_dir() or _visible(candidate)):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _visible(path: Path) -> list[str]:
    """Names that make a folder not empty: hidden files and the empty journal of a broken start do not."""
    names = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
    journal = path / "journal.jsonl"
    return names if names != [journal.name] or journal.stat().st_size else []


def _refuse_used(path: Path) -> None:
    if (path / "config.yaml").exists():
        fix = f"go on with it: `seal resume {path}`, or choose another --output-dir"
        raise RunError(f"{path}: holds a run already", fix)
    names = _visible(path)
    if names:
        raise RunError(f"{path}: is not empty, it holds {names[0]}", "choose another --output-dir")


def _unusable(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{path}: the disk is full", "free some space or choose another --output-dir")
    return RunError(f"{path}: cannot be written: {error.strerror}", "choose another --output-dir")
