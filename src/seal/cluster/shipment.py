"""A policy on its way to nodes that do not have it: in parts, once a node, checked when it is there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.whole_file import whole_folder

log = logging.getLogger(__name__)

#: Bytes of one part: what a node has in memory at once while it writes.
PART_BYTES = 32 * 2**20
#: Policies that a node keeps: the one at work, and the one before for a run that goes back.
_KEEP = 2


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of a policy, by name, as references to their parts in the object store."""

    files: tuple[tuple[str, tuple[Any, ...]], ...]


class Shipment:
    """A policy's folder, put into the object store when the first node asks for it.

    Args:
        folder: gives the local folder; called at most once.
        put: stores bytes for all nodes, gives a reference.
    """

    def __init__(self, folder: Callable[[], Path], put: Callable[[bytes], Any]) -> None:
        self._folder, self._put = folder, put
        self._parts: Parts | None = None

    def parts(self) -> Parts:
        """References to all parts."""
        if self._parts is None:
            root = self._folder()
            files = [path for path in sorted(root.iterdir()) if path.is_file()]
            log.info("the policy in %s is sent to nodes that lack it", root)
            self._parts = Parts(tuple((f.name, tuple(self._put(p) for p in _read(f))) for f in files))
        return self._parts


def unpack(parts: Parts, version: str) -> tuple[Path, int]:
    """The policy in this node's cache, and the bytes that were fetched: 0 where it was there already.

    Processes of one node wait for the one that fetches. Whoever loads the folder checks its version.
    """
    import ray
    from filelock import FileLock

    from seal.models.checkpoint import cache_dir

    cache = cache_dir() / "policies"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / version
    with FileLock(cache / "lock"):
        if folder.is_dir():
            folder.touch()
            return folder, 0
        fetched = 0
        with whole_folder(folder) as partial:
            for name, references in parts.files:
                with (partial / name).open("wb") as file:
                    for reference in references:
                        fetched += file.write(ray.get(reference))
        _keep_newest(cache)
    return folder, fetched


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part


def _keep_newest(cache: Path) -> None:
    """Files in use stay readable for who has them open."""
    whole = (p for p in cache.iterdir() if p.is_dir() and not p.name.startswith("."))
    folders = sorted(whole, key=lambda p: -p.stat().st_mtime)
    for old in folders[_KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
