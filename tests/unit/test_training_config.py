"""One declaration of a training config, one check: settings, options, wire and job agree value by value."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, fields
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from seal.cli import _options
from seal.config import load_config
from seal.errors import SealError
from seal.records import AdaptJob, TrainingConfig
from seal.sections import SFT_FIELDS, SFTConfig
from seal.serve import jobs
from seal.serve.messages import OFFICIAL_NAMES, Limits, TTTRequest, understand
from seal.training_config import PAPER_SFT, checked

SETTINGS = {
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "learning_rate": "learning_rate",
}
CASES: list[tuple[str, Any, bool]] = [
    ("rank", 0, False),
    ("rank", 1, True),
    ("alpha", 0.0, False),
    ("alpha", 1e-9, True),
    ("alpha", float("inf"), False),
    ("dropout", -0.1, False),
    ("dropout", 0.0, True),
    ("dropout", 1.0, False),
    ("learning_rate", 0.0, False),
    ("learning_rate", 1.0, True),
    ("learning_rate", 50.0, False),
    ("learning_rate", float("nan"), False),
    ("epochs", -1, False),
    ("epochs", 1, True),
    ("batch_size", 0, False),
    ("batch_size", 4096, True),
    ("batch_size", 4097, False),
    ("accumulation", 0, False),
    ("steps", -1, False),
    ("steps", 40, True),
    ("schedule", "cosine", True),
    ("schedule", "steps", False),
    ("warmup_ratio", 0.5, True),
    ("warmup_ratio", 1.0, False),
    ("weight_decay", -1.0, False),
    ("weight_decay", float("inf"), False),
    ("max_grad_norm", 0.0, True),
    ("max_grad_norm", float("inf"), False),
    ("targets", ("q_proj", "mlp"), True),
    ("targets", (), False),
]


def _in_settings(field: str, value: Any) -> TrainingConfig:
    name = SETTINGS.get(field, f"inner.{field}")
    return load_config(overrides={name: list(value) if isinstance(value, tuple) else value}).inner_training()


def _in_sft_settings(field: str, value: Any) -> TrainingConfig:
    return load_config(overrides={f"sft.{field}": value}).sft.training()


def _as_an_option(field: str, value: Any) -> TrainingConfig:
    seen: list[TrainingConfig] = []
    flags = _options.Flags({name: name for name in SFT_FIELDS})

    app = typer.Typer(add_completion=False)
    app.command()(_verb(flags, seen))
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    done = CliRunner().invoke(app, [f"--{field.replace('_', '-')}={text}"])
    if done.exception is not None and isinstance(done.exception, SealError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return seen[0]


def _verb(flags: _options.Flags, seen: list[TrainingConfig]) -> Callable[..., None]:
    def verb(**options: Any) -> None:
        seen.append(flags.gather(options, PAPER_SFT))

    verb.__signature__ = inspect.Signature(flags.parameters(PAPER_SFT))  # type: ignore[attr-defined]
    return verb


def _in_the_official_request(field: str, value: Any) -> TrainingConfig:
    message = understand({"train_sequences": ["a"], OFFICIAL_NAMES[field]: value}, Limits())
    assert isinstance(message, TTTRequest)
    return message.training()


def _in_a_job_on_the_wire(field: str, value: Any) -> TrainingConfig:
    wire = jobs.job_to_wire(AdaptJob("j", (), TrainingConfig(), (), 0))
    wire["training"][field] = list(value) if isinstance(value, tuple) else value
    if value == value and value not in (float("inf"),):
        wire = json.loads(json.dumps(wire))
    return jobs.job_from_wire(wire).training


BORDERS = {
    "settings": (_in_settings, set(asdict(TrainingConfig())) - {"shuffle"}),
    "sft settings": (_in_sft_settings, set(SFT_FIELDS)),
    "options": (_as_an_option, set(SFT_FIELDS)),
    "official request": (_in_the_official_request, set(OFFICIAL_NAMES)),
    "job": (_in_a_job_on_the_wire, set(asdict(TrainingConfig()))),
    "record": (lambda field, value: checked({field: value}), set(asdict(TrainingConfig()))),
}


@pytest.mark.parametrize("border", list(BORDERS))
def test_every_border_says_the_same_of_every_value(border: str) -> None:
    enter, known = BORDERS[border]
    for field, value, fine in CASES:
        if field not in known:
            continue
        with nullcontext() if fine else pytest.raises(SealError):
            assert getattr(enter(field, value), field) == value, (field, value)


def test_every_field_is_tried_and_explained() -> None:
    assert {field for field, *_ in CASES} == {f.name for f in fields(TrainingConfig)} - {"shuffle"}
    assert all(info.description for info in SFTConfig.model_fields.values())


def test_a_wrong_value_is_named_as_it_was_given() -> None:
    with pytest.raises(SealError, match=r"^--lr: must be less than or equal to 1, given 50.0$"):
        _options.INNER_FLAGS.gather(
            {name: getattr(PAPER_SFT, field) for name, field in _options.INNER_FLAGS.fields.items()}
            | {"lr": 50.0},
            PAPER_SFT,
        )


def test_a_request_trains_like_the_config_it_was_made_of() -> None:
    config = TrainingConfig(
        rank=4, alpha=8.0, dropout=0.1, learning_rate=0.5, epochs=3, batch_size=2, accumulation=5
    )
    assert TTTRequest.of(config, train_sequences=["a"]).training() == config
