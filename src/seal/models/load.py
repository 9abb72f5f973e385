"""Loads a model by name: a Hugging Face id, a local folder, a `.gguf` file or a built-in name.

Every source but the tiny built-in models becomes a local folder of safetensors first, so that there is
one way to load and one way to say what was loaded (`LoadedModel.version`).
"""

from __future__ import annotations

import difflib
import logging
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ModelError, lacks_memory
from seal.models import builtin, gguf, pickled
from seal.models.checkpoint import MANIFEST, folder_version, no_progress_bars, one_line, verify_checkpoint
from seal.models.quantise import QUANTISED, quantise
from seal.models.size_check import check_folder
from seal.prompt import PromptContract, PromptSettings, adopt
from seal.prompt_check import build_contract, own_ends, settle_ends

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

BUILTIN_NAMES = (*gguf.WHEELS, *builtin.NAMES)
DTYPES = ("auto", "float32", "bfloat16", *QUANTISED)
#: Seconds until a hub that does not answer counts as out of reach.
_HUB_SECONDS = 5.0
#: Weights below this many bytes gain nothing from bfloat16 and lose exactness.
SMALL_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen causal language model in eval mode, and its tokenizer (which always has a pad token)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    """The name that was asked for."""
    version: str
    """Short content hash of config and weights: equal for equal models, whatever device and dtype."""
    contract: PromptContract
    """How texts become what the model reads."""
    quantised: str = ""
    """What its linear layers are stored in, see `seal.models.quantise`; empty: in the model's own type."""


def load_model(
    name: str, device: str = "auto", dtype: str = "auto", prompts: PromptSettings | None = None
) -> LoadedModel:
    """Load a model, ready to adapt: eval mode, no parameter requires a gradient.

    Args:
        name: built-in name (`BUILTIN_NAMES`), `.gguf` file, local folder, or Hugging Face id, which may
            pin a revision (`owner/model@revision`).
        device: "auto" (cuda, else mps, else cpu), "cpu", "mps", "cuda" or "cuda:1".
        dtype: "auto" (bfloat16 where the hardware computes in it, else float32; small models always
            float32), "float32" or "bfloat16"; "int8" or "nf4": as auto, with quantised linear layers.
        prompts: arguments and date for the chat template.

    Raises:
        ModelError: with the cause and what to do, also for a device or dtype that cannot be had.
    """
    place = pick_device(device)
    if name in builtin.NAMES:
        model, tokenizer, version = builtin.build(name)
        for parameter in model.parameters():  # not model.to(dtype): that would round the rotary buffers too
            parameter.data = parameter.data.to(pick_dtype(dtype, place, small=True))
        return _ready(model, tokenizer, name, version, place, prompts, dtype)
    folder = resolve(name)
    version = verify_checkpoint(folder) if (folder / MANIFEST).is_file() else folder_version(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    kind = pick_dtype(dtype, place, small=size < SMALL_BYTES)
    check_folder(folder, name)
    return _ready(*_from_folder(folder, name, kind), name, version, place, prompts, dtype)


def require_model(name: str, device: str = "auto", dtype: str = "auto") -> None:
    """Make sure that `load_model` finds what it needs, before other things take time. Weights stay unread.

    Raises:
        ModelError: as `resolve`, or the device or dtype cannot be had.
    """
    if name not in builtin.NAMES:
        resolve(name)
    pick_dtype(dtype, pick_device(device))


def resolve(name: str) -> Path:
    """The local folder of safetensors that `name` stands for, fetched or converted if need be.

    Raises:
        ModelError: there is no such model, or it cannot be had from here.
    """
    path = Path(name).expanduser()
    if name in gguf.WHEELS:
        return gguf.dequantise(gguf.wheel_file(name))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {name}", "check the path of the .gguf file")
        return gguf.dequantise(path.resolve())
    if path.is_dir():
        folder = path
    else:
        folder = _from_hub(name)
        if (folder / pickled.WEIGHTS).is_file() and not any(folder.glob("*.safetensors")):
            return pickled.as_safetensors(folder, name)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(f"{name} is a LoRA adapter, not a model", "give the merged model, or its base model")
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name} holds no model: config.json is missing",
            "give a folder written by save_pretrained, with config, safetensors and tokenizer",
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name} has no safetensors file, and pickled weights are not loaded", _convert(name)
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{name} holds an adapter beside the model's own weights (adapter_config.json), which would be "
            "applied a second time if it is merged already",
            "move adapter_config.json and adapter_model.safetensors out if it is; else merge it first",
        )
    return folder


def pick_device(device: str) -> torch.device:
    """The torch device that `device` stands for. Raises `ModelError` when it does not exist here."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ModelError(f"unknown device {device!r}", "use auto, cpu, cuda, cuda:0 or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count() if cuda else 0, "mps": int(mps)}.get(place.type, 0)
    if (place.index or 0) not in range(count):  # torch wraps an index that is too large round to below 0
        raise ModelError(f"device {device!r} is not available here", "use device: auto or device: cpu")
    return place


def pick_dtype(dtype: str, place: torch.device, *, small: bool = False) -> torch.dtype:
    """The torch dtype that `dtype` stands for on `place`; "auto" keeps `small` models in float32."""
    import torch

    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}", f"use one of {', '.join(DTYPES)}")
    if dtype != "auto" and dtype not in QUANTISED:
        return torch.float32 if dtype == "float32" else torch.bfloat16
    return torch.bfloat16 if not small and _computes_in_bfloat16(place.type) else torch.float32


@cache
def _computes_in_bfloat16(device_type: str) -> bool:
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    try:
        words = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})  # the last is Arm's name for it


def _ready(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    version: str,
    place: torch.device,
    prompts: PromptSettings | None,
    dtype: str,
) -> LoadedModel:
    import torch

    try:
        notes = settle_ends(tokenizer, model)
        contract = build_contract(
            tokenizer, prompts, ends=own_ends(model), rows=model.get_input_embeddings().num_embeddings
        )
    except ModelError as error:
        raise ModelError(f"{name}: {error.message}", error.fix) from error
    contract = adopt(replace(contract, notes=notes + contract.notes))
    for note in contract.notes:
        _say(note)
    kind = dtype if dtype in QUANTISED else ""
    try:
        if kind:
            quantise(model, kind, place)
        model.to(device=place)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{name} does not fit on {place}", "use a smaller model or device: cpu") from error
    model.eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, name, version, contract, kind)


@cache
def _say(note: str) -> None:
    """Log a peculiarity of the prompts once: every policy of a run has it."""
    log.warning("%s", note)


def _from_folder(folder: Path, name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer in `folder`. Weights that the model lacks or that do not fit are an error."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with no_progress_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises every kind of error on a broken folder
        if lacks_memory(error):
            raise ModelError(f"there is not enough memory to load {name}", "use a smaller model") from error
        raise ModelError(
            f"transformers cannot load {name}: {one_line(error)}",
            "give a causal language model (config, safetensors, tokenizer) that needs no code of its own",
        ) from error
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise ModelError(
            f"{name} lacks {len(absent)} weights that its config asks for, such as {absent[0]}",
            "give the complete checkpoint (a LoRA adapter must be merged into its base model first)",
        )
    return model, tokenizer


def _from_hub(name: str) -> Path:
    """The local snapshot of a Hugging Face id, downloaded if it is not there."""
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1 + 2 * ("@" in name):
        raise ModelError(f"there is no model folder {name}", "check the path")
    from huggingface_hub import errors, snapshot_download

    repository, _, revision = name.partition("@")
    get = f"on a machine that is online, run: hf download {repository}"
    answers = _hub_answers(repository, revision or None)

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                local_files_only=not answers,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*", "consolidated*"],
            )
        )

    try:
        folder = fetch("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
        return folder if any(folder.glob("*.safetensors")) else fetch(pickled.WEIGHTS)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated", "accept its licence on its page and run: hf auth login"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{name!r} is no model name: {one_line(error)}", _suggest(name)) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelError(f"the Hugging Face hub has no model {name}", _suggest(name)) from error
    except (
        errors.LocalEntryNotFoundError,
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        OSError,
    ) as error:
        raise ModelError(
            f"{name} is not on this machine and the Hugging Face hub cannot be reached",
            f"{get}; {_suggest(name)}",
        ) from error


def _hub_answers(repository: str, revision: str | None) -> bool:
    """Whether the hub says anything about a model in time; downloads alone would wait for ever."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(repository, revision=revision, timeout=_HUB_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return True
    except Exception:  # noqa: BLE001 (the HTTP library's own: no route, no name, too slow, offline)
        return False
    return True


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), BUILTIN_NAMES, n=1)
    return f"did you mean {close[0]}?" if close else f"built in are {', '.join(BUILTIN_NAMES)}"


def _convert(name: str) -> str:
    folder = f"{name.partition('@')[0].rstrip('/').rpartition('/')[2]}-safetensors"
    return (
        'convert it once, if you trust its author, and use the new folder as the model: python -c "from '
        "transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"M.from_pretrained('{name}', use_safetensors=False).save_pretrained('{folder}'); "
        f"T.from_pretrained('{name}').save_pretrained('{folder}')\""
    )
