"""Train the policy on prompt-completion pairs (the M-step alone); a merged checkpoint comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def train_sft(
    data: Annotated[Path, Argument(help="JSON lines of `seal build-sft`.")],
    model: Annotated[str, Option(help="The policy to train: hub id, folder, .gguf file or built-in name.")],
    output_dir: Annotated[Path, Option(help="New folder for the merged checkpoint.")],
    rank: Annotated[int, Option(help="LoRA rank.")] = 64,
    alpha: Annotated[float, Option(help="LoRA alpha.")] = 128.0,
    dropout: Annotated[float, Option(help="LoRA dropout.")] = 0.0,
    targets: Annotated[str, Option(help="Layers, by commas: all, attention, mlp, or suffixes.")] = "all",
    learning_rate: Annotated[float, Option(help="Peak learning rate.")] = 3e-4,
    epochs: Annotated[int, Option(help="Passes over the data.")] = 2,
    batch_size: Annotated[int, Option(help="Pairs an update, over all processes.")] = 10,
    micro_batch: Annotated[int, Option(help="Pairs in one forward pass of one process.")] = 1,
    schedule: Annotated[str, Option(help="constant, linear or cosine.")] = "linear",
    warmup_ratio: Annotated[float, Option(help="Share of the steps that warm up.")] = 0.0,
    weight_decay: Annotated[float, Option(help="AdamW weight decay.")] = 0.0,
    seed: Annotated[int, Option(help="Seed of start values and order.")] = 42,
    device: Annotated[str, Option(help="auto, cpu, mps, cuda or cuda:1.")] = "auto",
    dtype: Annotated[str, Option(help="auto, float32 or bfloat16.")] = "auto",
    processes: Annotated[int, Option(min=1, help="Processes (GPUs) on this machine.")] = 1,
    zero3: Annotated[
        bool, Option("--zero3", help="Cut the base up over the GPUs (DeepSpeed ZeRO-3).")
    ] = False,
) -> None:
    """LoRA fine-tuning on the completions, prompts masked; the defaults are the paper's RL round."""
    from seal.recipes import train_sft as recipe

    job = recipe.SFTJob(
        data=str(data),
        model=model,
        output_dir=str(output_dir),
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=targets,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        schedule=schedule,
        warmup_ratio=warmup_ratio,
        weight_decay=weight_decay,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    if processes > 1 or zero3:
        recipe.launch(job, processes, zero3)
        return
    result = recipe.train_sft(job, recipe.print_progress)
    first, last = result.losses[0], result.losses[-1]
    print(f"{result.n} pairs, loss {first:.3f} nats a token at the first step, {last:.3f} at the last")
    print(result.folder)
