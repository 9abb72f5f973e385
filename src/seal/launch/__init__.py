"""Several processes of this machine that train together, started by accelerate or torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seal.errors import ModelError
from seal.extras import need
from seal.supervisor import free_port

Shard = Literal["off", "fsdp2", "zero3"]
CONFIGS = {name: Path(__file__).with_name(f"{name}.yaml") for name in ("fsdp2", "zero3")}
"""Configs of `accelerate launch` that cut the base up."""


@dataclass(frozen=True, slots=True)
class Together:
    """How many processes train, and how they share the base's weights."""

    processes: int = 1
    shard: Shard = "off"
    """off: each process has all of them."""

    @property
    def alone(self) -> bool:
        """Whether nothing has to be started."""
        return self.processes == 1 and self.shard == "off"


ALONE = Together()


def run(
    together: Together, arguments: Sequence[str], *, cpu: bool, meanwhile: Callable[[], None] | None = None
) -> None:
    """Run `python -m ARGUMENTS` in all processes until they have ended.

    Args:
        cpu: whether to train on CPUs though there may be GPUs.
        meanwhile: called about every second.

    Raises:
        ModelError: ZeRO-3 is asked for without a GPU, or a process failed.
        MissingExtra: DeepSpeed is asked for and not installed.
    """
    cpu = cpu or not has_gpu()
    if together.shard == "zero3" and cpu:
        raise ModelError(
            "ZeRO-3 cuts the base up over GPUs, and there is none",
            "use fsdp2, or leave it out (in the scripts: SEAL_SFT_ZERO3=0)",
        )
    if together.shard == "zero3":
        need("deepspeed", "ZeRO-3")
    command = [sys.executable, "-m", *_starter(together, cpu), "-m", *arguments]
    child = subprocess.Popen(command, env=_environment(cpu))
    try:
        while True:
            try:
                status = child.wait(1.0)
                break
            except subprocess.TimeoutExpired:
                if meanwhile is not None:
                    meanwhile()
    finally:
        if child.poll() is None:
            child.terminate()  # the starter ends what it has started
            child.wait()
    if status != 0:
        raise ModelError(
            f"training in {together.processes} processes failed (exit {status})", "see its messages above"
        )


def world() -> int:
    """Processes that train together, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of the processes that train together this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def own_device(device: str) -> str:
    """Where this one of the processes trains."""
    if world() > 1 and device.partition(":")[0] in ("auto", "cuda"):
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if has_gpu() else "cpu"
    return device


def has_gpu() -> bool:
    """Whether a process started here may use one."""
    import torch

    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU") != "true"


def _starter(together: Together, cpu: bool) -> list[str]:
    count, shard = str(together.processes), together.shard
    port = str(free_port())
    if cpu and shard == "off":
        # accelerate's own --cpu starts a single process
        place = ["--master-addr", "127.0.0.1", "--master-port", port]
        return ["torch.distributed.run", "--nproc-per-node", count, *place]
    how = ["--num_machines", "1", "--multi_gpu"] if shard == "off" else ["--config_file", str(CONFIGS[shard])]
    place = ["--main_process_ip", "127.0.0.1", "--main_process_port", port] if cpu else []
    return ["accelerate.commands.launch", "--num_processes", count, *how, *place]


def _environment(cpu: bool) -> dict[str, str]:
    found = dict(os.environ)
    if cpu:
        found |= {"ACCELERATE_USE_CPU": "true"}
        found.setdefault("OMP_NUM_THREADS", "1")
        found.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return found
