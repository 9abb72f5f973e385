"""The candidate view of a report: a task's self-edits side by side, and what became of the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seal.records import Answer, EditResult, Performance, Question, SelfEdit, Task, Trial, Verdict
from seal.report.edit_quality import in_words
from seal.report.gallery import arm_name
from seal.report.grids import grid_or_none, grid_svg
from seal.report.history import History
from seal.report.texts import clipped, one_line, plain

Mark = Literal["right", "wrong", "error", "none"]
_PASSAGE, _COMPLETION, _ANSWER, _QUESTION = 6_000, 3_000, 240, 400
"""Characters of each kind of text that are shown."""


@dataclass(frozen=True, slots=True)
class Cell:
    """An answer in the table."""

    text: str
    mark: Mark
    flip: Literal["", "gained", "lost"] = ""
    """Against the answer before, by the majority of the repeats."""
    times: str = ""
    """"2 of 3" right, where an edit was trained more than once."""


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question, its gold answer and everybody's answers."""

    question: str
    gold: str
    before: Cell
    after: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A grid as SVG."""

    name: str
    svg: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One self-edit (or reference) and what it earned."""

    name: str
    text: str
    recipe: str
    """ARC: the recipe in words; empty for other self-edits."""
    tokens: int
    seed: int
    cut: bool
    after: float | None
    gain: float | None
    reward: float | None
    repeats: tuple[float, ...]
    kept: bool
    why: str
    quality: str
    """The facts that it states, where they are known, and what its check found."""
    problem: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task in one round, or held out."""

    title: str
    task_id: str
    place: str
    passage: str
    """Empty when the data could not be read; then `prompt` is shown."""
    prompt: str
    before: float
    best: float | None
    candidates: tuple[Candidate, ...]
    rows: tuple[QuestionRow, ...]
    pictures: tuple[tuple[Picture, ...], ...]
    """ARC: demonstrations and tests, a row each."""
    before_pictures: tuple[Picture, ...]

    @property
    def change(self) -> float:
        """Gain of the best candidate."""
        return 0.0 if self.best is None else self.best - self.before


def task_views(history: History, tasks: Mapping[str, Task], most: int) -> tuple[list[TaskView], int]:
    """Views in order (rounds first, then held out), and how many there would be without the limit.

    Over `most`, those with the largest changes are shown.
    """
    groups = [*_round_groups(history), *_held_out_groups(history)]
    chosen = set(range(len(groups)))
    if len(groups) > most:
        by_change = sorted(chosen, key=lambda i: -max(map(abs, _gains(groups[i][2])), default=0.0))
        chosen = set(by_change[:most])
    views = [_view(history, tasks, *group) for i, group in enumerate(groups) if i in chosen]
    return views, len(groups)


Group = tuple[str, str, list[list[Trial]]]
"""Place, task id, and the trials of every candidate."""


def _round_groups(history: History) -> Iterable[Group]:
    for iteration in history.rounds:
        by_task: dict[str, dict[str, list[Trial]]] = {}
        for trial in history.trials_in.get(("train", iteration), []):
            by_task.setdefault(trial.task_id, {}).setdefault(trial.edit_id, []).append(trial)
        for task_id, edits in by_task.items():
            yield f"round {iteration + 1}", task_id, list(edits.values())


def _held_out_groups(history: History) -> Iterable[Group]:
    by_task: dict[str, dict[str, list[Trial]]] = {}
    for trial in history.trials:
        if trial.arm != "train":
            by_task.setdefault(trial.task_id, {}).setdefault(f"{trial.arm}/{trial.edit_id}", []).append(trial)
    for task_id, arms in by_task.items():
        yield "held out", task_id, list(arms.values())


def _gains(candidates: Sequence[Sequence[Trial]]) -> list[float]:
    return [t.after.score - t.before.score for trials in candidates for t in trials if t.after is not None]


def _view(
    history: History, tasks: Mapping[str, Task], place: str, task_id: str, groups: list[list[Trial]]
) -> TaskView:
    task = tasks.get(task_id)
    first = groups[0][0]
    scores = [_score(trials) for trials in groups]
    before = history.before(first)
    is_arc = bool(_tests(first.before))
    edit = history.edits.get(first.edit_id)
    passage = task.context if task is not None and isinstance(task.context, str) else ""
    return TaskView(
        title=one_line(task.title or task.id if task else task_id),
        task_id=one_line(task_id),
        place=place,
        passage=clipped(passage, _PASSAGE),
        prompt=clipped(edit.prompt, _PASSAGE) if edit and not passage and not is_arc else "",
        before=first.before.score,
        best=max((s for s in scores if s is not None), default=None),
        candidates=tuple(
            _candidate(
                history.edits.get(trials[0].edit_id),
                history.result_of.get(trials[0].edit_id),
                trials,
                i,
                task,
            )
            for i, trials in enumerate(groups)
        ),
        rows=() if is_arc else tuple(_rows(task, before, groups)),
        pictures=_task_pictures(task) if is_arc else (),
        before_pictures=_attempts(task, first.before) if is_arc else (),
    )


def _score(trials: Sequence[Trial]) -> float | None:
    measured = [t.after.score for t in trials if t.after is not None]
    return sum(measured) / len(measured) if measured else None


def _candidate(
    edit: SelfEdit | None, result: EditResult | None, trials: Sequence[Trial], number: int, task: Task | None
) -> Candidate:
    trial, after = trials[0], _score(trials)
    name = f"edit {number + 1}" if trial.arm == "train" else arm_name(trial.arm)
    reference = edit is None or not edit.completion
    return Candidate(
        name=name,
        text="" if reference or edit is None else clipped(edit.completion, _COMPLETION),
        recipe=_recipe(edit) if edit and _tests(trial.before) else "",
        tokens=edit.n_tokens if edit else 0,
        seed=edit.seed if edit else 0,
        cut=bool(edit and edit.finish == "length"),
        after=after,
        gain=None if after is None else after - trial.before.score,
        reward=result.reward.value if result else None,
        repeats=result.repeats if result else (),
        kept=bool(result and result.reward.kept),
        why=one_line(result.reward.why) if result else "",
        quality=one_line(in_words(edit, trials), 300),
        problem=one_line(trial.problem or (result.problem if result else ""), 300),
        pictures=_attempts(task, trial.after),
    )


def _recipe(edit: SelfEdit) -> str:
    """An ARC recipe in words; empty when it is none."""
    from seal.arc.recipe import RecipeError, parse_recipe

    try:
        recipe = parse_recipe(edit.completion)
    except RecipeError:
        return ""
    changes = [*recipe.groups, *(["colours"] if recipe.permutes_colours else [])]
    loss = "all tokens" if recipe.strategy == "train_using_all_tokens" else "output tokens"
    how = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)} at {recipe.learning_rate:g}, loss on {loss}"
    return f"{how}; augmentations: {', '.join(changes) or 'none'}"


def _rows(
    task: Task | None, before: Sequence[Answer], groups: Sequence[Sequence[Trial]]
) -> Iterable[QuestionRow]:
    target = task.target if task is not None and isinstance(task.target, tuple) else ()
    questions = [q if isinstance(q, Question) else None for q in target]
    count = max([len(before), *(len(t.outcome.adapted) for trials in groups for t in trials)], default=0)
    for i in range(count):
        question = questions[i] if i < len(questions) else None
        unaided = before[i] if i < len(before) else None
        yield QuestionRow(
            question=clipped(question.question, _QUESTION) if question else f"question {i + 1}",
            gold=clipped(" / ".join(question.accepted), _ANSWER) if question else "",
            before=_cell([unaided], None),
            after=tuple(_cell([_at(t.outcome.adapted, i) for t in trials], unaided) for trials in groups),
        )


def _at(answers: Sequence[Answer], i: int) -> Answer | None:
    return answers[i] if i < len(answers) else None


def _cell(repeats: Sequence[Answer | None], before: Answer | None) -> Cell:
    answers = [a for a in repeats if a is not None]
    if not answers:
        return Cell("not answered", "none")
    right = sum(a.verdict is Verdict.CORRECT for a in answers)
    graded = sum(a.verdict in (Verdict.CORRECT, Verdict.WRONG) for a in answers)
    errors = any(a.verdict is Verdict.ERROR for a in answers)
    mark: Mark = "right" if 2 * right > graded else "wrong" if graded else "error" if errors else "none"
    shown = next((a for a in answers if (a.verdict is Verdict.CORRECT) == (mark == "right")), answers[0])
    flip: Literal["", "gained", "lost"] = ""
    if before is not None and graded and before.verdict in (Verdict.CORRECT, Verdict.WRONG):
        was = before.verdict is Verdict.CORRECT
        flip = "" if was == (mark == "right") else "lost" if was else "gained"
    times = f"{right} of {len(answers)}" if len(answers) > 1 else ""
    return Cell(clipped(shown.text.strip(), _ANSWER) or "(empty)", mark, flip, times)


def _task_pictures(task: Task | None) -> tuple[tuple[Picture, ...], ...]:
    if task is None:
        return ()
    rows = []
    for kind, pairs in (("example", task.context), ("test", task.target)):
        for i, (given, output) in enumerate(pairs, 1):
            names = (f"{kind} {i}, input", f"{kind} {i}, {'output' if kind == 'example' else 'solution'}")
            rows.append(_pictures(zip(names, (given, output), strict=True)))
    return tuple(rows)


def _pictures(named: Iterable[tuple[str, Any]]) -> tuple[Picture, ...]:
    found = [(name, grid_or_none(value)) for name, value in named]
    return tuple(Picture(name, grid_svg(grid, plain(name))) for name, grid in found if grid is not None)


def _tests(performance: Performance) -> list[dict[str, Any]]:
    """What became of each test input of an ARC task; empty for other domains, whatever their details."""
    tests = performance.details.get("tests")
    known = isinstance(tests, list | tuple) and all(isinstance(t, dict) and "attempts" in t for t in tests)
    return list(tests) if known and tests else []


def _attempts(task: Task | None, performance: Performance | None) -> tuple[Picture, ...]:
    if performance is None or not _tests(performance):
        return ()
    solutions = [gold for _, gold in task.target] if task is not None else []
    found = []
    for i, test in enumerate(_tests(performance)):
        gold = grid_or_none(solutions[i]) if i < len(solutions) else None
        for k, attempt in enumerate(test.get("attempts") or (), 1):
            grid = grid_or_none(attempt)
            if grid is not None:
                right = " (right)" if gold is not None and grid == gold else ""
                name = f"test {i + 1}, attempt {k}{right}"
                found.append(Picture(name, grid_svg(grid, name, gold)))
    return tuple(found)
