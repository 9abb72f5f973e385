"""Run folders whose journals hold real records with made-up, seeded numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

from seal.data.loader import DataLoader
from seal.intervals import GAINS, SCORES, interval
from seal.records import (
    AdaptOutcome,
    Answer,
    ArmScore,
    Baseline,
    EditResult,
    Performance,
    Phase,
    Plan,
    PolicyUpdate,
    Reward,
    SelfEdit,
    Task,
    TaskScore,
    Timings,
    Trial,
    Verdict,
)
from seal.run.folder import Run
from seal.settings import SEALConfig

HOSTILE = (
    '<script>window.owned=1;document.title="owned"</script><img src="https://evil.example/x.png" '
    'onerror="window.owned=1"></style></textarea>&lt;b&gt; \x1b[31mred\x1b[0m \x07 \u202eevil '
    "{{ 7*7 }} ${7*7} ]]>"
)
PLACES = ("Kestrel Bay", "Norfield", "Tamsin Fen", "Orrery Hill", "Quill Harbour", "Vane Moor")


def write_passages(
    path: Path, count: int, questions: int, first: int = 0, hostile: bool = False
) -> list[Task]:
    """A data file of made-up passages, and its tasks as the loader makes them."""
    records = []
    for i in range(first, first + count):
        place = f"{PLACES[i % len(PLACES)]} {i}"
        extra = HOSTILE if hostile else ""
        asked = [
            {"question": f"What is fact {q} of {place}?{extra}", "answer": f"the year {1800 + i * 7 + q}"}
            for q in range(questions)
        ]
        facts = " ".join(f"Fact {q} of {place} is the year {1800 + i * 7 + q}." for q in range(questions))
        text = f"{place} lies between the river and the old salt road. {facts} {extra}"
        records.append({"title": place + (extra and " <i>title</i>"), "context": text, "questions": asked})
    path.write_text(json.dumps(records), encoding="utf-8")
    return DataLoader(path).load_tasks()


class MadeUpRun:
    """Writes a run, round by round. Numbers are drawn from `seed`; skill grows a little every round."""

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int = 2,
        tasks: int = 4,
        edits: int = 3,
        repeats: int = 2,
        questions: int = 4,
        held_out: int = 3,
        hostile: bool = False,
        finished: bool = True,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        data = folder.parent / f"{folder.name}-data"
        data.mkdir(parents=True)
        self.train = write_passages(data / "train.json", tasks, questions, hostile=hostile)
        self.val = write_passages(data / "val.json", held_out, questions, tasks, hostile) if held_out else []
        sources = {"path": str(data / "train.json"), "val_path": str(data / "val.json")}
        self.config = SEALConfig(
            model_name="tiny-random-llama",
            reward="accuracy_gain",
            keep="best_of_k",
            max_outer_iterations=rounds,
            tasks_per_iteration=tasks,
            samples_per_iteration=edits,
            repeats=repeats,
            output_dir=str(folder),
            data_config={**sources, "options": {}},
            evaluation={"enabled": bool(held_out)},
            **settings,
        )
        self.edits, self.hostile, self.random = edits, hostile, random.Random(seed)
        self.run = Run.create(folder, self.config)
        try:
            if held_out:
                self._evaluate("base", "passage", "self_edit")
            for iteration in range(rounds):
                self.round(iteration)
            if held_out and finished:
                self._evaluate("self_edit_rl")
            if finished:
                self.run.record("summary", "final", {"arms": [], "updates": [], "success_rates": []})
        finally:
            self.run.close()

    def round(self, iteration: int) -> None:
        """One whole round."""
        policy = f"policy{iteration}"
        self.run.record("plan", str(iteration), Plan(iteration, tuple(t.id for t in self.train), policy))
        results = []
        for task in self.train:
            before = self._baseline(task, policy, 0.2)
            for k in range(self.edits):
                edit = self._edit(task, f"{task.id}.i{iteration}.e{k}", policy)
                skill = 0.25 + 0.1 * iteration + 0.15 * self.random.random()
                trials = [
                    self._trial(edit, task, r, "train", iteration, before, skill)
                    for r in range(self.config.repeats)
                ]
                results.append((edit, before, trials))
        kept = self._results(results, iteration)
        update = PolicyUpdate(
            iteration,
            policy=f"policy{iteration + 1}",
            checkpoint=f"checkpoints/policy-{iteration + 1}",
            updated=True,
            kept=kept,
            of=len(results),
            tied_tasks=(),
            losses=(2.1, 1.7, 1.4),
        )
        self.run.record("phase", f"update/{iteration}", Phase("update", iteration, 4.2, 900))
        self.run.record("update", str(iteration), update)

    def _results(self, results: list[Any], iteration: int) -> int:
        gains = [fmean(t.after.score - before.score for t in trials) for _, before, trials in results]
        kept = 0
        for i, (edit, before, trials) in enumerate(results):
            mine = [g for g, (e, _, _) in zip(gains, results, strict=True) if e.task_id == edit.task_id]
            first = next(n for n, (e, _, _) in enumerate(results) if e.task_id == edit.task_id)
            best = i == first + mine.index(max(mine))
            kept += best
            why = f"{gains[i]:.4g} is {'among' if best else 'below'} the best 1 of {len(mine)}"
            repeats = tuple(t.after.score - before.score for t in trials)
            after = fmean(t.after.score for t in trials)
            reward = Reward(gains[i], {"gain": gains[i]}, best, why)
            row = EditResult(edit.id, edit.task_id, iteration, before.score, after, repeats, reward)
            self.run.record("result", edit.id, row)
        self.run.record("phase", f"write/{iteration}", Phase("write", iteration, 12.5, 2400))
        self.run.record("phase", f"adapt/{iteration}/train-0", Phase("adapt", iteration, 61.0, 15000))
        return kept

    def _baseline(self, task: Task, policy: str, skill: float) -> Performance:
        key = f"{policy}/{task.id}"
        known = self.run.recall(Baseline, "baseline", key)
        if known:
            return known.performance
        answers = self._answers(task, skill)
        performance = _scored(answers)
        self.run.record("baseline", key, Baseline(task.id, policy, performance, answers))
        return performance

    def _edit(self, task: Task, name: str, policy: str) -> SelfEdit:
        facts = [f"- {task.title} is known for fact {self.random.randrange(9)}." for _ in range(4)]
        text = "\n".join(facts) + (HOSTILE if self.hostile else "")
        prompt = f"List what follows from this passage.\n\n{task.context}"
        edit = SelfEdit(name, task.id, prompt, text, self.random.randrange(2**32), policy, 60 + len(name) % 9)
        self.run.record("edit", name, edit)
        return edit

    def _trial(
        self,
        edit: SelfEdit,
        task: Task,
        repeat: int,
        arm: str,
        iteration: int,
        before: Performance,
        skill: float,
    ) -> Trial:
        answers = self._answers(task, skill)
        losses = tuple(round(3.0 * 0.8**step + 0.05 * self.random.random(), 4) for step in range(10))
        key = f"{edit.id}/r{repeat}"
        outcome = AdaptOutcome(key, (), answers, losses, "", Timings(1.5, 0.4, 310, 40))
        after = _scored(answers)
        trial = Trial(edit.id, task.id, repeat, arm, iteration, edit.policy, before, after, outcome)
        self.run.record("trial", key, trial)
        return trial

    def _answers(self, task: Task, skill: float) -> tuple[Answer, ...]:
        answers = []
        for i, question in enumerate(task.target):
            right = self.random.random() < skill
            text = question.answer if right else f"perhaps {self.random.randrange(1500, 1700)}"
            text += HOSTILE if self.hostile else ""
            verdict = Verdict.CORRECT if right else Verdict.WRONG
            likelihood = -4.0 + 2.0 * right + self.random.random()
            answers.append(Answer(f"{task.id}.q{i}", text, 5, "stop", likelihood, 4, verdict))
        return tuple(answers)

    def _evaluate(self, *arms: str) -> None:
        for arm in arms:
            after = arm == "self_edit_rl"
            policy = f"policy{self.config.max_outer_iterations}" if after else "policy0"
            scores = {}
            for task in self.val:
                before = self._baseline(task, policy, 0.2)
                if arm == "base":
                    scores[task.id] = before.score
                    continue
                name = f"{task.id}.passage" if arm == "passage" else f"{task.id}.i{-2 if after else -1}.e0"
                edit = (
                    SelfEdit(name, task.id, "", "", 1, "reference")
                    if arm == "passage"
                    else self._edit(task, name, policy)
                )
                skill = {"passage": 0.25, "self_edit": 0.45, "self_edit_rl": 0.65}[arm]
                trial = self._trial(edit, task, 0, arm, -2 if after else -1, before, skill)
                assert trial.after is not None
                scores[task.id] = trial.after.score
            self._arm(arm, policy, scores)

    def _arm(self, arm: str, policy: str, scores: dict[str, float]) -> None:
        n = {task.id: len(task.target) for task in self.val}
        if arm == "base":
            self.base = scores
        tasks = tuple(TaskScore(name, score, n[name]) for name, score in scores.items())
        weights = [float(t.n) for t in tasks]
        score = interval([t.score for t in tasks], weights, SCORES)
        gain = interval([t.score - self.base[t.task_id] for t in tasks], weights, GAINS)
        self.run.record("arm", arm, ArmScore(arm, policy, tasks, sum(t.n for t in tasks), *score, *gain))
        iteration = -2 if arm == "self_edit_rl" else -1
        self.run.record("phase", f"evaluate/{iteration}/{arm}", Phase("evaluate", iteration, 9.0, 1200))


def _scored(answers: tuple[Answer, ...]) -> Performance:
    correct = tuple(a.verdict is Verdict.CORRECT for a in answers)
    gold = fmean((a.log_likelihood or 0.0) / a.reference_tokens for a in answers)
    return Performance(fmean(correct), len(correct), correct, gold)


def few_shot_round(folder: Path, context: Any = (), target: Any = ()) -> Task:
    """Add a round of two recipes for one ARC task to a run: one with basic augmentations solves it."""
    from seal.arc.recipe import ArcRecipe
    from seal.run.journal import Journal

    gold = target[0][1] if target else ((1, 2), (3, 4))
    near = tuple((0,) * len(row) if i == 0 else row for i, row in enumerate(gold))
    task = Task("arc1", context, target)

    def performance(grid: Any, cells: float) -> Performance:
        solved = grid == gold
        test = {
            "attempts": [grid, near],
            "solved": solved,
            "cell_accuracy": cells,
            "agreement": 1.0,
            "valid": 1.0,
        }
        details = {"tests": [test], "grid_accuracy": float(solved), "cell_accuracy": cells, "valid": 1.0}
        return Performance(float(solved), 1, (solved,), None, details)

    before = performance(near, 0.5)
    with Journal(folder / "journal.jsonl") as journal:
        journal.append("plan", "0", Plan(0, (task.id,), "p"))
        for k, basic in enumerate((True, False)):
            recipe = ArcRecipe(basic, False, False, False, "train_using_all_tokens", 1e-3, 2, colour=False)
            edit = SelfEdit(f"{task.id}.i0.e{k}", task.id, "recipe, please", recipe.to_json(), k, "p", 40)
            after = performance(gold, 1.0) if basic else before
            key = f"{edit.id}/r0"
            journal.append("edit", edit.id, edit)
            trial = Trial(
                edit.id, task.id, 0, "train", 0, "p", before, after, AdaptOutcome(key, losses=(1.0,))
            )
            journal.append("trial", key, trial)
            gain = after.score - before.score
            row = EditResult(edit.id, task.id, 0, before.score, after.score, (gain,), Reward(gain, {}, basic))
            journal.append("result", edit.id, row)
    return task
