"""The frozen records that cross SEAL's borders. Nothing else does: no bare dicts, no positional tuples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict

from seal.training_config import FirstError
from seal.training_config import TrainingConfig as TrainingConfig

_T = TypeVar("_T")
Many = Annotated[tuple[_T, ...], FirstError()]


@dataclass(frozen=True, slots=True)
class Question:
    """One question a passage is evaluated on, asked without the passage."""

    question: str
    answer: str
    """Gold answer."""
    title: str = ""
    """Title of the passage, prefixed to the prompt as `Topic: {title}` (paper appendix B)."""
    also: Many[str] = ()
    """Further accepted answers; a grader counts an answer that matches any of them."""
    wrong: Many[str] = ()
    """Wrong answers of the same type, where the data set has them."""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every answer that counts as right, the gold answer first, blanks and repetitions left out."""
        return tuple(dict.fromkeys(a for a in (self.answer, *self.also) if a.strip()))


@dataclass(frozen=True, slots=True)
class Task:
    """Something new to learn and what the learning is measured on.

    Knowledge incorporation: `context` is the passage text and `target` a tuple of `Question`.
    Few-shot learning: `context` holds the demonstration pairs and `target` the test pairs.
    A custom domain may put anything here.
    """

    id: str
    context: Any
    target: Any
    title: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. `temperature=0` is greedy; then `top_p` and the seed have no effect."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    stop: Many[str] = ()
    """Strings that end a completion; they are cut off the text."""
    explore: float = 0.0
    """Share of constrained completions whose choices are all drawn evenly; free text knows no such thing."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of a prompt, decoded, without stop strings and special tokens."""

    text: str
    n_tokens: int
    finish: Literal["stop", "length"]
    choices: Many[tuple[int, int]] = ()
    """Where the model chose, as spans of characters, in a text that is given between the choices; empty: it
    wrote all of it."""


@dataclass(frozen=True, slots=True)
class EditFinding:
    """Something visibly wrong with a self-edit: `seal.self_edit_check` tells what each kind is."""

    kind: Literal["loop", "echo", "unsupported"]
    text: str
    """The words, as they stand in the completion."""
    start: int
    """Their first character in the completion."""
    stop: int
    """One past the last character."""


@dataclass(frozen=True, slots=True)
class SelfEdit:
    """Training data (or a training recipe) that the policy wrote for one task."""

    id: str
    task_id: str
    prompt: str
    """The prompt as the policy saw it, chat template included."""
    completion: str
    seed: int
    policy: str
    """Version of the policy that wrote it."""
    n_tokens: int = 0
    finish: Literal["stop", "length"] = "stop"
    choices: Many[tuple[int, int]] = ()
    """Spans of characters of the completion that the policy chose; empty: all of it."""


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One training sequence as token ids.

    `loss` holds half-open spans `[start, stop)` of positions whose tokens are predicted and count in the
    loss; empty means every token but the first (a token is predicted from the ones before it, so position
    0 never counts).
    """

    ids: Many[int]
    loss: Many[tuple[int, int]] = ()

    def labelled(self) -> list[int]:
        """Positions whose token counts in the loss, ascending."""
        spans = self.loss or ((1, len(self.ids)),)
        return sorted({i for a, b in spans for i in range(max(a, 1), min(b, len(self.ids)))})


@dataclass(frozen=True, slots=True)
class EvalPrompt:
    """A prompt to answer with (and, once per policy, without) the adapter.

    `reference` is a gold continuation whose log-likelihood is measured from the same prefill; empty: none.
    `others` are further continuations, wrong ones, whose log-likelihoods it is compared with.
    `question` is what the grader sees; None: the caller grades.
    """

    id: str
    ids: Many[int]
    sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=64)
    reference: Many[int] = ()
    question: Question | None = None
    others: Many[Many[int]] = ()

    def margin(self, reference: float | None, others: Sequence[float]) -> float | None:
        """How much likelier a token of the reference is than one of the likeliest other, in nats, from the
        summed log-likelihoods of all; None where there is nothing to compare.
        """
        if reference is None or not self.reference or not others:
            return None
        likely = [total / max(len(ids), 1) for total, ids in zip(others, self.others, strict=True)]
        return reference / len(self.reference) - max(likely)


@dataclass(frozen=True, slots=True)
class AdaptJob:
    """One adapter to train and what to ask it. No sequences (or no epochs): baseline only."""

    id: str
    sequences: Many[TrainingSequence]
    training: TrainingConfig
    eval_prompts: Many[EvalPrompt]
    seed: int
    save_to: str = ""
    """Folder to save the adapter in, in PEFT's format; empty: it is not kept."""
    baseline: bool = True
    """Whether the outcome carries answers without the adapter too."""
    start_from: str = ""
    """Folder of an adapter in PEFT's format to train on from; empty: from the start values of the seed."""
    anchors: Many[TrainingSequence] = ()
    """Sequences whose next-token distributions are to stay what they are without the adapter.

    A step has as many of them as of `sequences`. Its loss is the mean token loss of these, plus
    `anchor_weight` times the mean KL(without || with the adapter) over the labelled positions of those.
    """
    anchor_weight: float = 1.0

    @property
    def trains(self) -> bool:
        """Whether there is an adapter to train; else the base alone answers."""
        return bool(self.sequences and (self.training.epochs or self.training.steps))


class Verdict(StrEnum):
    """A grade. `ERROR` means the grader failed, and is never counted as wrong."""

    CORRECT = "correct"
    WRONG = "wrong"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one evaluation prompt."""

    prompt_id: str
    text: str
    n_tokens: int = 0
    finish: Literal["stop", "length"] = "stop"
    log_likelihood: float | None = None
    """Sum of log-probabilities of the evaluation prompt's reference, in nats; None without a reference."""
    reference_tokens: int = 0
    verdict: Verdict | None = None
    """None when the evaluation prompt carries no question to grade."""
    note: str = ""
    """Why, when the verdict is an error."""
    margin: float | None = None
    """Mean log-likelihood a token of the reference less the likeliest of the prompt's `others`, in nats."""


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job has no result: the border where it failed, and the one-line cause."""

    border: str
    message: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of this job's share, and tokens."""

    train_s: float = 0.0
    answer_s: float = 0.0
    train_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AdaptOutcome:
    """What one adaptation was worth, or why there is none (`error`)."""

    job_id: str
    baseline: tuple[Answer, ...] = ()
    adapted: tuple[Answer, ...] = ()
    losses: tuple[float, ...] = ()
    """Mean loss of every optimiser step, in nats a token."""
    adapter: str = ""
    """Folder of the saved adapter, when the job asked for one."""
    timings: Timings = Timings()
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class Performance:
    """A measured performance of one model on one task.

    `score` is in [0, 1]; `details` are the parts a reward model may look at (for example per-question
    correctness, gold log-likelihood).
    """

    score: float
    """Share of what was right; where nothing was answered, the gold tokens' mean probability."""
    n: int = 0
    correct: tuple[bool, ...] = ()
    log_likelihood: float | None = None
    """Mean over questions of the mean log-likelihood a gold token, in nats."""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reward:
    """What a self-edit earned, its parts, and whether ReST-EM keeps it."""

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    kept: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one ReST-EM round works on. Journal kind `plan`, key `{iteration}`."""

    iteration: int
    task_ids: tuple[str, ...]
    policy: str
    """Version of the policy that writes in this round."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Adapters in one batch of this run. Journal kind `batch`, key `size`."""

    jobs: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """One task measured without training. Journal kind `baseline`, key `baseline_key`."""

    task_id: str
    policy: str
    performance: Performance
    answers: tuple[Answer, ...] = ()
    iteration: int = 0
    """Round that measured it; later rounds of the same policy use it again."""


def baseline_key(policy: str, task_id: str, in_context: bool = False, scored: bool = False) -> str:
    """Journal key of a `Baseline`; `in_context`: of one whose prompts held what there is to learn; `scored`:
    of one that only scored gold answers and wrote none."""
    return f"{policy}{'+context' * in_context}{'+scored' * scored}/{task_id}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of one self-edit, measured. Journal kind `trial`, key `{edit_id}/r{repeat}`.

    Training rounds and evaluation arms use the same record; `arm` is `train` in a round.
    """

    edit_id: str
    task_id: str
    repeat: int
    arm: str
    iteration: int
    policy: str
    before: Performance
    after: Performance | None
    """None: the edit could not be applied; `problem` says why."""
    outcome: AdaptOutcome
    problem: str = ""
    findings: tuple[EditFinding, ...] = ()
    """What the check of the self-edit found (`generation.check`)."""
    work: str = ""
    """Digest of what was trained and asked (`evaluator.digest`); a run does the same work once."""


@dataclass(frozen=True, slots=True)
class EditResult:
    """What one self-edit earned in a round. Journal kind `result`, key `{edit_id}`."""

    edit_id: str
    task_id: str
    iteration: int
    before: float
    after: float
    """Mean score over the repeats; equals `before` where the edit could not be applied."""
    repeats: tuple[float, ...]
    """Reward of every repeat."""
    reward: Reward
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """The M-step of one round. Journal kind `update`, key `{iteration}`."""

    iteration: int
    policy: str
    """Version of the policy after the round; the same as before when nothing was kept."""
    checkpoint: str
    """Folder of the new policy inside the run folder; empty without an update."""
    updated: bool
    kept: int
    of: int
    tied_tasks: tuple[str, ...]
    losses: tuple[float, ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One held-out task in one arm: correct answers (or score) of `n`, averaged over samples."""

    task_id: str
    score: float
    n: int


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One arm of the held-out comparison. Journal kind `arm`, key `{arm}`.

    `mean` weighs every question the same; the intervals are 95 % intervals over tasks (None: unknown, see
    `seal.intervals`), `gain` is paired with the base arm.
    """

    arm: str
    policy: str
    tasks: tuple[TaskScore, ...]
    n: int
    """Questions (or test grids)."""
    mean: float
    low: float | None
    high: float | None
    gain: float
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True, slots=True)
class Phase:
    """Wall time of one phase in this process. Journal kind `phase`, key `{name}/{iteration}`."""

    name: Literal["baseline", "write", "adapt", "update", "evaluate"]
    iteration: int
    """Round, from 0; -1 for the evaluation before and -2 for the one after the rounds."""
    seconds: float
    tokens: int


for _record in list(vars().values()):
    if is_dataclass(_record):  # wherever a record is read, unknown fields are refused
        _record.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[union-attr]
