"""From a config's `data_config` to ARC tasks of one split.

| `dataset_name` | training tasks | held-out tasks |
|---|---|---|
| `arc`, `arc-agi-1`, `arc-agi-2` | the embedded training half | the embedded evaluation half |
| `synthetic` | ours, `options.synthetic` | ours of another seed |
| anything with `path` | that file or folder (`seal.arc.local`) | `val_path`, its own half, or a fifth |
| `hf:OWNER/NAME` | the hub's data set | its own half, or a fifth of it |

Tests without a solution are left out: nothing is scored on them.

`options.ids` and `options.val_ids` choose tasks by id. With `synthetic` they name real tasks (of the embedded
sets) that are added behind the synthetic ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from seal.arc.local import Found
from seal.arc.synthetic import synthetic_tasks
from seal.arc.tasks import find, find_task, load_arc, with_solutions
from seal.data.choice import VAL_SHARE, split_tasks
from seal.data.load_report import Tally
from seal.errors import ConfigError, DataError
from seal.records import Task
from seal.seeds import derive

if TYPE_CHECKING:
    from seal.sections import DataConfig

Split = Literal["train", "val"]
DATA_OPTIONS = ("ids", "val_ids", "synthetic")
HALVES = {"train": "training", "val": "evaluation"}


def load_split(data: DataConfig, split: str, tally: Tally | None = None) -> list[Task]:
    """The tasks of `split`, "train" or "val", in a fixed order, with the tests whose solutions are known.

    Args:
        tally: is told of what was left out.

    Raises:
        ConfigError: the data set is unknown or an option does not fit it.
        DataError: a task cannot be found or is malformed.
    """
    options = data.options
    ids = _ids(options, "ids" if split == "train" else "val_ids")
    if data.path or data.dataset_name.startswith("hf:"):
        return _chosen(_from_path(data, split, tally or Tally()), ids)
    name = "arc-agi-1" if data.dataset_name == "arc" else data.dataset_name
    if name == "synthetic":
        return [*_synthetic(options.get("synthetic") or {}, split), *map(find_task, ids or ())]
    if name not in ("arc-agi-1", "arc-agi-2"):
        raise ConfigError(
            f"data_config.dataset_name is {data.dataset_name!r}, which holds no ARC tasks",
            "use arc, arc-agi-2, synthetic, hf:OWNER/NAME, or give a path",
        )
    if ids is not None:
        return [find_task(name) for name in ids]
    return load_arc(f"{name}/{HALVES[split]}")


def domain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are the domain's, without those that choose tasks."""
    return {name: value for name, value in options.items() if name not in DATA_OPTIONS}


def _ids(options: Mapping[str, Any], name: str) -> list[str] | None:
    ids = options.get(name)
    if ids is None:
        return None
    if not isinstance(ids, list | tuple):
        raise ConfigError(f"data_config.options.{name} is {ids!r:.80}", "give a list of task ids")
    wrong = [each for each in ids if isinstance(each, bool) or not isinstance(each, str | int)]
    if wrong:
        raise ConfigError(f"data_config.options.{name} holds {wrong[0]!r}", "put ids in quotes")
    return [str(each) for each in ids]


def _chosen(tasks: Sequence[Task], ids: Sequence[str] | None) -> list[Task]:
    if ids is None:
        return list(tasks)
    by_id = {task.id: task for task in tasks}
    missing = [name for name in ids if name not in by_id]
    if missing:
        raise ConfigError(f"there are no tasks {missing} in the data set", "check the ids")
    return [by_id[name] for name in ids]


def _from_path(data: DataConfig, split: str, tally: Tally) -> list[Task]:
    source = (split == "val" and data.val_path) or data.path or data.dataset_name
    found = find(source, tally)
    halves = {each.half for each in found}
    held_out = "val" if "val" in halves else "test"
    if data.val_path or "train" not in halves or not _solved(found, held_out):
        tasks = with_solutions([each.task for each in found], tally, source)
        part = tasks if data.val_path else split_tasks(tasks, VAL_SHARE)[split == "val"]
        if not part:
            raise DataError(
                f"{source}: no task is left for {split}", "give data_config.val_path, or more tasks"
            )
        return part
    wanted = "train" if split == "train" else held_out
    tally.leave_out("unlabelled", (each.where for each in found if not each.half))
    tally.leave_out("other_split", (each.where for each in found if each.half not in ("", "train", held_out)))
    return with_solutions([each.task for each in found if each.half == wanted], tally, source)


def _solved(found: Sequence[Found], half: str) -> bool:
    return any(output is not None for each in found if each.half == half for _, output in each.task.target)


def _synthetic(given: Mapping[str, Any], split: str) -> list[Task]:
    """`n`, `val_n`, `seed` and the arguments of `synthetic_tasks`; splits share no seed."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    train_n, val_n, seed = settings.pop("n", 16), settings.pop("val_n", 16), settings.pop("seed", 0)
    try:
        made = synthetic_tasks(
            train_n if split == "train" else val_n, derive(seed, split) % 10**6, **settings
        )
    except TypeError as error:
        raise ConfigError(
            f"data_config.options.synthetic: {error}", "see seal.arc.synthetic.synthetic_tasks"
        ) from None
    return [each.task for each in made]
