"""Worlds as tasks of a run, and the way back from a task to its world."""

from __future__ import annotations

import re
from typing import Any, Literal, cast

from seal.data.invented.names import Split
from seal.data.invented.world import FACTS, World, world
from seal.errors import ConfigError
from seal.records import Task

COUNTS: dict[str, int] = {"train": 24, "val": 60}
"""Worlds of a split where nobody says how many."""
OPTIONS = ("seed", "facts", "ask")
"""Names in `data_config.options` that are meant for this data set."""
_ID = re.compile(r"invented-(train|val)-s(\d+)-f(\d+)-(\d+)")


def tasks(
    split: str,
    count: int | None = None,
    *,
    seed: int = 0,
    facts: int = FACTS,
    ask: Literal["auto", "reward", "test", "both"] = "auto",
) -> list[Task]:
    """The first `count` worlds of a split (`train`, `val`, or `all` for both) as tasks.

    Args:
        split: names of one split never occur in the other.
        count: worlds; None: `COUNTS`.
        seed: another seed is another set of worlds.
        facts: facts a passage, which is also the number of its questions.
        ask: the questions in `Task.target`: `reward` or `test`; auto: reward questions of training worlds,
            test questions of held-out ones; both: the reward questions, then the test questions.

    Raises:
        ConfigError: an option has a value that it cannot have.
    """
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (seed, facts))
    if not whole or seed < 0 or ask not in ("auto", "reward", "test", "both"):
        raise ConfigError(
            f"invented worlds with seed {seed!r}, facts {facts!r}, ask {ask!r}",
            "seed and facts are whole numbers from 0 on, ask is auto, reward, test or both",
        )
    splits = ("train", "val") if split == "all" else (split,)
    made = [
        _task(world(seed, index, cast(Split, part), facts), ask)
        for part in splits
        for index in range(COUNTS[part] if count is None else count)
    ]
    return made[:count]


def own_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the user's options that are meant for this data set."""
    return {name: value for name, value in options.items() if name in OPTIONS}


def world_of(task_id: str) -> World | None:
    """The world that a task's id names; None for the task of another data set."""
    match = _ID.fullmatch(task_id)
    if match is None:
        return None
    split, seed, facts, index = match.groups()
    return world(int(seed), int(index), cast(Split, split), int(facts))


def _task(made: World, ask: str) -> Task:
    asked = {"reward": made.reward, "test": made.test, "both": made.reward + made.test}
    asked["auto"] = made.reward if made.split == "train" else made.test
    return Task(made.id, made.passage, asked[ask], made.title)
