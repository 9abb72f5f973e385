"""One LoRA adapter at a time, over PEFT: the reference that the batched engine is measured against.

`LoRAWrapper` is slow on purpose: one row a forward pass, plain AdamW, nothing fused. The numbers it gives
are what "equal to PEFT" means everywhere else. Base weights never train, and the base runs in evaluation
mode: the only dropout is the adapter's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from seal.errors import AdaptError, ConfigError, ModelError
from seal.models.adapter_reader import PREFIX, read_adapter
from seal.models.sharding import whole
from seal.models.window import window
from seal.records import TrainingConfig, TrainingSequence
from seal.schedule import init_lora, learning_rate, step_sequences, total_steps
from seal.seeds import derive

if TYPE_CHECKING:
    from types import TracebackType

    from peft import LoraConfig, PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel

#: LoRA factors by full layer name: A (rank, in) and B (out, rank).
Factors = dict[str, tuple["Tensor", "Tensor"]]
#: Module names that mark a projection as belonging to a group, in every family we support.
_GROUPS = {"attention": {"self_attn", "attn", "attention"}, "mlp": {"mlp", "feed_forward"}}
#: Parts of multi-modal models that read no text.
_NOT_TEXT = {"vision_tower", "vision_model", "visual", "multi_modal_projector", "audio_tower"}


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers of the text decoder (`Linear` or GPT-2's `Conv1D`) by full name, without the head."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not output
        and name.rpartition(".")[2] != "lm_head"
        and not _NOT_TEXT & set(name.split("."))
    }


_FUSED = dict.fromkeys(("q_proj", "k_proj", "v_proj"), ("c_attn", "query_key_value", "qkv_proj", "Wqkv"))
"""Names of layers that hold several of what other models keep apart."""


def target_modules(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the layers that `targets` mean in `model`, in the model's order.

    A target is a group ("all", "attention", "mlp") or a suffix of module names ("q_proj", "attn.c_proj").
    Where query, key and value are one layer (GPT-2's `c_attn`), each of the three names means that layer.

    Raises:
        ConfigError: a target names no linear layer of this model.
    """
    names = list(linear_modules(model))
    wanted: set[str] = set()
    for target in targets:
        found = {name for name in names if _matches(name, target)}
        if not found and target in _FUSED:
            found = {name for name in names if name.rpartition(".")[2] in _FUSED[target]}
        if not found:
            kinds = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigError(
                f"LoRA target {target!r} names no linear layer of {type(model).__name__}",
                f'use "all", "attention", "mlp" or one of {", ".join(kinds)}',
            )
        wanted |= found
    if not wanted:
        raise ConfigError("no LoRA targets were given", 'name at least one, for example "all"')
    return [name for name in names if name in wanted]


def _matches(name: str, target: str) -> bool:
    if target == "all":
        return True
    if target in _GROUPS:
        return bool(_GROUPS[target] & set(name.split(".")))
    return name == target or name.endswith("." + target)


@contextmanager
def _whole(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside the block every process sees the whole parameters, also under DeepSpeed ZeRO-3."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed  # type: ignore[import-not-found,unused-ignore]

    with deepspeed.zero.GatheredParameters(parameters):
        yield


class LoRAWrapper:
    """A LoRA adapter on one model; the model itself is as it was after `close()` or the `with` block.

    >>> with LoRAWrapper(model, rank=8, alpha=16) as adapter:
    ...     losses = adapter.fit(rows, TrainingConfig(epochs=3), seed=0)
    ...     adapter.save("adapter")

    Args:
        model: a causal decoder; its weights are shared, not copied, and never written except by `merge`.
        rank, alpha, dropout: LoRA's shape; the update is alpha / rank · B·A, dropout acts on A's input.
        targets: layers to adapt, see `target_modules`.

    The adapter's weights are fp32, or fp64 as the model's are (but under DeepSpeed ZeRO-3 the model's).

    Raises:
        ConfigError: a target names no layer of the model.
        ModelError: the model already carries an adapter.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rank: int = 32,
        alpha: float = 64.0,
        dropout: float = 0.0,
        targets: Sequence[str] = ("all",),
    ) -> None:
        if hasattr(model, "peft_config"):
            raise ModelError("the model already carries an adapter", "close or merge that one first")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.modules = target_modules(model, targets)
        self.base = model
        self._trainable = [parameter.requires_grad for parameter in model.parameters()]
        self._training = model.training
        self._peft: PeftModel | None = _attach(model, self._config())

    @classmethod
    def from_config(cls, model: PreTrainedModel, training: TrainingConfig) -> LoRAWrapper:
        """A wrapper with the adapter shape of `training`."""
        return cls(model, training.rank, training.alpha, training.dropout, training.targets)

    @property
    def peft(self) -> PeftModel:
        """The adapted model, for forward passes and `generate`."""
        if self._peft is None:
            raise ModelError("this adapter was merged or closed", "make a new LoRAWrapper")
        return self._peft

    def layers(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """LoRA factors by full layer name: A (rank, in) and B (out, rank)."""
        return {
            name: (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
            for name, layer in self._lora_layers().items()
        }

    def _lora_layers(self) -> dict[str, Any]:
        root: Any = self.peft.get_base_model()
        return {name: root.get_submodule(name) for name in self.modules}

    def reset(self, seed: int) -> None:
        """Start values: A drawn from `seed` (see `init_lora`), B zero, so the adapter changes nothing."""
        import torch

        with torch.no_grad():
            for name, (a, b) in self.layers().items():
                a.copy_(init_lora(name, a.shape[1], self.rank, seed))
                b.zero_()

    def fit(self, rows: Sequence[TrainingSequence], training: TrainingConfig, seed: int = 0) -> list[float]:
        """Train the adapter from its start values on `rows`; the mean loss of every optimiser step.

        Only the training settings of `training` count; the adapter keeps the shape it was made with. The loss
        of a step is the sum of its token losses over its labelled tokens (nats a token), so micro-batches
        weigh by tokens. AdamW has beta (0.9, 0.999) and eps 1e-8.

        Raises:
            AdaptError: a row is longer than the model's window, or a loss is not finite.
        """
        import torch

        self._check(rows)
        self.reset(seed)
        factors = [factor for pair in self.layers().values() for factor in pair]
        optimiser = torch.optim.AdamW(factors, lr=training.learning_rate, weight_decay=training.weight_decay)
        total = total_steps(len(rows), training)
        losses = []
        with self._fitting(seed):
            for step, chosen in enumerate(step_sequences(len(rows), training, seed)):
                losses.append(self._backward([rows[i] for i in chosen]))
                if training.max_grad_norm > 0:
                    torch.nn.utils.clip_grad_norm_(factors, training.max_grad_norm)
                optimiser.param_groups[0]["lr"] = learning_rate(training, step, total)
                optimiser.step()
                optimiser.zero_grad()
        return losses

    def _backward(self, rows: Sequence[TrainingSequence]) -> float:
        """Add the gradient of the rows' mean token loss; return that mean (0 without labelled tokens)."""
        n_labelled = sum(len(row.labelled()) for row in rows)
        total = 0.0
        for row in rows:
            if row.labelled():
                loss = row_loss(self.peft, row)
                (loss / n_labelled).backward()  # type: ignore[no-untyped-call, unused-ignore]
                total += loss.item()
        mean = total / max(1, n_labelled)
        if not math.isfinite(mean):
            raise AdaptError(f"the training loss became {mean}", "lower the learning rate")
        return mean

    def _check(self, rows: Sequence[TrainingSequence]) -> None:
        limit, longest = window(self.base), max((len(row.ids) for row in rows), default=0)
        if limit is not None and longest > limit:
            raise AdaptError(
                f"a training row has {longest} tokens and the model's window is {limit}", "split the row"
            )

    @contextmanager
    def _fitting(self, seed: int) -> Iterator[None]:
        """Base in evaluation mode, the adapter's dropout on and drawn from `seed`; global state restored."""
        import torch

        devices = [self.base.device] if self.base.device.type == "cuda" else []
        self.peft.eval()
        for module in self.peft.modules():
            for name, dropout in getattr(module, "lora_dropout", {}).items():
                dropout.train(name == "default")
        with torch.random.fork_rng(devices):
            torch.manual_seed(derive(seed, "dropout"))
            try:
                yield
            finally:
                self.peft.eval()

    def save(self, folder: str | Path) -> Path:
        """Write the adapter in PEFT's format (safetensors); returns the folder."""
        self.peft.save_pretrained(str(folder), safe_serialization=True)
        return Path(folder)

    def load(self, folder: str | Path) -> None:
        """Read an adapter that `save` (or PEFT) wrote for the same rank, alpha and layers.

        Raises:
            ModelError: there is no adapter in `folder`, it is not plain LoRA, or it has another shape.
        """
        from peft import set_peft_model_state_dict

        saved = read_adapter(folder)
        if (saved.rank, saved.alpha) != (self.rank, self.alpha):
            raise ModelError(
                f"the adapter in {folder} has rank {saved.rank} and alpha {saved.alpha:g}, "
                f"this wrapper {self.rank} and {self.alpha:g}",
                "make the wrapper with the adapter's rank and alpha",
            )
        if set(saved.factors) != set(self.modules):
            other = sorted(set(saved.factors) ^ set(self.modules))[0]
            raise ModelError(
                f"the adapter in {folder} has {len(saved.factors)} layers, this wrapper {len(self.modules)}, "
                f"and only one of them {other}",
                "make the wrapper with the adapter's target modules, on the model it was trained for",
            )
        shapes = {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in self.factors().items()}
        weights = {}
        for name, (a, b) in saved.factors.items():
            if (tuple(a.shape), tuple(b.shape)) != shapes[name]:
                raise ModelError(
                    f"layer {name} of the adapter in {folder} has shapes {tuple(a.shape)} and "
                    f"{tuple(b.shape)}, the model's needs {shapes[name][0]} and {shapes[name][1]}",
                    "load it on the model it was trained for",
                )
            weights[f"{PREFIX}{name}.lora_A.weight"], weights[f"{PREFIX}{name}.lora_B.weight"] = a, b
        set_peft_model_state_dict(self.peft, weights)

    def factors(self) -> Factors:
        """Copies of the LoRA factors on the CPU, in fp32 at least; whole ones also under ZeRO-3."""
        with _whole([factor for pair in self.layers().values() for factor in pair]):
            return {name: (_copied(a), _copied(b)) for name, (a, b) in self.layers().items()}

    def merge(self) -> PreTrainedModel:
        """Fold the adapter into the model's own weights, in place, and return the model; ends the wrapper."""
        model: PreTrainedModel = self.peft.merge_and_unload(safe_merge=False)
        self._release()
        return model

    def close(self) -> None:
        """Take the adapter off: the model is again what it was, weights, flags and mode."""
        if self._peft is not None:
            self._peft.unload()
            self._release()

    def _release(self) -> None:
        self._peft = None
        for parameter, trainable in zip(self.base.parameters(), self._trainable, strict=True):
            parameter.requires_grad_(trainable)
        self.base.train(self._training)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _config(self) -> LoraConfig:
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        layer = self.base.get_submodule(self.modules[0])
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=int(self.alpha) if float(self.alpha).is_integer() else self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.modules,
            fan_in_fan_out=isinstance(layer, Conv1D),  # Conv1D keeps its weight as (in, out)
        )


def _copied(factor: Tensor) -> Tensor:
    import torch

    return whole(factor.detach()).to("cpu", torch.promote_types(factor.dtype, torch.float32), copy=True)


def row_loss(model: Any, row: TrainingSequence) -> Tensor:
    """Sum of the negative log-likelihoods of the row's labelled tokens, in nats, in fp32 at least; ()."""
    import torch

    ids = torch.tensor([row.ids], device=model.device)
    labelled = torch.tensor(row.labelled(), device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, labelled - 1]  # (labelled, vocabulary)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(logits, ids[0, labelled], reduction="sum")


def _attach(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Put the adapter on `model`. PEFT's own start values are replaced: drawing them leaves no trace."""
    import torch
    from peft import PeftModel, get_peft_model
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    with torch.random.fork_rng([]), warnings.catch_warnings():
        # PEFT still asks transformers for this name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # ZeRO-3 gathers neighbours in one buffer, which mixed dtypes break.
        peft = get_peft_model(model, config, autocast_adapter_dtype=not is_deepspeed_zero3_enabled())
    assert isinstance(peft, PeftModel)
    return peft
