"""Metrics reach `metrics.jsonl` and each tracker's real offline mode, and are read back from there."""

from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seal.extras import install
from seal.records import PolicyUpdate
from seal.report import sinks
from seal.report.history import read_history
from seal.report.metrics import lines, run_metrics
from seal.run.folder import Run
from seal.settings import SEALConfig


@pytest.fixture
def run(made_up: Any, tmp_path: Path) -> Any:
    made_up.MadeUpRun(tmp_path / "run", rounds=2, tasks=2, edits=2)
    with Run.open(tmp_path / "run") as opened:
        yield opened


def written(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_written_whole_and_equal_the_journals(run: Run) -> None:
    sink = sinks.open_sinks(run.config, run)
    sink.round(0)
    assert written(run) == lines(run_metrics(read_history(run.path)))
    before = (run.path / "metrics.jsonl").read_bytes()
    sink.finish()
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_the_sink_listens_to_a_run(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run", rounds=1, finished=False)
    with Run.open(tmp_path / "run") as run:
        run.listeners.append(sinks.open_sinks(run.config, run))
        assert not (run.path / "metrics.jsonl").exists()
        run.record("update", "1", PolicyUpdate(1, "p2", "", False, 0, 0, (), ()))
        assert [row["kind"] for row in written(run)].count("round") == 1
        run.record("summary", "final", {})
        assert written(run)[-1]["kind"] == "phase"


def with_tracker(run: Run, name: str) -> SEALConfig:
    return run.config.model_copy(update={"trackers": (name,)})


def finish(run: Run, name: str) -> dict[str, Any]:
    """Send two rounds and the end to a tracker; the first round's line."""
    sink = sinks.open_sinks(with_tracker(run, name), run)
    assert list(sink._trackers) == [name]
    sink.round(0)
    sink.round(1)
    sink.finish()
    return written(run)[0]


def test_tensorboard_reads_the_rounds_back(run: Run) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = finish(run, "tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    rewards = events.Scalars("round/reward/mean")
    assert [event.step for event in rewards] == [0, 1]
    assert rewards[0].value == pytest.approx(first["reward"]["mean"], abs=1e-6)
    arm = next(row for row in written(run) if row.get("arm") == "self_edit_rl")
    assert events.Scalars("arm/self_edit_rl/score/mean")[0].value == pytest.approx(
        arm["score"]["mean"], abs=1e-6
    )


def in_a_process(run: Run, name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Trackers keep processes and threads of their own, so they run in one that ends."""
    program = (
        "import logging, sys\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from seal.report import sinks\n"
        "from seal.run.folder import Run\n"
        "with Run.open(sys.argv[1]) as run:\n"
        f"    config = run.config.model_copy(update={{'trackers': ({name!r},)}})\n"
        "    sink = sinks.open_sinks(config, run)\n"
        "    assert sink._trackers\n"
        "    sink.round(0); sink.round(1); sink.finish()\n"
    )
    run.close()
    return subprocess.run(
        [sys.executable, "-c", program, str(run.path)],
        env={k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | environment,
        stdin=subprocess.DEVNULL,  # a prompt would fail
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of a W&B file: a LevelDB log (blocks of 32 KiB, chunks of checksum, length and type)."""
    assert content[:4] == b":W&B"
    at, whole = 7, b""
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several chunks
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_writes_offline_without_an_account(run: Run, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    done = in_a_process(run, "wandb", {"HOME": str(tmp_path / "home")})
    assert f"no account here, so it stays offline in {run.path}/wandb" in done.stderr
    (file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    history = []
    for data in log_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            history.append(items)
    first = written(run)[0]
    assert [row["_step"] for row in history] == [0, 1]
    assert history[0]["round/reward/mean"] == pytest.approx(first["reward"]["mean"])
    assert history[0]["round/success_rate/mean"] == first["success_rate"]["mean"]


@pytest.mark.slow
def test_trackio_writes_its_local_database(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="the trackio extra is not installed")
    in_a_process(run, "trackio", {"TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path)})
    import sqlite3

    (file,) = (tmp_path / "trackio").glob("seal*.db")
    with sqlite3.connect(file) as database:
        rows = [
            json.loads(text) for (text,) in database.execute("select metrics from metrics order by step, id")
        ]
    database.close()
    first = written(run)[0]
    values = [row["round/reward/mean"] for row in rows if "round/reward/mean" in row]
    assert len(values) == 2
    assert values[0] == pytest.approx(first["reward"]["mean"])


@pytest.mark.slow
def test_mlflow_writes_files_into_the_run_folder(run: Run) -> None:
    pytest.importorskip("mlflow", reason="the mlflow extra is not installed")
    in_a_process(run, "mlflow", {"MLFLOW_TRACKING_URI": ""})
    (file,) = run.path.glob("mlflow/*/*/metrics/round/reward/mean")
    rows = [line.split() for line in file.read_text().splitlines()]
    assert [row[2] for row in rows] == ["0", "1"]
    assert float(rows[0][1]) == pytest.approx(written(run)[0]["reward"]["mean"])


class Broken:
    def log(self, values: Any, step: int) -> None:
        raise ConnectionError("no route")

    def close(self, values: Any) -> None:
        raise AssertionError("is switched off by then")


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("seal").propagate = True
    sink = sinks.Sink(run.config, run, {"broken": Broken()})
    sink.round(0)
    sink.finish()
    assert "broken failed and is switched off: no route" in caplog.text
    assert written(run)


def test_a_tracker_that_cannot_start_is_left_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("seal").propagate = True
    monkeypatch.setitem(sys.modules, "trackio", None)  # as if it were not installed
    sink = sinks.open_sinks(with_tracker(run, "trackio"), run)
    assert sink._trackers == {}
    assert install("trackio") in caplog.text


def test_a_full_disk_does_not_stop_a_run(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("seal").propagate = True
    (run.path / "metrics.jsonl").mkdir()  # the file cannot be put there
    sinks.open_sinks(run.config, run).round(0)
    assert "could not be written" in caplog.text
