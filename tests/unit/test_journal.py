"""The journal: on disk before it counts, whole after a kill, loud when corrupt; records round-trip."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.errors import RunError
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Completion,
    Performance,
    Question,
    Reward,
    SelfEdit,
    TrainingConfig,
    Verdict,
)
from seal.run import journal as journal_module
from seal.run.journal import Journal, decode, encode
from seal.training_config import PAPER_SFT

RECORDS = (SelfEdit, Completion, AdaptJob, AdaptOutcome, Performance, Reward, Question)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def fill(path: Path, count: int) -> None:
    with Journal(path) as journal:
        for i in range(count):
            journal.append("edit", f"task{i}", {"text": f"a\nb {i} ä\u2028\ud800", "score": i / 3})


def test_what_was_appended_is_there_when_opened_again(path: Path) -> None:
    fill(path, 3)
    with Journal(path) as journal:
        assert journal.notice == ""
        assert journal.get("edit", "task1") == {"text": "a\nb 1 ä\u2028\ud800", "score": 1 / 3}
        assert journal.get("edit", "task3") is None
        assert journal.get("reward", "task1") is None
        journal.append("reward", "task1", Reward(1.0, {"gain": 0.5}, True, "best of 2"))
        assert [(row.n, row.kind, row.key) for row in journal.rows()] == [
            (1, "edit", "task0"),
            (2, "edit", "task1"),
            (3, "edit", "task2"),
            (4, "reward", "task1"),
        ]
        assert [row.n for row in journal.rows("reward")] == [4]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"n", "kind", "key", "data", "time", "sum"}
    assert decode(Reward, Journal.read(path)[3].data) == Reward(1.0, {"gain": 0.5}, True, "best of 2")


def test_the_same_item_again_does_nothing_and_other_data_is_refused(path: Path) -> None:
    fill(path, 1)
    before = path.read_bytes()
    with Journal(path) as journal:
        journal.append("edit", "task0", dict(journal.get("edit", "task0") or {}))
        with pytest.raises(RunError, match=r"edit 'task0' stands on line 1 with other data"):
            journal.append("edit", "task0", {"text": "other"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_set_aside_and_only_its_item_lost(path: Path, cut: int) -> None:
    fill(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [row.n for row in Journal.read(path)] == [1, 2]  # a reader repairs nothing
    assert path.read_bytes() == whole[:-cut]
    with Journal(path) as journal:
        assert "torn" in journal.notice
        assert [row.key for row in journal.rows()] == ["task0", "task1"]
        journal.append("edit", "task2", {"again": True})
    torn = path.with_name("journal.jsonl.torn").read_bytes()
    assert torn == whole.splitlines(keepends=True)[2][:-cut] + b"\n"
    assert [row.n for row in Journal.read(path)] == [1, 2, 3]


@pytest.mark.parametrize("line", [1, 2])
@pytest.mark.parametrize("damage", ["flip", "drop", "empty"])
def test_a_corrupt_line_in_the_middle_is_named(path: Path, line: int, damage: str) -> None:
    fill(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "drop":
        del lines[line - 1]
    else:
        lines[line - 1] = b"\n" if damage == "empty" else lines[line - 1].replace(b"task", b"tusk", 1)
    path.write_bytes(b"".join(lines))
    damaged = path.read_bytes()
    for opening in (Journal, Journal.read):
        with pytest.raises(RunError, match=rf"journal\.jsonl:{line}: the line is corrupt"):
            opening(path)
    assert path.read_bytes() == damaged


def test_one_process_at_a_time_writes_and_others_may_read(path: Path) -> None:
    with Journal(path) as journal:
        journal.append("a", "b", {})
        with pytest.raises(RunError, match="another process has this run open"):
            Journal(path)
        assert len(Journal.read(path)) == 1
    Journal(path).close()


WRITER = """
import sys
from seal.run.journal import Journal
with Journal(sys.argv[1]) as journal:
    for i in range(100_000):
        journal.append("edit", str(i), {"text": "x" * 5000})
        print(i, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split()]
        process.wait(30)
    with Journal(path) as journal:  # the lock died with its holder
        keys = [int(row.key) for row in journal.rows()]
        assert keys == list(range(len(keys)))
        assert len(keys) >= len(acknowledged)
        journal.append("edit", "after", {})


def test_a_full_disk_leaves_whole_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, 2)
    before = path.read_bytes()
    write = os.write

    def half(fd: int, data: Any) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) // 2])

    with Journal(path) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(journal_module.os, "write", half)
            with pytest.raises(RunError, match="the disk is full") as caught:
                journal.append("edit", "big", {"text": "x" * 1000})
        assert "seal resume" in caught.value.fix
        assert path.read_bytes() == before
        assert journal.get("edit", "big") is None
        journal.append("edit", "big", {"text": "x"})
    assert [row.key for row in Journal.read(path)] == ["task0", "task1", "big"]


def test_where_nothing_can_be_taken_back_nothing_more_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux's /dev/full answers every write as a full disk does, and cannot be truncated."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Journal(path) as journal:
        os.close(journal._file)
        journal._file = os.open("/dev/full", os.O_RDWR)
        monkeypatch.setattr(journal, "_check_alone", lambda: None)  # it is not the journal's own file
        with pytest.raises(RunError, match="the disk is full"):
            journal.append("a", "b", {})
        with pytest.raises(RunError, match="the journal is closed"):
            journal.append("a", "b", {})


def test_ten_thousand_rows_load_about_as_quickly_as_json(path: Path) -> None:
    outcome = AdaptOutcome("job", losses=(0.5,) * 90)
    rows = [journal_module.Row(n, "outcome", str(n), encode(outcome), "") for n in range(1, 10_001)]
    path.write_bytes(b"".join(journal_module._line(row) for row in rows))

    def cpu_s(read: Callable[[], object]) -> float:
        start = time.process_time()
        read()
        return time.process_time() - start

    mine = min(cpu_s(lambda: Journal.read(path)) for _ in range(3))
    plain = min(cpu_s(lambda: [json.loads(line) for line in path.read_text().splitlines()]) for _ in range(3))
    assert len(Journal.read(path)) == 10_000
    assert mine < 8 * plain


def test_data_without_a_json_form_is_refused_before_anything_is_written(path: Path) -> None:
    with Journal(path) as journal:
        for data in ({"x": object()}, {"x": {1: 2}}, [1], {"x": b"bytes"}):
            with pytest.raises(RunError):
                journal.append("a", "b", data)
        assert path.read_bytes() == b""


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        Journal(tmp_path / "none" / "journal.jsonl")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="cannot be read"):
        Journal.read(tmp_path / "journal.jsonl")


def finite(kind: type) -> st.SearchStrategy[Any]:
    """Any instance of a record; floats are finite, `details` hold plain JSON."""
    plain = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text()
    )
    details = {"details": st.dictionaries(st.text(), plain, max_size=2)} if kind is Performance else {}
    if kind is TrainingConfig:  # which has ranges
        return st.sampled_from([TrainingConfig(), PAPER_SFT])
    return st.builds(kind, **details)


@pytest.fixture(autouse=True, scope="module")
def _finite_floats() -> Iterator[None]:
    st.register_type_strategy(float, st.floats(allow_nan=False))
    st.register_type_strategy(TrainingConfig, st.sampled_from([TrainingConfig(), PAPER_SFT]))
    yield
    st.register_type_strategy(float, st.floats())


@pytest.mark.filterwarnings("ignore:Ignoring unsupported FirstError")
@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_records_round_trip_through_json(kind: type) -> None:
    @given(finite(kind))
    def check(record: object) -> None:
        assert decode(kind, json.loads(json.dumps(encode(record), allow_nan=False))) == record

    check()


def test_numbers_that_are_not_finite_are_carried_as_text() -> None:
    outcome = AdaptOutcome("job", losses=(float("inf"), float("-inf"), 1.0))
    assert encode(outcome)["losses"] == ["inf", "-inf", 1.0]
    assert decode(AdaptOutcome, encode(outcome)) == outcome
    (nan,) = decode(AdaptOutcome, encode(AdaptOutcome("job", losses=(float("nan"),)))).losses
    assert nan != nan


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"value": "high"}, "Reward.value"),
        ({"value": 1.0, "parts": {"gain": None}}, "Reward.parts.gain"),
        ({"value": 1.0, "colour": "red"}, "Reward.colour"),
        ({}, "Reward.value"),
        ([], "Reward"),
    ],
)
def test_data_that_does_not_fit_names_the_field(data: object, where: str) -> None:
    with pytest.raises(RunError, match=rf"^{where}: "):
        decode(Reward, data)


def test_enums_come_back_as_enums() -> None:
    assert decode(Verdict, encode(Verdict.ERROR)) is Verdict.ERROR
    with pytest.raises(RunError):
        decode(Verdict, "maybe")
