"""What a run would do and what it would cost, without loading a model's weights or downloading anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.cli._dry_run_few_shot import FewShotWork, measure_few_shot
from seal.cli._dry_run_knowledge import Work, measure
from seal.errors import ModelError
from seal.records import Task
from seal.settings import DOMAINS, SEALConfig
from seal.setup import load_data
from seal.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHARS_A_TOKEN = 4
# Shares of the speed of one large matrix product that training and decoding small batches reach.
_TRAIN_SHARE, _DECODE_SHARE = 0.3, 0.05


def describe(config: SEALConfig) -> str:
    """Resolved settings, then tasks, self-edits, adapters, tokens and rough time. Raises `DataError`."""
    lines = ["# resolved settings", config.to_yaml(), "# what would be done"]
    train: Sequence[Task] = ()
    val: Sequence[Task] = ()
    if config.domain in DOMAINS:
        data = load_data(config)
        lines.append(f"tasks        {data}")
        train, val = data.train, data.val
    model = _model(config.model_name)
    work: Work | FewShotWork
    if config.domain == "few_shot_learning":
        work = measure_few_shot(config, train, val, model.tokenizer or _one_token_a_cell())
    else:
        work = measure(config, train, val, model.count, model.tokenizer)
    tasks = min(config.tasks_per_iteration, len(train) or config.tasks_per_iteration)
    rounds = f"{config.max_outer_iterations} × {counted(tasks, 'task')}"
    rounds += (
        f" × {counted(config.samples_per_iteration, 'self-edit')} × {counted(config.repeats, 'training')}"
    )
    lines += [
        f"rounds       {rounds}",
        f"self-edits   {work.edits:,}",
        f"adapters     {work.adapters:,}",
        f"M-step       {_m_step(config, tasks)}",
    ]
    if train:
        written, trained = f"{work.write_tokens:,} written", f"{work.train_tokens:,} trained on"
        tokens = f"at most {written}, {trained}, {work.answer_tokens:,} answered"
        if isinstance(work, FewShotWork):
            lines.append(f"steps        about {work.steps:,} of the optimiser, as random recipes have it")
            tokens = f"about {written}, {trained}, {work.read_tokens:,} read, {work.answer_tokens:,} answered"
        lines += [
            f"tokens       {tokens}",
            f"time         {_time(work, model.parameters, config) or model.note}",
        ]
    lines.append(f"memory       {_memory(config, model)}")
    return "\n".join(lines)


def _m_step(config: SEALConfig, tasks: int) -> str:
    """How many updates the policy gets in a round if all self-edits that can be kept are."""
    from seal.restem import FEW_UPDATES
    from seal.schedule import total_steps

    edits = config.samples_per_iteration
    kept = min(edits, config.keep_k) if config.keep == "best_of_k" else edits
    updates = total_steps(tasks * kept, config.sft.training())
    few = f"; below {FEW_UPDATES} a policy hardly moves: raise sft.steps" if updates < FEW_UPDATES else ""
    return f"at most {updates} updates a round{few}"


@dataclass(frozen=True)
class _Model:
    """What is known of a model without its weights."""

    count: Callable[[str], int]
    """Tokens of a text."""
    parameters: int = 0
    """0: unknown, for the reason in `note`."""
    note: str = ""
    shape: Callable[[], PreTrainedModel] | None = None
    """Makes the model, its tensors without content perhaps."""
    tokenizer: Any = None
    """None: it is not here."""


def _one_token_a_cell() -> Any:
    """A tokenizer that stands for one that is not here: grids have one token a cell in nearly all of them."""
    from seal.models import builtin

    return builtin.build("tiny-random-gpt2")[1]


def _model(name: str) -> _Model:
    from seal.models import builtin, load

    def by_length(text: str) -> int:
        return len(text) // _CHARS_A_TOKEN + 1

    try:
        if name in builtin.NAMES:
            model, tokenizer, _ = builtin.build(name)
            return _Model(_counter(tokenizer), model.num_parameters(), "", lambda: model, tokenizer)
        here = name in load.BUILTIN_NAMES or Path(name).expanduser().exists()
        folder = load.resolve(name) if here else _cached(name)
    except ModelError as error:
        return _Model(by_length, note=f"unknown: {error.message}; {error.fix}")
    if folder is None:
        return _Model(
            by_length, note=f"unknown: {name} is not here yet; it is downloaded when the run begins"
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return _Model(_counter(tokenizer), _parameters(folder), "", lambda: _bare(folder), tokenizer)


def _bare(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return made


def _memory(config: SEALConfig, model: _Model) -> str:
    """What one process of the inner loop needs, and how much it does at once with it."""
    from seal.inner.memory import capacity, footprint, free_bytes
    from seal.models.load import SMALL_BYTES, pick_device, pick_dtype
    from seal.models.quantise import stored_bytes

    if model.shape is None:
        return model.note
    place = pick_device(config.device)
    dtype = pick_dtype(config.dtype, place, small=4 * model.parameters < SMALL_BYTES)
    made = model.shape()
    need = footprint(made, config.inner_training(), place, dtype)
    free = free_bytes(place)
    inner = config.inner
    chosen = capacity(need, free, place, inner.slots, inner.token_budget, inner.recompute)
    base = stored_bytes(made, dtype, config.dtype)
    return (
        f"about {_size(base + need.total(chosen))} in each process: {_size(base)} the model, "
        f"{counted(chosen.slots, 'adapter')} of {_size(need.adapter)}, "
        f"passes of {chosen.token_budget} tokens of "
        f"{_size(need.recomputed) + ' (layers computed again)' if chosen.recompute else _size(need.token)}; "
        f"{_size(need.position)} for each token of a row that answers; "
        f"{_size(free)} are free"
    )


def _size(n_bytes: float) -> str:
    size, name = (10**9, "GB") if n_bytes >= 10**9 else (10**6, "MB") if n_bytes >= 10**6 else (10**3, "kB")
    return f"{n_bytes / size:.3g} {name}"


def _counter(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer(text)["input_ids"])


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    from seal.models import pickled

    repository, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except HFValidationError:
        raise ModelError(
            f"there is no model {name!r}", "give a hub id, a folder or a built-in name"
        ) from None
    except LocalEntryNotFoundError:
        return None
    whole = any(folder.glob("*.safetensors")) or (folder / pickled.WEIGHTS).is_file()
    return folder if whole and (folder / "config.json").is_file() else None


def _parameters(folder: Path) -> int:
    """Weights in a checkpoint, from the headers of its safetensors."""
    from math import prod

    from safetensors import safe_open

    from seal.models import pickled

    if (folder / pickled.WEIGHTS).is_file() and not any(folder.glob("*.safetensors")):
        return (folder / pickled.WEIGHTS).stat().st_size // 4  # float32; half precision is counted half
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return total


def _time(work: Work | FewShotWork, parameters: int, config: SEALConfig) -> str:
    if not parameters:
        return ""
    speed = _flops(config)
    # a frozen base: forward and activation gradient, no weight gradient, so 4 FLOPs a weight and token
    train = 4 * parameters * work.train_tokens / (speed * _TRAIN_SHARE)
    if isinstance(work, FewShotWork):  # long prompts are read as fast as rows
        train += 2 * parameters * work.read_tokens / (speed * _TRAIN_SHARE)
    decode = 2 * parameters * (work.write_tokens + work.answer_tokens) / (speed * _DECODE_SHARE)
    minutes = (train + decode) / 60
    shown = (
        f"{minutes / 60:.1f} hours"
        if minutes > 90
        else f"{minutes:.0f} minutes"
        if minutes >= 1
        else "a minute"
    )
    return f"roughly {shown} on this machine, within a factor of three"


def _flops(config: SEALConfig) -> float:
    """FLOPs a second of a matrix product on the run's device."""
    import torch

    from seal.models.load import pick_device, pick_dtype

    place = pick_device(config.device)
    matrix = torch.ones(1024, 1024, device=place, dtype=pick_dtype(config.dtype, place))
    float((matrix @ matrix)[0, 0])  # warm-up
    start, rounds = time.perf_counter(), 8
    for _ in range(rounds):
        result = matrix @ matrix
    float(result[0, 0])  # waits for the device
    return rounds * 2 * 1024**3 / (time.perf_counter() - start)
