"""Continued pretraining: the sequences of many passages together, one adapter or all weights, all questions.

On a run folder like any other: the untrained model is its arm `base`, the trained one its arm `cpt`. The
result has the official shape. `per_article` is keyed by title, as there; articles that share a title have
their questions in one list (the official script kept only the last article's).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seal.estep import EStep
from seal.evaluation import AFTER, BEFORE, base_arm, compared_arm, trained_arm
from seal.evaluator import raise_error
from seal.intervals import Interval
from seal.recipes.articles import ends, write_json
from seal.recipes.pipeline import Pair, began, note_tasks
from seal.recipes.query import correct, lora_params
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Answer,
    ArmScore,
    Baseline,
    Performance,
    Plan,
    PolicyUpdate,
    Task,
    TrainingConfig,
    TrainingSequence,
    Trial,
)
from seal.run.folder import Run
from seal.seeds import derive
from seal.serve.requests import reply_from_outcome

log = logging.getLogger("seal.cpt")

PAPER_CPT = TrainingConfig(epochs=3, batch_size=4, accumulation=2)
"""The paper's first version: LoRA rank 32, 3 epochs, batches of 4 on 2 GPUs."""

PAPER_CPT_FULL = TrainingConfig(epochs=1, learning_rate=7e-5, batch_size=4, accumulation=2)
"""Its second version: all weights, 1 epoch."""


def cpt(estep: EStep, pairs: Sequence[Pair], out: Path, passages_only: bool = False) -> dict[str, Any]:
    """Train one adapter on everything, answer all questions, write `out` and return it.

    Raises:
        RunError: the run began with other passages or another model.
        AdaptError, ServeError, GradingError: the measurement failed.
    """
    tasks, sequences, base, before = _begin(estep, pairs, passages_only)
    run = estep.run
    keys = [f"{task.id}.cpt/r0" for task in tasks]
    if any(run.recall(Trial, "trial", key) is None for key in keys):
        log.info("training on %d sequences together, then %d questions", len(sequences), base.n)
        for made in _together(estep, tasks, sequences, before):
            run.record_once("trial", f"{made.edit_id}/r0", made)
    known = [trial for key in keys if (trial := run.recall(Trial, "trial", key)) is not None]
    score = trained_arm("cpt", known, base)
    run.record_once("arm", "cpt", score)
    after = [trial.outcome.adapted for trial in known]
    return _write(run, pairs, out, (base, score), after, len(sequences), passages_only, {"method": "lora"})


def _begin(
    estep: EStep, pairs: Sequence[Pair], passages_only: bool
) -> tuple[list[Task], list[TrainingSequence], ArmScore, dict[str, Performance]]:
    """Tasks, everything to train on, and the untrained model's score."""
    run, tasks, version = estep.run, [task for _, task in pairs], estep.policy.version
    note_tasks(run, tasks)
    run.record("plan", "0", Plan(0, tuple(task.id for task in tasks), version))
    domain, tokenizer = estep.evaluator.domain, estep.policy.tokenizer
    sequences = [
        sequence
        for article, task in pairs
        for completion in ([""] if passages_only else article.completions)
        for sequence in domain.training_sequences(task, completion, tokenizer)
    ]
    ids = hashlib.sha256(repr([s.ids for s in sequences]).encode()).hexdigest()[:16]
    run.record("sequences", "cpt", {"n": len(sequences), "ids": ids})
    before = estep.baselines(tasks, BEFORE)
    base = base_arm([Baseline(task.id, version, before[task.id]) for task in tasks])
    run.record_once("arm", "base", base)
    return tasks, sequences, base, before


def _together(
    estep: EStep, tasks: Sequence[Task], sequences: Sequence[TrainingSequence], before: dict[str, Performance]
) -> list[Trial]:
    """One adapter for all tasks; each task's share of its answers as a trial."""
    evaluator, version = estep.evaluator, estep.policy.version
    prompts = [evaluator.domain.eval_prompts(task, estep.policy.tokenizer) for task in tasks]
    job = AdaptJob(
        "cpt",
        tuple(sequences),
        evaluator.training,
        tuple(prompt for mine in prompts for prompt in mine),
        derive(evaluator.run_seed, "cpt"),
        baseline=False,
    )
    with estep.phase("adapt", AFTER, "cpt") as phase:
        (outcome,) = evaluator.loop.run([job])
        phase.tokens = outcome.timings.train_tokens
    raise_error(outcome.error)
    trials: list[Trial] = []
    at = 0
    for task, mine in zip(tasks, prompts, strict=True):
        answers = outcome.adapted[at : at + len(mine)]
        at += len(mine)
        share = AdaptOutcome(task.id, adapted=answers, losses=outcome.losses if not trials else ())
        score = evaluator.domain.score(task, answers)
        trials.append(
            Trial(f"{task.id}.cpt", task.id, 0, "cpt", AFTER, version, before[task.id], score, share)
        )
    return trials


def cpt_full(
    estep: EStep,
    pairs: Sequence[Pair],
    out: Path,
    save_to: Path,
    tuned: Callable[[Path], EStep],
    passages_only: bool = False,
) -> dict[str, Any]:
    """As `cpt`, with every weight trained; the tuned model is saved in `save_to`.

    Args:
        tuned: the E-step of the checkpoint that was saved.

    Raises:
        ModelError: the loss is not finite, or the checkpoint cannot be written.
    """
    from seal.models.checkpoint import save_checkpoint
    from seal.restem import finetune

    tasks, sequences, base, _ = _begin(estep, pairs, passages_only)
    run, seed = estep.run, derive(estep.run.config.seed, "cpt")
    update = run.recall(PolicyUpdate, "update", "0")
    if update is None:
        with estep.phase("update", 0):
            losses = finetune(estep.policy, sequences, estep.evaluator.training, seed)
            version = save_checkpoint(estep.policy.model, estep.policy.tokenizer, save_to)
        count = len(sequences)
        update = PolicyUpdate(0, version, str(save_to), True, count, count, (), tuple(losses))
        run.record("update", "0", update)
    after = tuned(save_to)
    after.baselines(tasks, AFTER)
    rows = [run.recall(Baseline, "baseline", f"{after.policy.version}/{task.id}") for task in tasks]
    known = [row for row in rows if row is not None]
    score = compared_arm("cpt", after.policy.version, base_arm(known, "cpt").tasks, base.tasks)
    run.record_once("arm", "cpt", score)
    more = {"method": "full", "steps": len(update.losses), "last_loss": update.losses[-1]}
    answers = [row.answers for row in known]
    return _write(run, pairs, out, (base, score), answers, len(sequences), passages_only, more)


def _write(
    run: Run,
    pairs: Sequence[Pair],
    out: Path,
    arms: tuple[ArmScore, ArmScore],
    after: Sequence[tuple[Answer, ...]],
    sequences: int,
    passages_only: bool,
    more: dict[str, Any],
) -> dict[str, Any]:
    config, (base, score) = run.config, arms
    known = (run.recall(Baseline, "baseline", f"{base.policy}/{task.id}") for _, task in pairs)
    before = [row.answers for row in known if row is not None]
    all_before, all_after = (tuple(a for mine in answered for a in mine) for answered in (before, after))
    reply = reply_from_outcome(AdaptOutcome("cpt", all_before, all_after)).model_dump(mode="json")
    result = {
        "overall": {
            "baseline_accuracy": reply["baseline_accuracy"],
            "adapter_accuracy": reply["adapter_accuracy"],
            "gain": reply["adapter_gain"],
        },
        "intervals": {
            "baseline_accuracy": ends(Interval(base.mean, base.low, base.high)),
            "adapter_accuracy": ends(Interval(score.mean, score.low, score.high)),
            "gain": ends(Interval(score.gain, score.gain_low, score.gain_high)),
        },
        "timestamp": began(run),
        "dataset": config.data_config.path,
        "n_articles": len(pairs),
        "k_completions": 0 if passages_only else max(len(article.completions) for article, _ in pairs),
        "split_newlines": config.data_config.split_newlines,
        "lora_params": lora_params(config.inner_training()),
        "seed": config.seed,
        **more,
        "policy": base.policy,
        "per_article": _per_article(pairs, before, after),
        "train_sequences": sequences,
        "eval_questions": len(reply["gains"]),
        "server_reply": reply,
    }
    write_json(out, result)
    return result


def _per_article(
    pairs: Sequence[Pair], before: Sequence[tuple[Answer, ...]], after: Sequence[tuple[Answer, ...]]
) -> dict[str, dict[str, list[bool]]]:
    found: dict[str, dict[str, list[bool]]] = {}
    for (article, _), unaided, adapted in zip(pairs, before, after, strict=True):
        mine = found.setdefault(article.title, {"baseline_correct": [], "adapter_correct": []})
        mine["baseline_correct"] += map(correct, unaided)
        mine["adapter_correct"] += map(correct, adapted)
    return found
