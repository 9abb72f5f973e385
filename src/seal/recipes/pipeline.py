"""What the steps of the official pipeline share: settings as a run has them, a run folder beside the result
file, passages with their imported self-edits.

A step is a part of the E-step on a run folder (`RESULT.run` beside `RESULT.json`) with the same journal,
seeds and reports as any other run; the official JSON file is an export of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal import setup
from seal.config import load_config
from seal.data.load_report import Tally, note_loaded
from seal.data.loader import INVENTED, report_of
from seal.errors import ConfigError, DataError, RunError
from seal.prompt import contract_of
from seal.recipes.articles import Article
from seal.records import Plan, SelfEdit, Task
from seal.run.codec import decode
from seal.run.folder import Run
from seal.run.journal import Journal
from seal.run.log import refuse_secrets
from seal.seeds import derive
from seal.settings import SEALConfig
from seal.training_config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A passage of the data file, and the task that measures it.
Pair = tuple[Article, Task]
#: Commands that a run folder may ask for when it is taken up again.
STEPS = ("make-data", "query", "cpt", "continual")
#: Settings that may differ when work is taken up again.
_FREE = {"device", "log_level", "output_dir", "inner.workers", "budget.cost", "budget.tokens"}


@dataclass(frozen=True, slots=True)
class Step:
    """Which step a run folder belongs to. Journal kind `step`, key `step`."""

    name: str
    out: str
    """The result file."""
    command: tuple[str, ...] = ()
    """Arguments of `seal` that go on with it."""
    place: str = ""
    """Working directory of the command."""

    @classmethod
    def here(cls, name: str, out: Path, command: tuple[str, ...]) -> Step:
        """A step that this process was asked for."""
        return cls(name, str(out), command, str(Path.cwd()))


def settings(
    model: str, dataset: str, out: Path, more: Mapping[str, Any] | None = None, /, **changes: Any
) -> SEALConfig:
    """Settings of a step: all passages of `dataset`, nothing held out, one round; `changes` by dotted name.

    Of `invented` worlds it takes those for training, as many as `data_config.max_samples` says.

    Args:
        more: settings of the user's, by dotted name, that the step leaves open.

    Raises:
        ConfigError: a value out of range, or one of `more` is not open.
    """
    # as held-out passages too, so that none is held back
    source = {"data_config.path": dataset, "data_config.val_path": dataset}
    if dataset == INVENTED:
        source = {"data_config.dataset_name": INVENTED}
    fixed = {
        "model_name": model,
        **source,
        "evaluation.enabled": False,
        "max_outer_iterations": 1,
        "generation.check": "record",  # what the file says is trained on
        "reward": "best_of_k",
        "keep": "best_of_k",
        "output_dir": str(run_folder(out)),
    } | {name.replace("__", "."): value for name, value in changes.items()}
    for name in more or ():
        if name in fixed:
            raise ConfigError(f"--set {name}: not open here", "give the command's own option, if it has one")
    return load_config(overrides=fixed | dict(more or {}))


def inner_settings(training: TrainingConfig) -> dict[str, Any]:
    """`training` as settings of the inner loop, for `settings`."""
    plain = asdict(training)
    top = {"lora_r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
    inner = {f"inner__{name}": plain[name] for name in ("epochs", "batch_size", "accumulation")}
    return {"learning_rate": training.learning_rate} | {n: plain[field] for n, field in top.items()} | inner


def run_folder(out: Path) -> Path:
    """The run folder of the step whose result is `out`."""
    return out.with_suffix(".run")


def open_run(config: SEALConfig, step: Step) -> Run:
    """The run folder of a step: a new one, or that of an earlier call with the same settings.

    Raises:
        ConfigError: the command or a setting holds a password or key.
        DataError: the result file is there, but no run of it: it is not overwritten.
        RunError: the run is another one's, or began with other settings.
    """
    out, folder = Path(step.out), run_folder(Path(step.out))
    old = out.with_name(out.name + ".journal.jsonl")
    if old.exists():
        raise RunError(f"{old}: the journal of an earlier version of seal", "choose another --out")
    if not (folder / "config.yaml").is_file():
        if out.exists():
            raise DataError(f"{out} exists already", "choose another --out")
        refuse_secrets(step.command, "the command")
        run = Run.create(folder, config)
    else:
        run = Run.open(folder)
    try:
        _check_same(run, config, step)
    except RunError:
        run.close()
        raise
    run.config = run.config.model_copy(update={"budget": config.budget})
    run.record_once("step", "step", step)
    return run


def step_of(folder: Path) -> Step | None:
    """The step that a run folder belongs to; None: it is a run of `seal train`, or no run at all.

    Raises:
        RunError: its journal is corrupt.
    """
    path = folder / "journal.jsonl"
    rows = Journal.read(path) if path.is_file() else []
    return next((decode(Step, row.data) for row in rows if row.kind == "step"), None)


def _check_same(run: Run, config: SEALConfig, step: Step) -> None:
    began = run.recall(Step, "step", "step")
    fix = "choose another --out, or give the settings it began with"
    if began is not None and began.name != step.name:
        raise RunError(f"{run.path}: a run of seal {began.name}", "choose another --out")
    was, now = (_flat(c.model_dump(mode="json")) for c in (run.config, config))
    for name in was:
        if name not in _FREE and was[name] != now[name]:
            raise RunError(f"{run.path}: began with {name} {was[name]!r}, now it is {now[name]!r}", fix)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


def pair_with_tasks(
    articles: Sequence[Article], config: SEALConfig, tokenizer: PreTrainedTokenizerBase
) -> list[Pair]:
    """Every article with the task that the settings load for it.

    Raises:
        DataError: an article has no question to measure it by, or holds control tokens of the model.
    """
    contract = contract_of(tokenizer)
    waiting: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in setup.load_tasks(config, "train"):
        waiting[task.title, " ".join(str(task.context).split())].append(task)
    pairs = []
    for article in articles:
        known = waiting.get((article.title, " ".join(article.context.split())))
        if not known:
            raise DataError(f"passage {article.title!r} has no question", "add one, or leave the passage out")
        task = known.pop(0) if len(known) > 1 else known[0]
        if control := contract.control_words("\n".join([setup.words_of(task), *article.completions])):
            raise DataError(
                f"passage {article.title!r} holds {control[0]}, which the model reads as a control token",
                "take it out of the text, or leave the passage out",
            )
        pairs.append((article, task))
    return pairs


def note_tasks(run: Run, tasks: Sequence[Task]) -> None:
    """Journal what the passages are. Raises `RunError` where the run began with others."""
    note_loaded(run, report_of("all", tasks, Tally()))


def import_edits(run: Run, pairs: Sequence[Pair], policy: str) -> dict[str, list[SelfEdit]]:
    """Journal the round's plan and the articles' completions as its self-edits; by task.

    Raises:
        RunError: the journal holds other passages, other completions or another model.
    """
    note_tasks(run, [task for _, task in pairs])
    run.record("plan", "0", Plan(0, tuple(task.id for _, task in pairs), policy))
    edits: dict[str, list[SelfEdit]] = {}
    for article, task in pairs:
        edits[task.id] = [
            SelfEdit(name, task.id, article.prompt, text, derive(run.config.seed, name), "imported")
            for j, text in enumerate(article.completions)
            for name in [f"{task.id}.i0.e{j}"]
        ]
    run.record_all("edit", {edit.id: edit for made in edits.values() for edit in made})
    return edits


def began(run: Run) -> str:
    """When the run began, as the official files write it (month, day, time of day)."""
    digits = run.journal.rows()[0].time.replace("-", "").replace(":", "")
    return f"{digits[4:8]}_{digits[9:15]}"
