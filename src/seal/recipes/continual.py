"""Continual self-edits: K passages in sequence, each learned and merged before the next (paper, section 5).

After every edit the model answers the questions of all passages seen so far; row 0 is the unedited model.
Beside the official procedure there are ways to forget less, all on the same sequences and seeds:

- `replay`: an edit also trains on sequences of earlier edits of its chain;
- `gate`: before merging, the adapter is scaled down until earlier edits' own sequences lose at most
  `tolerance` nats a token on average; where no scale does, it is rejected. No question is looked at;
- `kl`: while an edit is trained, the model is held to itself on sequences of earlier edits: beside the loss
  of the edit stands the KL from the model as it was before this edit, frozen. (The unedited model would be
  the wrong one to hold on to: it knows nothing of the earlier edits, and the KL would unteach them.)
- by `+` any of them together: `replay+gate`, `replay+gate+kl`.

The first edit of a chain has nothing to forget and is the same under all of them.

Difference from the official script: the self-edits of a passage are drawn from seeds that depend on the
passage and its place, so that every method starts from the same ones, and they are kept.

Every answer and self-edit is in the run folder's journal under the name of the model as it was then; a chain
that was cut short is run again from its beginning, since its weights are not kept.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from seal import setup
from seal.errors import AdaptError, ConfigError, DataError
from seal.estep import EStep
from seal.evaluation import BEFORE
from seal.evaluator import raise_error
from seal.models.load import LoadedModel
from seal.models.lora import linear_modules
from seal.models.merge import merge, merged, restored
from seal.protocols import InnerLoop
from seal.recipes.articles import write_json
from seal.recipes.continual_report import matrices, summary
from seal.recipes.pipeline import note_tasks
from seal.recipes.query import lora_params
from seal.records import AdaptJob, EvalPrompt, Sampling, SelfEdit, Task, TrainingSequence
from seal.run.folder import Run
from seal.scratch import scratch_folder
from seal.seeds import derive

if TYPE_CHECKING:
    from seal.models.lora import Factors

log = logging.getLogger("seal.continual")

PARTS = ("replay", "gate", "kl")
METHODS = ("official", *("+".join(some) for n in (1, 2, 3) for some in combinations(PARTS, n)))
SCALES = (1.0, 0.75, 0.5, 0.25)
"""What the gate tries, in order; none of them: the edit is rejected."""


@dataclass(frozen=True, slots=True)
class Chains:
    """How long the chains are, how many, and what keeps them from forgetting. Journal kind `chains`."""

    edits: int = 8
    """K: passages learned one after another."""
    sequences: int = 8
    """S: chains, each with its own passages and order."""
    replay: int = 16
    """Sequences of earlier edits that an edit trains on again, drawn evenly."""
    tolerance: float = 0.1
    """Nats a token that earlier edits' sequences may lose on average to one edit, for the gate."""
    kl: float = 1.0
    """Weight of the KL to the model before the edit, in nats a token beside the edit's own loss."""


@dataclass(frozen=True, slots=True)
class ChainEdit:
    """One edit of a chain."""

    completion: str
    scale: float
    """At which the adapter was merged; 0: rejected."""
    sequences: int
    """Trained on, replayed ones included."""
    own: int
    """Of the passage itself."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One sequence of passages under one method. Journal kind `chain`, key `{method}/{sequence}`."""

    tasks: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]
    """One row an edit, row 0 before any; row k has the first k passages (row 0 all)."""
    edits: tuple[ChainEdit, ...]


def continual(
    run: Run,
    loaded: LoadedModel,
    estep_of: Callable[[LoadedModel], EStep],
    chains: Chains,
    methods: Sequence[str],
    out: Path,
) -> dict[str, Any]:
    """Run what is missing of every chain, write `out` and return it.

    `loaded`'s weights are edited in place and put back.

    Args:
        estep_of: the E-step of the model as it is now, on `run`; rebuilt after every merge.

    Raises:
        ConfigError: an unknown method.
        DataError: too few passages.
        RunError: the run began with other chains or another model.
        AdaptError: an edit or an evaluation failed.
    """
    unknown = set(methods) - set(METHODS)
    if unknown or not methods:
        raise ConfigError(f"unknown method {sorted(unknown)}", f"choose among {', '.join(METHODS)}")
    tasks = setup.load_tasks(run.config, "train")
    passages = _draw(chains, tasks, run.config.seed)
    note_tasks(run, tasks)
    run.record("chains", "chains", chains)
    run.record("model", "model", {"version": loaded.version})
    found: dict[str, list[Chain]] = {method: [] for method in methods}
    for s, tasks in enumerate(passages):
        for method in methods:
            chain = run.recall(Chain, "chain", f"{method}/{s}")
            if chain is None:
                chain = _Chain(run, loaded, estep_of, chains, method, s).run_through(tasks)
                run.record("chain", f"{method}/{s}", chain)
            found[method].append(chain)
    result = _result(run, loaded, chains, found)
    write_json(out, result)
    return result


def _draw(chains: Chains, tasks: Sequence[Task], seed: int) -> list[list[Task]]:
    """The passages of every sequence: a draw without repetition, in an order of its own."""
    if chains.edits < 1 or chains.sequences < 1:
        raise DataError(f"{chains.sequences} sequences of {chains.edits} edits", "ask for at least 1 of each")
    if len(tasks) < chains.edits:
        raise DataError(f"{len(tasks)} passages for {chains.edits} edits", "ask for fewer edits")
    return [
        random.Random(derive(seed, "chain", s)).sample(list(tasks), chains.edits)
        for s in range(chains.sequences)
    ]


class _Chain:
    """One sequence under one method."""

    def __init__(
        self,
        run: Run,
        loaded: LoadedModel,
        estep_of: Callable[[LoadedModel], EStep],
        chains: Chains,
        method: str,
        number: int,
    ) -> None:
        self.run, self.loaded, self.estep_of, self.chains = run, loaded, estep_of, chains
        self.method, self.number = method, number
        self.name = f"{method} {number + 1}"
        self.learned: list[tuple[TrainingSequence, ...]] = []
        """Own training sequences of every edit so far."""

    def run_through(self, tasks: Sequence[Task]) -> Chain:
        """Learn the passages one after another, and answer all questions so far after each."""
        edits: list[ChainEdit] = []
        with restored(self.loaded.model, linear_modules(self.loaded.model)):
            rows = [self._accuracies(self._now(0), tasks, BEFORE)]
            for k, task in enumerate(tasks):
                edits.append(self._edit(self._now(k), k, task))
                rows.append(self._accuracies(self._now(k + 1), tasks[: k + 1], k + 1))
                log.info(
                    "%s, edit %d of %d: merged at scale %g; %.0f %% right on all so far",
                    self.name, k + 1, len(tasks), edits[-1].scale, 100 * fmean(rows[-1]),
                )  # fmt: skip
        return Chain(tuple(task.id for task in tasks), tuple(rows), tuple(edits))

    def _now(self, k: int) -> EStep:
        """The E-step of the model after `k` edits."""
        version = f"{self.loaded.version}+{self.method}.s{self.number}.k{k}" if k else self.loaded.version
        return self.estep_of(replace(self.loaded, version=version))

    def _accuracies(self, estep: EStep, tasks: Sequence[Task], iteration: int) -> tuple[float, ...]:
        found = estep.baselines(tasks, iteration)
        return tuple(round(found[task.id].score, 4) for task in tasks)

    def _edit(self, estep: EStep, k: int, task: Task) -> ChainEdit:
        """Write the self-edit of passage k with the model as it is now, train on it, merge."""
        edit = self._written(estep, k, task)
        own = estep.evaluator.domain.training_sequences(task, edit.completion, self.loaded.tokenizer)
        replayed = self._replayed(edit.seed) if "replay" in self.method else []
        held = tuple(row for rows in self.learned for row in rows) if "kl" in self.method else ()
        training = estep.evaluator.domain.training_config(edit.completion, estep.evaluator.training)
        job = AdaptJob(
            edit.id, (*own, *replayed), training, (), edit.seed, anchors=held, anchor_weight=self.chains.kl
        )
        scale = self._train_and_merge(estep.evaluator.loop, job)
        self.learned.append(own)
        return ChainEdit(edit.completion, scale, len(job.sequences), len(own))

    def _written(self, estep: EStep, k: int, task: Task) -> SelfEdit:
        name = f"{task.id}.{self.method}.s{self.number}.k{k}"
        known = self.run.recall(SelfEdit, "edit", name)
        if known is None:
            assert estep.sampler is not None
            place = self.number * self.chains.edits + k
            (drawn,) = estep.sampler.generate([task], 1, estep.policy.version, place)
            known = replace(drawn, id=name, completion=drawn.completion.strip())
            self.run.record("edit", name, known)
        return known

    def _replayed(self, seed: int) -> list[TrainingSequence]:
        earlier = [row for rows in self.learned for row in rows]
        return random.Random(derive(seed, "replay")).sample(earlier, min(self.chains.replay, len(earlier)))

    def _train_and_merge(self, loop: InnerLoop, job: AdaptJob) -> float:
        """Returns the scale at which the adapter was merged; 0: rejected."""
        with scratch_folder("continual") as folder:
            target = Path(folder) / "adapter"
            (outcome,) = loop.run([replace(job, save_to=str(target))])
            if outcome.error is not None:
                raise AdaptError(f"{job.id}: {outcome.error.message}")
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
            if cost <= self.chains.tolerance:
                return scale
        return 0.0

    def _loss_of_learned(self) -> float:
        """Mean negative log-likelihood (nats a token) of all earlier edits' own sequences, from the first
        token on that they teach."""
        rows = [(row, row.labelled()[0]) for rows in self.learned for row in rows]
        one = Sampling(temperature=0.0, max_new_tokens=1)
        prompts = tuple(
            EvalPrompt(f"r{i}", row.ids[:first], one, row.ids[first:]) for i, (row, first) in enumerate(rows)
        )
        evaluator = self.estep_of(self.loaded).evaluator
        (outcome,) = evaluator.loop.run([AdaptJob("cost", (), evaluator.training, prompts, 0)])
        raise_error(outcome.error)
        total = sum(answer.log_likelihood or 0.0 for answer in outcome.baseline)
        return -total / max(1, sum(answer.reference_tokens for answer in outcome.baseline))


def _read_factors(loaded: LoadedModel, folder: Path) -> Factors:
    from seal.inner.adapter_files import load_adapter
    from seal.inner.runtime import Runtime

    adapter = load_adapter(Runtime.of(loaded.model), folder)
    return {name: (a.detach(), b.detach()) for name, (a, b) in adapter.factors.items()}


def _result(run: Run, loaded: LoadedModel, chains: Chains, found: dict[str, list[Chain]]) -> dict[str, Any]:
    """The official fields for the first method; every method under `methods`, and the table."""
    accuracy = {method: [chain.accuracy for chain in mine] for method, mine in found.items()}
    first, config = accuracy[next(iter(found))], run.config
    shown = {}
    for method, mine in found.items():
        mean, std = matrices(accuracy[method])
        shown[method] = {
            "mean_over_sequences": mean,
            "std_over_sequences": std,
            "summary": summary(accuracy[method], first),
            "scales": [[edit.scale for edit in chain.edits] for chain in mine],
        }
    mean, std = matrices(first)
    return {
        "mean_over_sequences": mean,
        "std_over_sequences": std,
        "n_sequences": chains.sequences,
        "n_datapoints": chains.edits,
        "dataset": config.data_config.path or config.data_config.dataset_name,
        "base_model": loaded.source,
        "seed": config.seed,
        "lora_params": lora_params(config.inner_training()),
        "methods": shown,
    }
