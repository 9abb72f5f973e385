"""Do plans teach a passage, or how to answer? `python experiments/study_plans/form_control.py CONFIG WORLDS`.

The untrained model says nothing to most questions, so a plan that shows it answers might gain by that alone.
Here an adapter learns a world by the plan (gaps, answers, 0.001) and is asked about it; another learns the
next world by that plan and is asked about the first: what it gets right it owes to the form. No run folder.
"""

from __future__ import annotations

import sys
from statistics import fmean

from seal import setup
from seal.config import load_config
from seal.domains.study_plan import StudyPlan
from seal.grading import LexicalGrader
from seal.inner.loop import LocalInnerLoop
from seal.intervals import interval, span
from seal.models.load import load_model
from seal.records import AdaptJob, Task, Verdict

PLAN = StudyPlan("gaps", "answers", 1e-3).to_json()


def main(config_path: str, worlds: str) -> None:
    """Train, ask, count."""
    config = load_config(config_path, overrides={"data_config.max_val_samples": int(worlds)})
    domain, loaded = (
        setup.make_domain(config, None),
        load_model(config.model_name, config.device, config.dtype),
    )
    tasks = setup.load_tasks(config, "val")
    training = domain.training_config(PLAN, config.inner_training())

    def job(name: str, taught: Task, asked: Task) -> AdaptJob:
        rows = domain.training_sequences(taught, PLAN, loaded.tokenizer)
        prompts = domain.eval_prompts(asked, loaded.tokenizer)
        return AdaptJob(f"{name} {asked.id}", rows, training, prompts, config.seed)

    others = [*tasks[1:], tasks[0]]
    jobs = [job("its own world", t, t) for t in tasks]
    jobs += [job("another world", other, t) for t, other in zip(tasks, others, strict=True)]
    by_id = {t.id: t for t in tasks}
    right: dict[str, list[float]] = {}
    for outcome in LocalInnerLoop(loaded, slots=4, token_budget=512).run(jobs):
        name, _, task_id = outcome.job_id.rpartition(" ")
        asked = by_id[task_id].target
        assert isinstance(asked, tuple)
        texts = (answer.text for answer in outcome.adapted)
        grades = LexicalGrader().grade(list(zip(asked, texts, strict=True)))
        right.setdefault(name, []).append(fmean(g.verdict is Verdict.CORRECT for g in grades))
    for name, shares in right.items():
        found = interval(shares, bounds=(0.0, 1.0))
        print(f"taught {name}: {found.mean:.1%} {span(found.low, found.high)} of {len(shares)} worlds")


if __name__ == "__main__":
    main(*sys.argv[1:])
