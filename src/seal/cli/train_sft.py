"""Train the policy on prompt-completion pairs (the M-step alone); a merged checkpoint comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _options
from seal.errors import ConfigError
from seal.sections import SFT_FIELDS
from seal.training_config import PAPER_SFT, TrainingConfig

_FLAGS = _options.Flags({name: name for name in SFT_FIELDS})


@_options.grouped
def train_sft(
    *,
    data: Annotated[Path, Argument(help="JSON lines of `seal build-sft`.")],
    model: Annotated[str, Option(help="The policy to train: hub id, folder, .gguf file or built-in name.")],
    output_dir: Annotated[Path, Option(help="New folder for the merged checkpoint.")],
    training: Annotated[TrainingConfig, _FLAGS] = PAPER_SFT,
    micro_batch: Annotated[int, Option(min=1, help="Pairs in one forward pass of one process.")] = 1,
    seed: _options.Seed = 42,
    device_options: _options.DeviceOptions,
    processes: Annotated[int, Option(min=1, help="Processes (GPUs) on this machine.")] = 1,
    zero3: Annotated[
        bool, Option("--zero3", help="Cut the base up over the GPUs (DeepSpeed ZeRO-3).")
    ] = False,
    fsdp2: Annotated[
        bool, Option("--fsdp2", help="Cut the base up over the processes (PyTorch FSDP2).")
    ] = False,
) -> None:
    """LoRA fine-tuning on the completions, prompts masked; the defaults are the paper's RL round."""
    from seal.launch import Together, rank
    from seal.recipes import train_sft as recipe

    if not training.epochs:
        raise ConfigError("--epochs is 0", "train for at least 1")
    device, dtype = device_options.device, device_options.dtype
    job = recipe.SFTJob(str(data), model, str(output_dir), training, micro_batch, seed, device, dtype)
    if zero3 and fsdp2:
        raise ConfigError("--zero3 and --fsdp2 do the same", "choose one")
    if processes > 1 or zero3 or fsdp2:
        recipe.launch_sft(job, Together(processes, "zero3" if zero3 else "fsdp2" if fsdp2 else "off"))
        return
    result = recipe.train_sft(job, recipe.print_progress)
    if rank() == 0:
        first, last = result.losses[0], result.losses[-1]
        print(f"{result.n} pairs, loss {first:.3f} nats a token at the first step, {last:.3f} at the last")
        print(result.folder)
