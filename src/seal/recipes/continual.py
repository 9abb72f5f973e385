"""Continual self-edits: K passages in sequence, each learned and merged before the next (paper, section 5).

After every edit the model answers the questions of all passages seen so far; row 0 is the unedited model.
Beside the official procedure there are ways to forget less, all on the same sequences and seeds:

- `replay`: an edit also trains on sequences of earlier edits of its chain;
- `gate`: before merging, the adapter is scaled down until earlier edits' own sequences lose at most
  `tolerance` nats a token on average; where no scale does, it is rejected. No question is looked at;
- `replay+gate`: both.

Difference from the official script: the self-edits of a passage are drawn from seeds that depend on the
passage and its place, so that every method starts from the same ones, and they are kept.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from seal.data.loader import load_tasks
from seal.domains.knowledge import KnowledgeIncorporation
from seal.errors import AdaptError, ConfigError, DataError
from seal.models.lora import linear_modules
from seal.models.merge import merge, merged, restored
from seal.recipes.articles import open_journal, write_json
from seal.recipes.continual_report import matrices, summary
from seal.recipes.make_data import SAMPLING
from seal.recipes.query import lora_params
from seal.records import AdaptJob, AdaptOutcome, Answer, EvalPrompt, Sampling, Task, TrainingSequence
from seal.seeds import derive
from seal.training_config import PAPER_INNER, TrainingConfig

if TYPE_CHECKING:
    from seal.inner.protocol import Generator, InnerLoop
    from seal.models.load import LoadedModel
    from seal.models.lora import Factors
    from seal.run.journal import Journal

log = logging.getLogger("seal.continual")

METHODS = ("official", "replay", "gate", "replay+gate")
SCALES = (1.0, 0.75, 0.5, 0.25)
"""What the gate tries, in order; none of them: the edit is rejected."""


@dataclass(frozen=True, slots=True)
class ContinualSettings:
    """How long the chains are, how many, and what is compared."""

    dataset: str
    out: Path
    edits: int = 8
    """K: passages learned one after another."""
    sequences: int = 8
    """S: chains, each with its own passages and order."""
    methods: tuple[str, ...] = ("official",)
    split_newlines: bool = True
    training: TrainingConfig = PAPER_INNER
    sampling: Sampling = SAMPLING
    replay: int = 16
    """Sequences of earlier edits that an edit trains on again, drawn evenly."""
    tolerance: float = 0.1
    """Nats a token that earlier edits' sequences may lose on average to one edit, for the gate."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Factories:
    """What works on the model: rebuilt from `loaded` after every merge.

    `prompt_of` gives the prompt for a passage; an empty one means that the passage alone is trained on.
    """

    inner_of: Callable[[LoadedModel], InnerLoop]
    generator_of: Callable[[LoadedModel], Generator]
    prompt_of: Callable[[Task], str]


def continual(settings: ContinualSettings, loaded: LoadedModel, factories: Factories) -> dict[str, Any]:
    """Run what is missing of every chain, write `settings.out` and return it.

    `loaded`'s weights are edited in place and put back.

    Raises:
        ConfigError: an unknown method.
        DataError: too few passages.
        AdaptError: an edit or an evaluation failed.
    """
    unknown = set(settings.methods) - set(METHODS)
    if unknown or not settings.methods:
        raise ConfigError(f"unknown method {sorted(unknown)}", f"choose among {', '.join(METHODS)}")
    chains = _chains(settings, load_tasks(settings.dataset))
    with open_journal(settings.out) as journal:
        journal.append("settings", "continual", _identity(settings, chains, loaded.version))
        for s, tasks in enumerate(chains):
            for method in settings.methods:
                if journal.get("chain", f"{method}/{s}") is None:
                    chain = _Chain(settings, method, s, tasks, loaded, factories)
                    journal.append("chain", f"{method}/{s}", chain.run())
        result = _result(settings, journal, loaded)
    write_json(settings.out, result)
    return result


def _chains(settings: ContinualSettings, tasks: Sequence[Task]) -> list[list[Task]]:
    """The passages of every sequence: a draw without repetition, in an order of its own."""
    if settings.edits < 1 or settings.sequences < 1:
        raise DataError(
            f"{settings.sequences} sequences of {settings.edits} edits", "ask for at least 1 of each"
        )
    if len(tasks) < settings.edits:
        raise DataError(f"{len(tasks)} passages for {settings.edits} edits", "ask for fewer edits")
    return [
        random.Random(derive(settings.seed, "chain", s)).sample(list(tasks), settings.edits)
        for s in range(settings.sequences)
    ]


class _Chain:
    """One sequence under one method."""

    def __init__(
        self,
        settings: ContinualSettings,
        method: str,
        number: int,
        tasks: Sequence[Task],
        loaded: LoadedModel,
        factories: Factories,
    ) -> None:
        self.settings, self.method, self.number = settings, method, number
        self.tasks, self.loaded, self.factories = tasks, loaded, factories
        self.domain = KnowledgeIncorporation(split_newlines=settings.split_newlines)
        self.learned: list[tuple[TrainingSequence, ...]] = []
        """Own training rows of every edit so far."""

    def run(self) -> dict[str, Any]:
        """Accuracies (rows: edits so far, 0 first), the self-edits, and what the gate did."""
        edits: list[dict[str, Any]] = []
        with restored(self.loaded.model, linear_modules(self.loaded.model)):
            rows = [self._accuracies(self.tasks)]
            for k in range(len(self.tasks)):
                edits.append(self._edit(k))
                rows.append(self._accuracies(self.tasks[: k + 1]))
                log.info(
                    "%s, sequence %d, edit %d of %d: merged at scale %g; %.0f %% right on all so far",
                    self.method,
                    self.number + 1,
                    k + 1,
                    len(self.tasks),
                    edits[-1]["scale"],
                    100 * fmean(rows[-1]),
                )
        return {"tasks": [task.id for task in self.tasks], "accuracy": rows, "edits": edits}

    def _accuracies(self, tasks: Sequence[Task]) -> list[float]:
        domain, tokenizer = self.domain, self.loaded.tokenizer
        jobs = [
            AdaptJob(task.id, (), self.settings.training, domain.eval_prompts(task, tokenizer), 0)
            for task in tasks
        ]
        outcomes = {o.job_id: o for o in self.factories.inner_of(self.loaded).run(jobs)}
        return [round(domain.score(task, _answers(outcomes[task.id])).score, 4) for task in tasks]

    def _edit(self, k: int) -> dict[str, Any]:
        """Write the self-edit of passage k with the model as it is now, train on it, merge."""
        task = self.tasks[k]
        seed = derive(self.settings.seed, "continual", self.number, k, task.id)
        completion = self._complete(task, seed)
        own = self.domain.training_sequences(task, completion, self.loaded.tokenizer)
        replayed = self._replayed(seed) if "replay" in self.method else []
        job = AdaptJob(f"edit {k}", (*own, *replayed), self.settings.training, (), seed)
        scale = self._train_and_merge(job)
        self.learned.append(own)
        return {"completion": completion, "scale": scale, "rows": len(job.sequences), "own_rows": len(own)}

    def _complete(self, task: Task, seed: int) -> str:
        prompt = self.factories.prompt_of(task)
        if not prompt:
            return ""
        generator = self.factories.generator_of(self.loaded)
        (completion,) = generator.generate([prompt], self.settings.sampling, [seed])
        return completion.text.strip()

    def _replayed(self, seed: int) -> list[TrainingSequence]:
        earlier = [row for rows in self.learned for row in rows]
        return random.Random(derive(seed, "replay")).sample(earlier, min(self.settings.replay, len(earlier)))

    def _train_and_merge(self, job: AdaptJob) -> float:
        """Returns the scale at which the adapter was merged; 0: rejected."""
        with tempfile.TemporaryDirectory(prefix="seal-continual-") as folder:
            target = Path(folder) / "adapter"
            without_prompts = AdaptJob(job.id, job.sequences, job.training, (), job.seed, str(target))
            (outcome,) = self.factories.inner_of(self.loaded).run([without_prompts])
            if outcome.error is not None:
                raise AdaptError(f"{self.method}, sequence {self.number}, {job.id}: {outcome.error.message}")
            factors = _read_factors(self.loaded, target)
        full = job.training.alpha / job.training.rank
        scale = self._admitted(factors, full) if "gate" in self.method and self.learned else 1.0
        if scale:
            merge(self.loaded.model, factors, full * scale)
        return scale

    def _admitted(self, factors: Factors, full: float) -> float:
        """The largest scale at which earlier edits' sequences lose at most `tolerance`; 0: none does."""
        before = self._loss_of_learned()
        for scale in SCALES:
            with merged(self.loaded.model, factors, full * scale):
                cost = self._loss_of_learned() - before
            log.debug("scale %g costs %.4f nats a token", scale, cost)
            if cost <= self.settings.tolerance:
                return scale
        return 0.0

    def _loss_of_learned(self) -> float:
        """Mean negative log-likelihood (nats a token) of all earlier edits' own rows."""
        rows = [row for rows in self.learned for row in rows if len(row.ids) > 1]
        one = Sampling(temperature=0.0, max_new_tokens=1)
        eval_prompts = tuple(EvalPrompt(f"r{i}", row.ids[:1], one, row.ids[1:]) for i, row in enumerate(rows))
        job = AdaptJob("cost", (), self.settings.training, eval_prompts, 0)
        (outcome,) = self.factories.inner_of(self.loaded).run([job])
        return _mean_loss(_answers(outcome))


def _answers(outcome: AdaptOutcome) -> tuple[Answer, ...]:
    if outcome.error is not None:
        raise AdaptError(f"{outcome.job_id} could not be answered: {outcome.error.message}")
    return outcome.baseline


def _read_factors(loaded: LoadedModel, folder: Path) -> Factors:
    from seal.inner.adapter_files import load_adapter
    from seal.inner.runtime import Runtime

    adapter = load_adapter(Runtime.of(loaded.model), folder)
    return {name: (a.detach(), b.detach()) for name, (a, b) in adapter.factors.items()}


def _mean_loss(answers: Sequence[Answer]) -> float:
    total = sum(answer.log_likelihood or 0.0 for answer in answers)
    return -total / max(1, sum(answer.reference_tokens for answer in answers))


def _result(settings: ContinualSettings, journal: Journal, loaded: LoadedModel) -> dict[str, Any]:
    """The official fields for the first method; every method under `methods`, and the table."""
    by_method = {
        method: [_chain_data(journal, method, s) for s in range(settings.sequences)]
        for method in settings.methods
    }
    accuracy = {method: [c["accuracy"] for c in chains] for method, chains in by_method.items()}
    first = settings.methods[0]
    mean, std = matrices(accuracy[first])
    shown = {}
    for method, chains in by_method.items():
        its_mean, its_std = matrices(accuracy[method])
        shown[method] = {
            "mean_over_sequences": its_mean,
            "std_over_sequences": its_std,
            "summary": summary(accuracy[method], accuracy[first]),
            "scales": [[edit["scale"] for edit in chain["edits"]] for chain in chains],
        }
    return {
        "mean_over_sequences": mean,
        "std_over_sequences": std,
        "n_sequences": settings.sequences,
        "n_datapoints": settings.edits,
        "dataset": settings.dataset,
        "base_model": loaded.source,
        "seed": settings.seed,
        "lora_params": lora_params(settings.training),
        "methods": shown,
    }


def _chain_data(journal: Journal, method: str, s: int) -> dict[str, Any]:
    data = journal.get("chain", f"{method}/{s}")
    assert data is not None, "the chain was run just before"
    return data


def _identity(settings: ContinualSettings, chains: list[list[Task]], policy: str) -> dict[str, object]:
    plain = asdict(settings) | {"policy": policy}
    plain["chains"] = [[task.id for task in tasks] for tasks in chains]
    return {name: value for name, value in plain.items() if name not in ("out", "methods")}
