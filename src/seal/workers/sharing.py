"""A model whose weights several processes read from the same memory."""

from __future__ import annotations

import copy
import logging
import shutil
from dataclasses import replace
from pathlib import Path

from seal.models.load import LoadedModel

log = logging.getLogger(__name__)

#: Where Linux keeps shared memory. Writing past its end ends a process without a word.
_SHARED = Path("/dev/shm")


def shared(loaded: LoadedModel) -> LoadedModel | None:
    """`loaded` as it is handed to other processes, its weights moved to shared memory; they must not change
    while others read them. None where there is no room for them, or they are quantised or not the CPU's.
    """
    model = loaded.model
    if model.device.type != "cpu" or loaded.quantised:
        return None
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in model.parameters()}
    moved = sum(storage.nbytes() for storage in weights.values() if not storage.is_shared())
    if _SHARED.is_dir() and shutil.disk_usage(_SHARED).free < 1.1 * moved:
        log.info("%s is too small for the weights: every worker loads its own", _SHARED)
        return None
    model.share_memory()
    bare = copy.copy(model)
    bare.__dict__.pop("_seal_runtime_of", None)  # each process makes its own
    return replace(loaded, model=bare)
