"""Whole commands in forks that are killed, stopped or run out of disk, and what they have to leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from seal.run.journal import Journal

SERVER = Path(__file__).parent / "faults" / "forkserver.py"
TINY = ["--dtype", "float32", "--device", "cpu"]
SMALL = ["--lora-rank", "2", "--epochs", "1"]
WRITTEN = ["--max-tokens", "12"]
QUICK = [
    "reward=log_likelihood",
    "generation.max_new_tokens=16",
    "evaluation.max_new_tokens=4",
    "inner.epochs=1",
]
CHAT = ["--model", "tiny-random-qwen2", "--device", "cpu", "--updates", "4", "--rank", "4"]


class Command(NamedTuple):
    """A command, the folder of its journal, and what may be done again after a kill."""

    argv: list[str]
    folder: str
    kills: int
    """In `make test-faults`, with the stub."""
    in_flight: int
    """Adapters and texts."""


LOCAL = ["--out", "out.json", *TINY]
COMMANDS = {
    "train": Command(
        ["train", "--preset", "test", "--output-dir", "out", *(w for s in QUICK for w in ("--set", s))],
        "out", 200, 8,
    ),
    "query": Command(
        ["query", "--data", "data.json", "--local", "tiny-random-llama", "--eval-times", "2", *SMALL, *LOCAL],
        "out.run", 100, 8,
    ),
    "make-data": Command(
        ["make-data", "data.json", "--model", "tiny-random-llama", "--k", "2", "--batch", "2",
         *WRITTEN, *LOCAL],
        "out.run", 60, 2,
    ),
    "continual": Command(
        ["continual", "data.json", "--model", "tiny-random-llama", "--edits", "2", "--sequences", "2",
         *WRITTEN, *SMALL, *LOCAL],
        "out.run", 60, 4,
    ),
    "teach": Command(["teach", "docs", "--out", "out", "--apart", *CHAT], "out", 80, 3),
}  # fmt: skip
#: Clocks, places and what says how long something took.
UNEQUAL = {"time", "timestamp", "seconds", "place", "train_s", "answer_s", "sum"}
#: What `teach` says where there is nothing to go on with.
FINISHED = "error: out is taught already. Add to it: seal teach DOCS --into out\n"
#: Locks, torn lines that were kept.
ASIDE = (".lock", ".torn")


class Life(NamedTuple):
    """How a process ended; one that was stopped has a `pid` and has not."""

    code: int
    calls: int
    entered: dict[str, int]
    pid: int = 0


class ForkServer:
    """`forkserver.py` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
            "SEAL_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"),
            "MPLCONFIGDIR": str(folder / "mpl"),
        }  # fmt: skip
        (folder / "tmp").mkdir()
        self.scratch = folder / "tmp"
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, argv: list[str], cwd: Path, **how: Any) -> Life:
        asked = {"argv": argv, "cwd": str(cwd), "log": str(cwd / ".log"), "work": str(cwd / ".work"), **how}
        return self._ask(asked)

    def go_on(self, pid: int) -> Life:
        """Continue a command that was stopped, to its end."""
        return self._ask({"continue": pid})

    def _ask(self, asked: dict[str, Any]) -> Life:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._answer())
        return Life(answer["code"], answer.get("calls", 0), answer.get("entered", {}), answer.get("pid", 0))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def inputs(folder: Path) -> Path:
    """A working directory with what the commands read."""
    (folder / "docs").mkdir(parents=True)
    for name, year in (("gate", 1874), ("bridge", 1902)):
        (folder / "docs" / f"{name}.md").write_text(f"# {name}\n\nThe {name} of Orvane was built in {year}.")
    records = [
        {
            "title": f"T{n}", "context": f"Passage {n} is the {n}th.", "prompt": "Say it.",
            "questions": [{"question": "Which passage?", "answer": f"the {n}th"}],
            "completions": ["One.", f"The {n}th."],
        }
        for n in range(3)
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def lines(journal: Path) -> list[bytes]:
    """The whole lines of a journal."""
    content = journal.read_bytes() if journal.exists() else b""
    return content[: content.rfind(b"\n") + 1].splitlines()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in UNEQUAL}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """All files that a command left, without clocks; of a journal, its items."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if name in (".log", ".work") or name.endswith(ASIDE) or "/logs/" in name:
            continue
        if file.name.startswith("environment"):
            continue
        if file.name == "journal.jsonl":
            rows = [r for r in Journal.read(file) if r.kind != "phase"]
            assert len({(r.kind, r.key) for r in rows}) == len(rows), "each item once"
            found[name] = {f"{r.kind} {r.key}": timeless(r.data) for r in rows}
        elif file.suffix in (".json", ".meta"):
            found[name] = timeless(json.loads(file.read_text()))
        elif file.name != "metrics.jsonl":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def units(folder: Path) -> int:
    return (folder / ".work").read_text().count("unit")


def opened(folder: Path) -> float:
    """Seconds from a fork to its journal, at most."""
    return max(
        float(line.split()[1])
        for line in (folder / ".work").read_text().splitlines()
        if line.startswith("open")
    )


def going_on(command: Command, cwd: Path) -> list[str]:
    """What a person would type after the kill."""
    begun = command.argv[0] == "train" and (cwd / command.folder / "config.yaml").exists()
    return ["resume", command.folder] if begun else command.argv


class Killer:
    """Lives of one command in one folder, each beginning where the last one ended."""

    def __init__(self, server: ForkServer, command: Command, cwd: Path, stub: bool) -> None:
        self.server, self.command, self.cwd, self.stub = server, command, inputs(cwd), stub
        self.journal = cwd / command.folder / "journal.jsonl"
        self.kills = 0

    def live(self, **how: Any) -> Life:
        before = lines(self.journal)
        life = self.server.run(going_on(self.command, self.cwd), self.cwd, stub=self.stub, **how)
        said = (self.cwd / ".log").read_text()
        if life.code == 2 and said.endswith(FINISHED):  # before the kill, all but the last words
            life = life._replace(code=0)
        assert life.code in (0, -9, -14), said[-3000:]
        assert lines(self.journal)[: len(before)] == before, "what was finished is never touched again"
        self.kills += life.code != 0
        return life

    def check(self, whole: dict[str, Any], work: int) -> None:
        """The end is the uninterrupted one."""
        assert outcome(self.cwd) == whole
        again = units(self.cwd) - work
        assert again <= self.kills * self.command.in_flight, "at most what was in flight is done again"

    def go_on_to_the_end(self) -> None:
        while self.live().code != 0:
            pass


class Whole(NamedTuple):
    """A command that nothing disturbed: what the others are held to."""

    life: Life
    seconds: float
    outcome: dict[str, Any]
    units: int

    @classmethod
    def of(cls, server: ForkServer, command: Command, cwd: Path, *, stub: bool) -> Whole:
        """Run it once, in a folder of its own."""
        reference = Killer(server, command, cwd, stub)
        began = time.monotonic()
        life = reference.live()
        return cls(life, time.monotonic() - began, outcome(cwd), units(cwd))
