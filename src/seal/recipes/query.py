"""What each self-edit of a data set is worth: the E-step's measuring, on a run folder (single passage).

The result is SEAL's own `run_<timestamp>.json`, with `intervals` beside the means: 95 % intervals over
articles. Differences from the official script: seeds derive from names, every measurement is kept as it
comes, and a failed one is measured again, not scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from seal import setup
from seal.estep import EStep
from seal.intervals import GAINS, SCORES, interval
from seal.recipes import results
from seal.recipes.articles import ends
from seal.recipes.pipeline import Pair, began, import_edits
from seal.records import Answer, Baseline, SelfEdit, Task, TrainingConfig, Trial, Verdict
from seal.reward import edit_results
from seal.run.folder import Run


def query(estep: EStep, pairs: Sequence[Pair], out: Path, exp_name: str = "") -> results.QueryRun:
    """Measure what is not measured yet and write `out`; what is whole is written after a failure too.

    Raises:
        RunError: the run began with other passages or another model.
        ServeError, GradingError: measurements failed; a second call redoes those only.
    """
    run, tasks = estep.run, {task.id: task for _, task in pairs}
    edits = import_edits(run, pairs, estep.policy.version)
    every = [edit for task in tasks for edit in edits[task]]
    try:
        before = estep.baselines(list(tasks.values()), 0)
        trials = estep.adapt(every, run.config.repeats, "train", 0, tasks, before)
        reward_model = setup.reward_model(run.config, estep.evaluator.domain)
        results = edit_results(every, trials, tasks, reward_model)
        run.record_all("result", {result.edit_id: result for result in results})
    finally:
        found = _result(run, pairs, edits, estep.policy.version, exp_name)
        found.write(out)
    return found


def _result(
    run: Run, pairs: Sequence[Pair], edits: Mapping[str, Sequence[SelfEdit]], policy: str, exp_name: str
) -> results.QueryRun:
    """The result of the articles whose every measurement is there."""
    config = run.config
    made = [a for article, task in pairs if (a := _article(run, task, article.prompt, edits[task.id]))]
    stats = [article.stats for article in made]
    series = {
        "baseline_mean_accuracy": [s.baseline_accuracy for s in stats],
        "adapter_mean_accuracy": [s.adapter_mean_accuracy for s in stats],
        "mean_gain": [s.mean_gain for s in stats],
    }
    return results.make_run(
        made,
        timestamp=began(run),
        exp_name=exp_name,
        dataset=config.data_config.path,
        split_newlines=config.data_config.split_newlines,
        n_articles=len(made),
        k_completions=max((len(article.completions) for article in made), default=0),
        eval_times=config.repeats,
        lora_params=lora_params(config.inner_training()),
        seed=config.seed,
        policy=policy,
        n_articles_asked=len(pairs),
        intervals={
            name: ends(
                interval(
                    [value for value in values if value is not None],
                    bounds=GAINS if name == "mean_gain" else SCORES,
                )
            )
            for name, values in series.items()
        },
    )


def _article(run: Run, task: Task, prompt: str, edits: Sequence[SelfEdit]) -> results.RunArticle | None:
    completions = []
    for edit in edits:
        trials = [run.recall(Trial, "trial", f"{edit.id}/r{r}") for r in range(run.config.repeats)]
        done = [trial for trial in trials if trial is not None]
        if len(done) < len(trials):
            return None
        problem = {"error": done[0].problem} if done[0].problem else {}
        questions = [q for trial in done if not trial.problem for q in _questions(run, task, trial)]
        completions.append(results.make_completion(edit.completion, questions, **problem))
    return results.make_article(task.title, task.context, prompt, completions)


def _questions(run: Run, task: Task, trial: Trial) -> list[results.QuestionResult]:
    baseline = run.recall(Baseline, "baseline", f"{trial.policy}/{task.id}")
    assert baseline is not None, "it was measured before the trial"
    return [
        results.QuestionResult(
            rep=trial.repeat,
            question=question.question,
            answer=question.answer,
            baseline_answer=before.text,
            adapter_answer=after.text,
            baseline_correct=correct(before),
            adapter_correct=correct(after),
        )
        for question, before, after in zip(task.target, baseline.answers, trial.outcome.adapted, strict=True)
    ]


def correct(answer: Answer) -> bool:
    """The verdict on an answer that was graded."""
    return answer.verdict is Verdict.CORRECT


def lora_params(training: TrainingConfig) -> dict[str, float]:
    """The official `lora_params` block."""
    return {
        "rank": training.rank,
        "alpha": training.alpha,
        "dropout": training.dropout,
        "epochs": training.epochs,
        "lr": training.learning_rate,
        "batch_size": training.batch_size,
        "grad_accum_steps": training.accumulation,
    }
