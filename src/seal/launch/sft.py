"""One fit of LoRA factors in several processes: the request and the reply lie in a folder between them.

The process that asks keeps the policy as it is, and merges the factors itself; those that train load their
own copies, or parts of them. `python -m seal.launch.sft FOLDER` is what each of them runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import ModelError, SealError
from seal.launch import Together, own_device, rank, run
from seal.records import TrainingConfig, TrainingSequence
from seal.run.codec import decode, encode
from seal.scratch import scratch_folder
from seal.whole_file import write_whole

if TYPE_CHECKING:
    from seal.models.load import LoadedModel
    from seal.models.lora import Factors
    from seal.restem import Progress

#: Files of the folder.
_REQUEST, _FACTORS, _LOSSES = "request.json", "factors.safetensors", "losses.json"
_STEP, _ERROR = "step", "error"


@dataclass(frozen=True, slots=True)
class _Request:
    model: str
    version: str
    device: str
    dtype: str
    rows: tuple[TrainingSequence, ...]
    training: TrainingConfig
    seed: int
    micro_batch: int


def train_together(
    loaded: LoadedModel,
    rows: Sequence[TrainingSequence],
    training: TrainingConfig,
    seed: int,
    together: Together,
    *,
    micro_batch: int = 1,
    progress: Progress | None = None,
) -> tuple[Factors, list[float]]:
    """As `seal.restem.train_on_sequences`, in processes that load `loaded.source` themselves.

    Raises:
        ModelError: they failed, with the first one's own message where it had one.
        MissingExtra: see `seal.launch.run`.
    """
    from safetensors.torch import load_file

    with scratch_folder("together") as folder:
        device = loaded.model.device.type
        dtype = loaded.quantised or str(loaded.model.dtype).removeprefix("torch.")
        about = loaded.source, loaded.version, device, dtype
        request = _Request(*about, tuple(rows), training, seed, micro_batch)
        write_whole(folder / _REQUEST, json.dumps(encode(request)))
        steps = _Steps(folder / _STEP, progress)
        try:
            run(
                together,
                ["seal.launch.sft", str(folder)],
                cpu=device == "cpu",
                meanwhile=steps.look,
            )
        except ModelError as error:
            if (folder / _ERROR).exists():
                raise ModelError((folder / _ERROR).read_text("utf-8"), error.message) from None
            raise
        steps.look()
        tensors = load_file(folder / _FACTORS)
        names = sorted({name[:-2] for name in tensors})
        factors = {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}
        return factors, json.loads((folder / _LOSSES).read_text("utf-8"))


class _Steps:
    """Tells `progress` of the steps that stand in `file`."""

    def __init__(self, file: Path, progress: Progress | None) -> None:
        self._file, self._progress, self._last = file, progress, 0

    def look(self) -> None:
        if self._progress is None or not self._file.exists():
            return
        step, steps = map(int, self._file.read_text("utf-8").split())
        if step > self._last:
            self._last = step
            self._progress(step, steps)


def main(folder: Path) -> None:
    """One of the processes: train with the others, and write the reply if it is the first."""
    from accelerate import PartialState
    from safetensors.torch import save_file

    from seal.models.load import load_model
    from seal.restem import train_on_sequences

    asked = decode(_Request, json.loads((folder / _REQUEST).read_text("utf-8")))
    first = rank() == 0

    def tell(step: int, steps: int) -> None:
        write_whole(folder / _STEP, f"{step} {steps}")

    try:
        loaded = load_model(asked.model, own_device(asked.device), asked.dtype)
        if loaded.version != asked.version:
            raise ModelError(f"{asked.model} holds another model now", "leave a model's files alone")
        factors, losses = train_on_sequences(
            loaded,
            asked.rows,
            asked.training,
            asked.seed,
            micro_batch=asked.micro_batch,
            progress=tell if first else None,
        )
    except SealError as error:
        if first:
            write_whole(folder / _ERROR, str(error))
        raise
    if first:
        flat = {f"{name}.A": a.contiguous() for name, (a, _) in factors.items()}
        flat |= {f"{name}.B": b.contiguous() for name, (_, b) in factors.items()}
        save_file(flat, folder / _FACTORS)
        write_whole(folder / _LOSSES, json.dumps(losses))
    PartialState().wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
