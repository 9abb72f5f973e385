"""The sections of a run's settings: names, defaults, units and ranges. `seal.settings` holds them together.

Defaults of the inner loop are the specification's, those of the M-step and of sampling the paper's
(arXiv 2506.10943, section 4 and appendix B); the presets hold the paper's settings throughout.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from datetime import date
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from seal import plugins
from seal import training_config as tc
from seal.plugins import is_import_path
from seal.prompt import DEFAULT_DATE
from seal.records import TrainingConfig


def _off(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads a bare off as false


def offered_class(value: str, group: str, known: tuple[str, ...] = ()) -> str:
    """A built-in name, an import path, or a name that an installed package offers."""
    if value in known or is_import_path(value):
        return value
    names = (*known, *plugins.offered(group))
    if value in names:
        return value
    raise ValueError(
        f"must be {', '.join(names) + ' or ' if names else ''}an import path `package.module:Class`"
    )


def _loader(value: str) -> str:
    return offered_class(value, plugins.LOADERS)


def _auto_or_natural(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9):
        return value
    raise ValueError("must be auto or a whole number of at least 1")


def _base_url(value: str) -> str:
    if not re.match(r"^https?://[^\s/]+", value):
        raise ValueError("must begin with http:// or https://")
    parts = urlsplit(value)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold no name, password or key: export that, and name it in api_key_env")
    return value.rstrip("/")


def _day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError("must be a day like 2024-07-26") from None


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"is no command: {error}") from None
    if value and not words:
        raise ValueError("must be a command")
    return value


Name = Annotated[str, Field(min_length=1)]
Natural = Annotated[int, tc.Number, Field(ge=1, le=10**9)]
Count = Annotated[int, tc.Number, Field(ge=0, lt=2**63)]
Positive = Annotated[float, tc.Number, Field(gt=0)]
NonNegative = Annotated[float, tc.Number, Field(ge=0)]
Rate = Annotated[float, tc.Number, Field(gt=0, le=1)]
Loader = Annotated[str, AfterValidator(_loader)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
AutoOrNatural = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_natural)]
EditCheck = Literal["off", "record", "drop-lines", "refuse"]
Prices = tuple[NonNegative, NonNegative]
Arms = Annotated[tuple[Name, ...], Field(min_length=1)]


class Section(BaseModel):
    """Frozen settings; unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=True,
    )


class DataConfig(Section):
    """What there is to learn, and how the policy is asked about it."""

    dataset_name: Name = "squad"
    """Data set: squad, squad_v2, builtin, invented (made-up worlds, any number), arc, synthetic, OWNER/NAME
    of the Hugging Face hub, or json for files of your own (see `path`)."""
    path: str | None = None
    """File or folder with the training tasks; None: the data set's own source."""
    val_path: str | None = None
    """File or folder with the held-out tasks; None: the data set's own validation split."""
    max_samples: Natural | None = None
    """At most this many training tasks (passages); None: all."""
    max_val_samples: Natural | None = None
    """At most this many held-out tasks (passages); None: all."""
    prompt_type: Name = "implications"
    """Kind of self-edit to ask for: a built-in template or a name from `prompt_templates`."""
    prompt_templates: dict[str, str | dict[Literal["base", "chat"], str]] = {}
    """Prompt templates of your own, by name: a text, or one for base and one for chat models; `{title}` and
    `{context}` are filled in."""
    split_newlines: bool = True
    """Whether every line of a completion is a training sequence of its own."""
    include_passage: bool = True
    """Whether the passage itself is the last training sequence."""
    unanswerable: Literal["drop", "keep"] = "drop"
    """Questions of squad_v2 without an answer: drop them, or keep them with the answer `unanswerable`."""
    questions: Literal["own", "fill", "cloze", "both"] = "own"
    """own: the data set's questions; fill: gaps in its sentences (cloze) for a passage that has none; cloze:
    gaps for every training passage, a reward that needs no labels, with held-out passages as for fill; both:
    gaps and then its own questions for every training passage, to compare rewards."""
    malformed: Literal["error", "drop"] = "error"
    """A record that cannot be read stops the run, or is left out and counted."""
    columns: dict[
        Literal["context", "title", "questions", "question", "answers", "is_impossible", "split", "id"],
        str | tuple[str, ...],
    ] = {}
    """Columns of your data with other names: {context: body, answers: [answer.value, answer.more]}."""
    subset: str | None = None
    """Configuration of a data set of the hub, where it has several."""
    splits: dict[Literal["train", "val"], str] = {}
    """Names of its splits, if not train and validation: {train: train, val: test}."""
    loader: Loader | None = None
    """Import path `package.module:Class` of a data loader of your own with `load_data()`."""
    options: dict[str, Any] = {}
    """Further options of the domain or of your loader, passed on as they are."""


class InnerConfig(Section):
    """How one adapter is trained on one self-edit (its rank and rate are the top-level `lora_*` settings)."""

    epochs: tc.Epochs = 10
    steps: tc.Steps = 0
    batch_size: tc.BatchSize = 1
    accumulation: tc.Accumulation = 1
    schedule: tc.Schedule = "linear"
    warmup_ratio: tc.WarmupRatio = 0.0
    weight_decay: tc.WeightDecay = 0.0
    max_grad_norm: tc.MaxGradNorm = 1.0
    targets: tc.Targets = ("all",)
    backend: Literal["local", "server", "ray"] = "local"
    """Who trains: processes of this machine; a TTT server (see `server`); actors of a Ray cluster. A run has
    the same results on the first and the last."""
    workers: AutoOrNatural = "auto"
    """Processes that share the work; auto: one a core or GPU, as memory allows, and one for a tiny model; on
    a Ray cluster as many as there is room for, also while the run goes on."""
    ray_address: str | None = None
    """host:port of a Ray cluster; None: $RAY_ADDRESS if set, otherwise one of its own on this machine."""
    server: str | None = None
    """TTT server that trains instead of this machine: tcp://host:port, or `seal serve`'s endpoint file."""
    server_keys: str | None = None
    """This client's key_secret file, for a server with CURVE keys."""
    slots: AutoOrNatural = "auto"
    """Adapters that one process trains at once; auto: what fits into the memory free as the run begins."""
    batch: AutoOrNatural = "auto"
    """Adapters that are trained and asked as one unit of work, by themselves; the same for every number of
    workers, so that these change no number. auto: 8 on a CPU, 64 on a GPU."""
    token_budget: AutoOrNatural = "auto"
    """Tokens in one packed pass; auto: what fits into the memory free as the run begins."""
    recompute: Literal["auto"] | bool = "auto"
    """Compute layers again in the backward pass instead of keeping them: a pass takes half as long again, in
    a fraction of the memory. auto: where else passes would be short for want of it."""
    pad_loss: bool = False
    """Count the loss on padding to `max_length`, as the official code does; for comparisons only."""

    @model_validator(mode="before")
    @classmethod
    def _a_server_is_meant(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("server") and "backend" not in values:
            return {**values, "backend": "server"}
        return values

    @model_validator(mode="after")
    def _backend_fits(self) -> InnerConfig:
        if (self.backend == "server") != (self.server is not None):
            raise ValueError("backend: server and `server`, its address, belong together")
        if self.ray_address is not None and self.backend != "ray":
            raise ValueError("ray_address needs backend: ray")
        return self


class GenerationConfig(Section):
    """How the policy writes self-edits."""

    temperature: NonNegative = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: Rate = 0.95
    """Nucleus sampling: share of the probability mass that is kept."""
    explore: Annotated[float, tc.Number, Field(ge=0, le=1)] = 0.0
    """Share of a round's constrained self-edits (study plans, ARC recipes) that are drawn evenly."""
    max_new_tokens: Natural = 512
    """Longest self-edit, in tokens."""
    check: Annotated[EditCheck, BeforeValidator(_off)] = "drop-lines"
    """What happens to a self-edit (knowledge incorporation, every arm) with loops, echoes of the instruction,
    or names and numbers that its passage lacks. off: nothing; record: they are noted; drop-lines: noted, and
    loops and echoes are not trained on; refuse: noted, and the self-edit is not trained on."""
    template_arguments: dict[str, Any] = {}
    """Arguments for the model's chat template; thinking is off unless `enable_thinking: true` stands here."""
    date: Annotated[str, AfterValidator(_day)] = DEFAULT_DATE
    """Day, as year-month-day, that a chat template is told which prints today's."""
    base_url: BaseUrl | None = None
    """OpenAI-compatible server that writes instead of the local policy, such as http://localhost:8000/v1."""
    model: str | None = None
    """Model name on that server."""
    api: Literal["completions", "chat"] = "completions"
    """completions sends the prompt as it is, chat lets the server add its own template."""
    api_key_env: str = ""
    """Environment variable that holds the server's key, empty for none; the key never stands in a config."""
    max_attempts: Natural = 5
    """Tries a request to the server gets before the item fails."""
    timeout_s: Positive = 120.0
    """Seconds to wait for one reply of the server."""
    concurrency: Natural = 8
    """Requests to the server at the same time."""
    follow: Literal["off", "lora"] = "off"
    """lora: the server is vLLM, serves model_name, reads this run's folder and gets each trained policy as a
    LoRA adapter (of sft.rank times the rounds so far); off: its model stays what it is."""
    deploy_hook: Annotated[str, AfterValidator(_command)] = ""
    """Command that brings a trained policy to a server which others control: it is called with the folder of
    a LoRA adapter of model_name and the new name that the server must answer to."""
    engine: Literal["seal", "vllm"] = "seal"
    """Who writes without a `base_url`. vllm: a server of vLLM's on this machine, which the run starts and
    ends, and which follows the rounds."""
    python: str = ""
    """Interpreter that has vLLM, such as /opt/vllm/bin/python; empty: this one."""
    engine_arguments: tuple[str, ...] = ()
    """Further arguments of vLLM's, such as [--gpu-memory-utilization, "0.4"]."""
    restart_after: Natural = 20
    """Policies loaded before the run's vLLM is started anew: it keeps memory of each."""
    price: Prices = (0.0, 0.0)
    """Cost of a million tokens that the server reads, and of a million that it writes."""

    @model_validator(mode="after")
    def _followers_are_servers(self) -> GenerationConfig:
        if self.engine == "vllm" and self.base_url is not None:
            raise ValueError("engine: vllm starts a server itself: leave it out, or `base_url`")
        if self.follow != "off" and self.base_url is None and self.engine != "vllm":
            raise ValueError("follow needs `base_url`, the address of a vLLM server, or engine: vllm")
        if self.deploy_hook and (self.base_url is None or self.follow != "off"):
            raise ValueError("deploy_hook needs `base_url`, the server's address, and follow: off")
        return self

    @property
    def follows(self) -> bool:
        """Whether trained policies reach the server that writes."""
        return self.follow == "lora" or self.engine == "vllm" or bool(self.deploy_hook)


class SFTConfig(Section):
    """ReST-EM's M-step: supervised fine-tuning on the kept self-edits (defaults: the paper's RL round)."""

    rank: tc.Rank = tc.PAPER_SFT.rank
    alpha: tc.Alpha = tc.PAPER_SFT.alpha
    dropout: tc.Dropout = tc.PAPER_SFT.dropout
    learning_rate: tc.LearningRate = tc.PAPER_SFT.learning_rate
    epochs: Annotated[tc.Epochs, Field(ge=1)] = tc.PAPER_SFT.epochs
    steps: tc.Steps = 0
    batch_size: tc.BatchSize = tc.PAPER_SFT.batch_size
    schedule: tc.Schedule = tc.PAPER_SFT.schedule
    warmup_ratio: tc.WarmupRatio = tc.PAPER_SFT.warmup_ratio
    weight_decay: tc.WeightDecay = tc.PAPER_SFT.weight_decay
    max_grad_norm: tc.MaxGradNorm = tc.PAPER_SFT.max_grad_norm
    targets: tc.Targets = tc.PAPER_SFT.targets
    processes: Natural = 1
    """Processes (GPUs) of this machine that train together; `batch_size` is over all of them."""
    shard: Annotated[Literal["off", "fsdp2", "zero3"], BeforeValidator(_off)] = "off"
    """How they share the policy's weights: PyTorch's FSDP2, DeepSpeed's ZeRO-3; off: each has all."""

    @model_validator(mode="after")
    def _batches_are_shared(self) -> SFTConfig:
        if self.batch_size % self.processes:
            raise ValueError(f"batch_size {self.batch_size} cannot be shared by {self.processes} processes")
        return self

    def training(self) -> TrainingConfig:
        """The part that is a training config."""
        return TrainingConfig(**self.model_dump(include=set(SFT_FIELDS)))


SFT_FIELDS = tuple(f.name for f in fields(TrainingConfig) if f.name in SFTConfig.model_fields)
"""Those settings of the M-step that are a training config's."""


class EvaluationConfig(Section):
    """The comparison on held-out tasks, before and after the outer loop."""

    enabled: bool = True
    """Whether held-out tasks are evaluated at all."""
    max_new_tokens: Natural = 64
    """Longest answer to a question, in tokens; also used for rewards."""
    n_tasks: Natural | None = None
    """Held-out tasks to evaluate; None: all of them."""
    arms: Arms | None = None
    """Compared with the base: self_edit (before RL), self_edit_rl (after RL), the domain's references
    (passage, random, oracle, no_augmentation, …), and three controls that have to be asked for: placebo (the
    same M-step on self-edits picked at random), constant (the best one self-edit, for all tasks) and
    fixed_prompts (of passages: texts of four kinds and about pairs of names, all in one adapter); None: all
    but those three."""
    samples: Natural = 1
    """Self-edits a task in each self-edit arm; their scores are averaged."""
    in_context: bool = False
    """Also answer with the passage in the prompt, as an upper reference."""
    answer_in_rounds: bool = False
    """Whether the rounds' adapted models also answer where the reward does not look at it.
    Without it log_likelihood, choice and contrast only score given answers, which is faster; the score beside
    the reward is then the gold tokens' mean probability. Held-out tasks are always answered."""


class GraderConfig(Section):
    """Who decides whether an answer is right."""

    kind: Literal["lexical", "judge", "local"] = "lexical"
    """lexical: offline word matching; judge: a model behind `base_url`; local: the run's own base model."""
    base_url: BaseUrl = "https://api.openai.com/v1"
    """OpenAI-compatible server of the judge."""
    model: str | None = None
    """Model name of the judge."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the judge's key."""
    max_attempts: Natural = 5
    """Tries a verdict gets before it counts as an error."""
    timeout_s: Positive = 60.0
    """Seconds to wait for one verdict."""
    concurrency: Natural = 8
    """Verdicts asked for at the same time."""
    price: Prices = (0.0, 0.0)
    """Cost of a million tokens that the judge reads, and of a million that it writes."""

    @model_validator(mode="after")
    def _judge_has_a_model(self) -> GraderConfig:
        if self.kind == "judge" and not self.model:
            raise ValueError("kind: judge needs `model`, the judge's name on its server")
        return self


class BudgetConfig(Section):
    """What generators and judges behind a `base_url` may use, all tries of a run together. A run that has
    used it up stops, and `seal resume` with a higher one goes on."""

    cost: Positive | None = None
    """In the currency of the prices; None: no limit."""
    tokens: Natural | None = None
    """Read and written; None: no limit."""
