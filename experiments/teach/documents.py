"""Documents and test questions from the built-in passages: `python experiments/teach/documents.py FOLDER`.

Writes `first.md` and `second.md` (twelve passages each, a heading for each passage), `sixteen/` (a document a
passage, sixteen others), and beside each a `.csv` with the passages' questions and answers.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from seal.data.loader import load_tasks
from seal.records import Task


def main(folder: Path) -> None:
    """Write them all."""
    folder.mkdir(parents=True)
    tasks = [task for split in ("train", "val") for task in load_tasks("builtin", split=split)]
    for name, some in (("first", tasks[:12]), ("second", tasks[12:24])):
        text = "\n\n".join(f"# {task.title}\n\n{task.context}" for task in some)
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        write_questions(folder / f"{name}.csv", some)
    sixteen = folder / "sixteen"
    sixteen.mkdir()
    for task in tasks[24:40]:
        file = sixteen / (task.title.replace("/", " ") + ".txt")
        file.write_text(str(task.context) + "\n", encoding="utf-8")
    write_questions(folder / "sixteen.csv", tasks[24:40])


def write_questions(path: Path, tasks: Sequence[Task]) -> None:
    """The questions of `tasks`, a row each."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        rows.writerows([q.question, q.answer] for task in tasks for q in task.target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
