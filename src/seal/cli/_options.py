"""Options that several verbs share, in groups: a frozen dataclass a group, one field an option.

A verb takes a group as one parameter and is decorated with `grouped`; a group given as the parameter's
default brings other defaults. `Flags` makes a group of a `TrainingConfig`, under the verb's names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo
from typer import Option

from seal.errors import ConfigError
from seal.training_config import TrainingConfig, checked
from seal.yaml_lines import scalar

if TYPE_CHECKING:
    from seal.grading import Grader
    from seal.models.load import LoadedModel

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
Data = Annotated[Path, Option(help="Generated data (`seal make-data`).")]
Out = Annotated[Path, Option(help="Result file; the same command goes on with an unfinished one.")]
Articles = Annotated[int | None, Option("--n", min=1, help="Articles; default: all.")]
Completions = Annotated[int | None, Option("--k", min=0, help="Completions an article; default: all.")]
Split = Annotated[bool, Option(help="Every line of a completion is a sequence of its own.")]
Seed = Annotated[int, Option(min=0, help="Every other seed derives from it.")]
Changes = Annotated[
    list[str] | None, Option("--set", metavar="KEY=VALUE", help="Any setting, such as inner.epochs=3.")
]
LogLevel = Annotated[str, Option(help="DEBUG, INFO, WARNING or ERROR.")]


@dataclass(frozen=True, slots=True)
class Flags:
    """The options of those fields of a `TrainingConfig` that a verb offers: option -> field."""

    fields: Mapping[str, str]

    def parameters(self, defaults: TrainingConfig) -> list[inspect.Parameter]:
        """The options, with the help and the defaults of the fields."""
        hints = get_type_hints(TrainingConfig, include_extras=True)
        found = []
        for name, field in self.fields.items():
            kind, *rest = get_args(hints[field])
            default = getattr(defaults, field)
            if kind not in (int, float):
                kind, default = str, ",".join(default) if isinstance(default, tuple) else default
            about = next(part.description for part in rest if isinstance(part, FieldInfo))
            annotation = Annotated[kind, Option(help=about)]  # type: ignore[valid-type]
            found.append(inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation))
        return found

    def gather(self, options: dict[str, Any], base: TrainingConfig) -> TrainingConfig:
        """The record that the options make of `base`. Raises `ConfigError` for one out of range."""
        changes = {field: options.pop(name) for name, field in self.fields.items()}
        return checked(changes, base, {f: f"--{n.replace('_', '-')}" for n, f in self.fields.items()})


INNER_FLAGS = Flags(
    {
        "lora_rank": "rank",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "epochs": "epochs",
        "lr": "learning_rate",
        "batch_size": "batch_size",
        "grad_accum": "accumulation",
    }
)
Training = Annotated[TrainingConfig, INNER_FLAGS]
"""How a temporary adapter is trained; the defaults are the paper's inner loop."""


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """A verb for typer: every parameter whose type is a dataclass becomes the options of its fields."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Callable[[dict[str, Any]], Any]] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        kind, *rest = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if not is_dataclass(kind):
            flat.append(parameter.replace(annotation=hint, kind=_KEYWORD))
            continue
        given: Any = kind() if parameter.default is parameter.empty else parameter.default  # type: ignore[operator]
        if rest:
            groups[parameter.name] = partial(rest[0].gather, base=given)
            flat += rest[0].parameters(given)
        else:
            groups[parameter.name] = partial(_gather, kind)
            flat += _parameters(kind, given)

    @wraps(function)
    def verb(**options: Any) -> None:
        for name, gather in groups.items():
            options[name] = gather(options)
        function(**options)

    verb.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    return verb


def _parameters(kind: Any, given: Any) -> list[inspect.Parameter]:
    own = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(f.name, _KEYWORD, default=getattr(given, f.name), annotation=own[f.name])
        for f in fields(kind)
    ]


def _gather(kind: Any, options: dict[str, Any]) -> Any:
    return kind(**{field.name: options.pop(field.name) for field in fields(kind)})


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Where a model runs, and in which type."""

    device: Annotated[str, Option(help="auto, cpu, mps, cuda or cuda:1.")] = "auto"
    dtype: Annotated[str, Option(help="auto, float32, bfloat16, int8 or nf4.")] = "auto"

    def settings(self) -> dict[str, str]:
        """The same as settings, for `seal.recipes.pipeline.settings`."""
        return {"device": self.device, "dtype": self.dtype}

    def load(self, name: str) -> LoadedModel:
        """The model called `name`. Raises `ModelError`."""
        from seal.models.load import load_model

        return load_model(name, self.device, self.dtype)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How adapters are trained and asked on this machine."""

    workers: Annotated[
        int | None, Option(min=1, help="Processes that share the work; default: one a core or GPU, as fits.")
    ] = None

    def settings(self) -> dict[str, int]:
        """The same as settings, for `seal.recipes.pipeline.settings`."""
        return {} if self.workers is None else {"inner__workers": self.workers}


@dataclass(frozen=True, slots=True)
class Grading:
    """Who grades answers."""

    grader: Annotated[str, Option(help="lexical (offline) or judge (an LLM).")] = "lexical"
    judge_url: Annotated[str, Option(help="The judge's OpenAI-compatible address; default: OpenAI's.")] = ""
    judge_model: Annotated[str, Option(help="The judge's model.")] = "gpt-4.1"
    judge_key_env: Annotated[str, Option(help="Variable that holds the judge's key.")] = ""

    def settings(self) -> dict[str, str]:
        """The same as settings, for `seal.recipes.pipeline.settings`."""
        found = {"grader__kind": self.grader}
        if self.grader == "judge":
            found |= {"grader__model": self.judge_model, "grader__api_key_env": self.judge_key_env}
            found |= {"grader__base_url": self.judge_url} if self.judge_url else {}
        return found

    def make(self) -> Grader:
        """The grader. Raises `ConfigError` for an unknown one."""
        from seal.grading import make_grader

        if self.grader == "judge":
            return make_grader(
                "judge", base_url=self.judge_url, model=self.judge_model, api_key_env=self.judge_key_env
            )
        return make_grader(self.grader)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the model behind an API may use. A command that has used it up goes on with a higher one."""

    max_cost: Annotated[
        float | None, Option(min=0, help="End when the model behind an API has cost that.")
    ] = None
    max_total_tokens: Annotated[
        int | None, Option(min=1, help="End when it has read and written so many tokens.")
    ] = None
    price: Annotated[str, Option(metavar="READ,WRITTEN", help="What it costs, a million tokens of each.")] = (
        "0,0"
    )

    def settings(self, payee: Literal["grader", "generation"]) -> dict[str, Any]:
        """The same as settings, for `seal.recipes.pipeline.settings`. Raises `ConfigError`."""
        prices = _prices(self.price)
        if self.max_cost is not None and not any(prices):
            raise ConfigError("--max-cost needs prices", "give --price READ,WRITTEN, or --max-total-tokens")
        return {
            "budget__cost": self.max_cost,
            "budget__tokens": self.max_total_tokens,
            f"{payee}__price": prices,
        }


def _prices(text: str) -> list[float]:
    try:
        read, written = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--price is {text!r}", "give two numbers, such as 2,8") from None
    return [read, written]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How self-edits are drawn."""

    temperature: Annotated[float, Option(min=0, help="Sampling temperature of the self-edits.")] = 1.0
    top_p: Annotated[float, Option(help="Nucleus sampling.")] = 0.95
    max_tokens: Annotated[int, Option(min=1, help="Longest self-edit, in tokens.")] = 8192

    def settings(self) -> dict[str, float]:
        """The same as settings, for `seal.recipes.pipeline.settings`."""
        return {
            "generation__temperature": self.temperature,
            "generation__top_p": self.top_p,
            "generation__max_new_tokens": self.max_tokens,
        }


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """`["inner.epochs=3"]` as `{"inner.epochs": 3}`; values are YAML.

    Raises:
        ConfigError: one names no setting or gives no value.
    """
    pairs = [change.partition("=") for change in changes]
    for key, equals, value in pairs:
        if not key.strip():
            raise ConfigError(f"--set {key + equals + value!r} names no setting", "write --set key=value")
        if not value.strip():
            raise ConfigError(f"--set {key + equals!r} has no value", "write --set key=value")
    return {key.strip(): scalar(value) for key, _, value in pairs}
