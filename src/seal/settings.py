"""All settings of a run; `seal.config` reads them from files and flags, `seal.sections` has the parts."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from seal import config_reader, plugins, yaml_lines
from seal import training_config as tc
from seal.prompt import PromptSettings
from seal.records import Sampling, TrainingConfig
from seal.sections import (
    BudgetConfig,
    Count,
    DataConfig,
    EvaluationConfig,
    GenerationConfig,
    GraderConfig,
    InnerConfig,
    Name,
    Natural,
    Section,
    SFTConfig,
    offered_class,
)

DOMAINS = ("knowledge_incorporation", "few_shot_learning")
REWARDS = (
    "auto", "binary", "accuracy_gain", "best_of_k", "log_likelihood", "choice", "contrast", "accuracy_choice",
)  # fmt: skip
_DEVICE = re.compile(r"^(auto|cpu|mps|cuda(:\d+)?)$")


class SEALConfig(Section):
    """Every setting of a run."""

    model_name: Name = "microsoft/DialoGPT-medium"
    """Model to teach: a Hugging Face id, a folder, a .gguf file, or a built-in name (see `seal doctor`)."""
    device: str = "auto"
    """Where it runs: auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16", "int8", "nf4"] = "auto"
    """Number format of the base weights; auto: the best that the device is fast at."""
    max_outer_iterations: Count = 1000
    """ReST-EM rounds; 0: evaluation only."""
    tasks_per_iteration: Natural = 1
    """Tasks (passages) sampled a round."""
    samples_per_iteration: Natural = 4
    """Self-edits written for each sampled task."""
    repeats: Natural = 1
    """Trainings of the same self-edit with different seeds; its reward is their mean."""
    learning_rate: tc.LearningRate = 1e-4
    """Peak learning rate of the inner loop's LoRA training."""
    lora_r: tc.Rank = 16
    lora_alpha: tc.Alpha = 32.0
    lora_dropout: tc.Dropout = 0.1
    max_length: Annotated[int, tc.Number, Field(ge=8, le=10**9)] = 2048
    """Longest training sequence, in tokens; the model's own window applies as well."""
    domain: str = "knowledge_incorporation"
    """knowledge_incorporation, few_shot_learning, or an import path `package.module:Class`."""
    reward: str = "auto"
    """binary, accuracy_gain, best_of_k, log_likelihood, choice, contrast, accuracy_choice, an import path
    `package.module:Class`; auto: binary for the built-in domains, your domain's own `compute_reward`."""
    reward_threshold: Annotated[float, tc.Number] = 0.0
    """A reward must be above this to be positive."""
    keep: Literal["positive", "best_of_k"] = "positive"
    """Self-edits that ReST-EM trains on: all with a positive reward, or the best of each task."""
    keep_k: Natural = 1
    """How many of each task's self-edits best_of_k keeps."""
    keep_checkpoints: Natural = 2
    """Policies that stay on disk; those of earlier rounds are deleted once a newer one is safe."""
    seed: Count = 42
    """Seed of the run; every other seed derives from it by name."""
    output_dir: Name = "./outputs/seal"
    """Run folder; it is new, and nothing in it is ever overwritten."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe message shown on the terminal."""
    wandb_project: str | None = None
    """Weights & Biases project; None: off."""
    trackers: tuple[Literal["wandb", "tensorboard", "trackio", "mlflow"], ...] = ()
    """Trackers that get the metrics besides the run folder's own file."""
    data_config: DataConfig = DataConfig()
    inner: InnerConfig = InnerConfig()
    generation: GenerationConfig = GenerationConfig()
    sft: SFTConfig = SFTConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    grader: GraderConfig = GraderConfig()
    budget: BudgetConfig = BudgetConfig()

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not _DEVICE.match(value):
            raise ValueError("must be auto, cpu, cuda, cuda:N or mps")
        return value

    @field_validator("domain")
    @classmethod
    def _domain(cls, value: str) -> str:
        return offered_class(value, plugins.DOMAINS, DOMAINS)

    @field_validator("reward")
    @classmethod
    def _reward(cls, value: str) -> str:
        return offered_class(value, plugins.REWARDS, REWARDS)

    @field_validator("log_level", mode="before")
    @classmethod
    def _log_level(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("keep_k")
    @classmethod
    def _keep_k(cls, value: int, info: ValidationInfo) -> int:
        samples = info.data.get("samples_per_iteration")
        if samples is not None and value > samples:
            raise ValueError(f"must be at most samples_per_iteration, which is {samples}")
        return value

    @classmethod
    def from_yaml(cls, path: str | Path) -> SEALConfig:
        """Read a YAML or JSON file. Raises `ConfigError` with every mistake, each with file and line."""
        return config_reader.read(cls, path)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """All settings as YAML that `from_yaml` reads back as an equal config; also written to `path`."""
        text = yaml_lines.dump(self.model_dump(mode="json"))
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def inner_training(self) -> TrainingConfig:
        """How the inner loop trains an adapter."""
        return TrainingConfig(
            rank=self.lora_r,
            alpha=self.lora_alpha,
            dropout=self.lora_dropout,
            learning_rate=self.learning_rate,
            **self.inner.model_dump(include={field.name for field in fields(TrainingConfig)}),
        )

    def prompts(self) -> PromptSettings:
        """What the chat template is told."""
        return PromptSettings(self.generation.template_arguments, self.generation.date)

    def sampling(self) -> Sampling:
        """How self-edits are drawn."""
        generation = self.generation
        return Sampling(
            generation.temperature, generation.top_p, generation.max_new_tokens, explore=generation.explore
        )
