"""How one adapter is trained: every field with its unit and range, declared here and nowhere else.

Settings, options of the command line, the wire of the TTT server and the M-step's job take these types, so
one check holds at all borders. Inside, `TrainingConfig` is a plain record that nothing checks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, TypeAdapter, ValidationError

from seal.errors import ConfigError


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _names(value: Any) -> Any:
    """A text is names by commas; a list becomes a tuple here, as strict validation takes no other."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


class FirstError(FailFast):
    """A list's check ends at its first wrong item: a million of them cost strangers' messages no more."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


Number = BeforeValidator(_no_bool)
Rank = Annotated[int, Number, Field(ge=1, le=2**16, description="LoRA rank.")]
Alpha = Annotated[
    float,
    Number,
    Field(gt=0, allow_inf_nan=False, description="LoRA alpha; the update is scaled by alpha / rank."),
]
Dropout = Annotated[float, Number, Field(ge=0, lt=1, description="Dropout on the inputs of the LoRA layers.")]
Targets = Annotated[
    tuple[str, ...],
    FirstError(),
    BeforeValidator(_names),
    Field(
        min_length=1,
        description="Layers with LoRA: groups all, attention, mlp, or suffixes of module names (q_proj).",
    ),
]
LearningRate = Annotated[float, Number, Field(gt=0, le=1, description="Peak learning rate.")]
Epochs = Annotated[int, Number, Field(ge=0, le=10**9, description="Passes over the training sequences.")]
Steps = Annotated[
    int,
    Number,
    Field(
        ge=0,
        le=10**9,
        description="Updates of the weights, equally many for all, in place of `epochs`; 0: epochs decide.",
    ),
]
BatchSize = Annotated[int, Number, Field(ge=1, le=4096, description="Sequences a step.")]
Accumulation = Annotated[
    int,
    Number,
    Field(ge=1, le=4096, description="Steps whose gradients are added up before the weights move."),
]
Schedule = Annotated[
    Literal["constant", "linear", "cosine"],
    Field(description="Course of the learning rate after the warm-up: constant, linear or cosine."),
]
WarmupRatio = Annotated[
    float,
    Number,
    Field(ge=0, lt=1, description="Share of the steps over which the learning rate rises from 0."),
]
WeightDecay = Annotated[
    float, Number, Field(ge=0, allow_inf_nan=False, description="AdamW weight decay of the LoRA weights.")
]
MaxGradNorm = Annotated[
    float,
    Number,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="Gradient clipping by global norm, each adapter its own; 0 switches it off.",
    ),
]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How one adapter is trained. Defaults are the paper's inner loop (section 4.2, appendix B.2)."""

    rank: Rank = 32
    alpha: Alpha = 64.0
    dropout: Dropout = 0.0
    targets: Targets = ("all",)
    learning_rate: LearningRate = 1e-3
    epochs: Epochs = 10
    batch_size: BatchSize = 1
    accumulation: Accumulation = 1
    schedule: Schedule = "linear"
    warmup_ratio: WarmupRatio = 0.0
    weight_decay: WeightDecay = 0.0
    max_grad_norm: MaxGradNorm = 1.0
    shuffle: bool = True
    """Draw a new order of the sequences every epoch, from the job's seed."""
    steps: Steps = 0


#: The paper's inner loop.
PAPER_INNER = TrainingConfig()
#: The paper's M-step in the knowledge setting (appendix B.3): 10 self-edits an update, 2 epochs.
PAPER_SFT = TrainingConfig(rank=64, alpha=128.0, learning_rate=3e-4, epochs=2, batch_size=10)


@cache
def _adapter() -> TypeAdapter[TrainingConfig]:
    return TypeAdapter(TrainingConfig)


def checked(
    changes: Mapping[str, Any], base: TrainingConfig = PAPER_INNER, names: Mapping[str, str] | None = None
) -> TrainingConfig:
    """`base` with `changes`, each of the right type and within its range.

    Args:
        names: what a field is called where its value was given, for the message.

    Raises:
        ConfigError: a value out of range, one line for the first.
    """
    try:
        return _adapter().validate_python(asdict(base) | dict(changes))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        name = (names or {}).get(field, field)
        raise ConfigError(f"{name}: {message}, given {first['input']!r:.60}") from None
