"""Options that several verbs share, in groups: a frozen dataclass a group, one field an option.

A verb takes a group as one parameter and is decorated with `grouped`; a group given as the parameter's
default brings other defaults: `training: Training = Training(batch_size=4)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from typer import Option

from seal.errors import ConfigError

if TYPE_CHECKING:
    from seal.grading import Grader
    from seal.models.load import LoadedModel
    from seal.records import Sampling
    from seal.serve.messages import TTTRequest

Data = Annotated[Path, Option(help="Generated data (`seal make-data`).")]
Out = Annotated[Path, Option(help="Result file; the same command goes on with an unfinished one.")]
Articles = Annotated[int | None, Option("--n", min=1, help="Articles; default: all.")]
Completions = Annotated[int | None, Option("--k", min=0, help="Completions an article; default: all.")]
Split = Annotated[bool, Option(help="Every line of a completion is a sequence of its own.")]
Seed = Annotated[int, Option(min=0, help="Every other seed derives from it.")]
LogLevel = Annotated[str, Option(help="DEBUG, INFO, WARNING or ERROR.")]


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """A verb for typer: every parameter whose type is a dataclass becomes the options of its fields."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            flat.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))
            continue
        given = kind() if parameter.default is parameter.empty else parameter.default  # type: ignore[operator]
        groups[parameter.name] = kind
        own = get_type_hints(kind, include_extras=True)
        flat += [
            inspect.Parameter(
                field.name,
                parameter.KEYWORD_ONLY,
                default=getattr(given, field.name),
                annotation=own[field.name],
            )
            for field in fields(kind)
        ]

    @wraps(function)
    def verb(**options: Any) -> None:
        for name, kind in groups.items():
            options[name] = kind(**{field.name: options.pop(field.name) for field in fields(kind)})
        function(**options)

    verb.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    return verb


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Where a model runs, and in which type."""

    device: Annotated[str, Option(help="auto, cpu, mps, cuda or cuda:1.")] = "auto"
    dtype: Annotated[str, Option(help="auto, float32 or bfloat16.")] = "auto"

    def load(self, name: str) -> LoadedModel:
        """The model called `name`. Raises `ModelError`."""
        from seal.models.load import load_model

        return load_model(name, self.device, self.dtype)


@dataclass(frozen=True, slots=True)
class Grading:
    """Who grades answers."""

    grader: Annotated[str, Option(help="lexical (offline) or judge (an LLM).")] = "lexical"
    judge_url: Annotated[str, Option(help="The judge's OpenAI-compatible address; default: OpenAI's.")] = ""
    judge_model: Annotated[str, Option(help="The judge's model.")] = "gpt-4.1"
    judge_key_env: Annotated[str, Option(help="Variable that holds the judge's key.")] = ""

    def make(self) -> Grader:
        """The grader. Raises `ConfigError` for an unknown one."""
        from seal.grading import make_grader

        if self.grader == "judge":
            return make_grader(
                "judge", base_url=self.judge_url, model=self.judge_model, api_key_env=self.judge_key_env
            )
        return make_grader(self.grader)


@dataclass(frozen=True, slots=True)
class Training:
    """How a temporary adapter is trained; the defaults are the paper's inner loop. None: up to the verb."""

    lora_rank: Annotated[int, Option(min=1, help="LoRA rank.")] = 32
    lora_alpha: Annotated[float, Option(help="LoRA alpha.")] = 64.0
    lora_dropout: Annotated[float, Option(help="LoRA dropout.")] = 0.0
    epochs: Annotated[int | None, Option(min=0, help="Passes over the sequences.")] = 10
    lr: Annotated[float | None, Option(help="Peak learning rate.")] = 1e-3
    batch_size: Annotated[int, Option(min=1, help="Sequences in one forward pass.")] = 1
    grad_accum: Annotated[int, Option(min=1, help="Forward passes an update.")] = 1

    def request(self) -> TTTRequest:
        """The settings as a request without texts. Raises `ConfigError` where one is out of range."""
        from pydantic import ValidationError

        from seal.serve.messages import TTTRequest

        try:
            return TTTRequest.model_validate(
                {
                    "lora_rank": self.lora_rank,
                    "lora_alpha": self.lora_alpha,
                    "lora_dropout": self.lora_dropout,
                    "finetune_epochs": self.epochs,
                    "finetune_lr": self.lr,
                    "batch_size": self.batch_size,
                    "gradient_accumulation_steps": self.grad_accum,
                }
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigError(f"{first['loc'][0]}: {first['msg']}, given {first['input']!r}") from None


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How self-edits are drawn."""

    temperature: Annotated[float, Option(min=0, help="Sampling temperature of the self-edits.")] = 1.0
    top_p: Annotated[float, Option(help="Nucleus sampling.")] = 0.95
    max_tokens: Annotated[int, Option(min=1, help="Longest self-edit, in tokens.")] = 8192

    def sampling(self) -> Sampling:
        """The same as a record. Raises `ConfigError`."""
        from seal.records import Sampling

        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p is {self.top_p}", "give a number above 0, at most 1")
        return Sampling(self.temperature, self.top_p, self.max_tokens)
