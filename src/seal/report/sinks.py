"""Where a run's metrics go while it runs: always `metrics.jsonl`, and trackers on request.

A tracker that fails is dropped with a warning; no tracker ever stops, slows or asks anything of a run.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seal.extras import need
from seal.report.history import History
from seal.report.metrics import flat, lines, run_metrics
from seal.scratch import scratch_folder
from seal.settings import SEALConfig
from seal.whole_file import write_whole

if TYPE_CHECKING:
    from seal.run.folder import Run

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
_WANDB_SECONDS = 15
"""How long a start waits for Weights & Biases before going offline."""


class Tracker(Protocol):
    """One place that shows metrics."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add the numbers of one round."""
        ...

    def close(self, values: Mapping[str, float]) -> None:
        """Add the numbers of the whole run, and end."""
        ...


class Sink:
    """Writes `metrics.jsonl` after every round and at the end, and hands the numbers to trackers.

    Also a listener of a run: called with (kind, record), it acts on `update` and `summary` rows.
    """

    def __init__(self, config: SEALConfig, run: Run, trackers: Mapping[str, Tracker]) -> None:
        self._config, self._run = config, run
        self._trackers = dict(trackers)
        self._known: dict[int, Any] = {}

    def __call__(self, kind: str, record: Any) -> None:
        """Hear of a finished item."""
        if kind == "update":
            self.round(record.iteration)
        elif kind == "summary":
            self.finish()

    def round(self, iteration: int) -> None:
        """A round is finished: write all metrics so far, and log this round's. Never raises."""
        rows = self._write()
        for values in (flat(row, "round/") for row in rows if row.get("iteration") == iteration):
            self._tell(lambda tracker, values=values: tracker.log(values, iteration))  # type: ignore[misc]

    def finish(self) -> None:
        """The run is over: write all metrics, and close the trackers. Never raises."""
        whole: dict[str, float] = {}
        for row in self._write():
            if row["kind"] in ("arm", "phase"):
                whole |= flat(row, f"{row['kind']}/{row.get('arm') or row.get('name')}/")
            elif row["kind"] == "dynamics":
                whole |= flat(row, "dynamics/")
        self._tell(lambda tracker: tracker.close(whole))
        self._trackers.clear()

    def _write(self) -> list[dict[str, Any]]:
        """Write the file anew, whole: it is computed from the journal, so nothing is lost."""
        try:
            history = History.of(self._run.journal.rows(), self._config, self._run.path, known=self._known)
            rows = lines(run_metrics(history))
            write_metrics(self._run.path, rows)
        except Exception as error:  # noqa: BLE001 (a number that cannot be shown must not stop a run)
            log.warning("the metrics could not be written: %s", error)
            return []
        return rows

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception as error:  # noqa: BLE001 (third parties raise anything)
                log.warning("%s failed and is switched off: %s", name, error)
                del self._trackers[name]


def open_sinks(config: SEALConfig, run: Run) -> Sink:
    """The sink of a run, with the trackers that its settings ask for. Never raises for a tracker."""
    names = dict.fromkeys((*(("wandb",) if config.wandb_project else ()), *config.trackers))
    trackers: dict[str, Tracker] = {}
    for name in names:
        try:
            need(name, f"tracking with {name}")
            trackers[name] = _TRACKERS[name](config, run.path)
        except Exception as error:  # noqa: BLE001 (third parties raise anything)
            log.warning("%s could not be started and is left out: %s", name, error)
    return Sink(config, run, trackers)


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write `metrics.jsonl` into `folder`, the whole file or none."""
    path = folder / METRICS_FILE
    write_whole(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    return path


class WandbTracker:
    """Weights & Biases: online with an account and a network, else offline in the run folder."""

    def __init__(self, config: SEALConfig, folder: Path) -> None:
        self._scratch, self._temporary = ExitStack(), ""
        with self._own_temporary_folder():
            import wandb

        options: dict[str, Any] = {
            "project": config.wandb_project or "seal",
            "name": folder.resolve().name,
            "dir": str(folder),
            "config": config.model_dump(mode="json"),
        }
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_account() else "offline")
        if mode == "offline":
            why = "WANDB_MODE says so" if os.environ.get("WANDB_MODE") else "no account here"
            log.info(
                "Weights & Biases: %s, so it stays offline in %s; `wandb sync` sends it later",
                why,
                folder / "wandb",
            )
        try:
            with self._own_temporary_folder():
                self._run = wandb.init(**options, mode=mode, settings=self._settings())  # type: ignore[arg-type]
        except wandb.errors.Error as error:
            log.warning("Weights & Biases cannot be reached, so it goes on offline: %s", error)
            self._run = wandb.init(**options, mode="offline", settings=self._settings())

    @staticmethod
    def _settings() -> Any:
        import wandb

        return wandb.Settings(
            silent=True, console="off", init_timeout=_WANDB_SECONDS, disable_git=True, save_code=False
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one step."""
        self._run.log(dict(values), step=step)

    def close(self, values: Mapping[str, float]) -> None:
        """Write the summary and end."""
        self._run.summary.update(dict(values))
        self._run.finish()
        self._scratch.close()

    @contextmanager
    def _own_temporary_folder(self) -> Iterator[None]:
        """What Weights & Biases puts into the temporary folder goes into one that a kill does not leave."""
        before = tempfile.tempdir, os.environ.get("TMPDIR")
        if not self._temporary:
            self._temporary = str(self._scratch.enter_context(scratch_folder("wandb")))
        tempfile.tempdir = os.environ["TMPDIR"] = self._temporary
        try:
            yield
        finally:
            tempfile.tempdir = before[0]
            os.environ.pop("TMPDIR")
            if before[1] is not None:
                os.environ["TMPDIR"] = before[1]


class TensorBoardTracker:
    """Event files in the run folder, for `tensorboard --logdir RUN/tensorboard`."""

    def __init__(self, config: SEALConfig, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._last = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        self._last = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, values: Mapping[str, float]) -> None:
        """Write the whole run's scalars at the last step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._last)
        self._writer.close()


class TrackioTracker:
    """trackio's local database, shown by `trackio show`."""

    def __init__(self, config: SEALConfig, folder: Path) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(
            project=config.wandb_project or "seal",
            name=folder.resolve().name,
            config=config.model_dump(mode="json"),
            embed=False,
        )
        self._last = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one step."""
        self._last = step
        self._trackio.log(dict(values), step=step)

    def close(self, values: Mapping[str, float]) -> None:
        """Log the whole run's numbers at the last step and end."""
        self._trackio.log(dict(values), step=self._last)
        self._trackio.finish()


class MlflowTracker:
    """MLflow: the server that `MLFLOW_TRACKING_URI` names, else files in the run folder."""

    def __init__(self, config: SEALConfig, folder: Path) -> None:
        from mlflow import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:  # MLflow keeps to databases unless it is told that files are meant
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (folder / "mlflow").resolve().as_uri()
        self._client = MlflowClient(place)
        project = config.wandb_project or "seal"
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else self._client.create_experiment(project)
        self._id = self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        for name, value in config.model_dump(mode="json").items():
            self._client.log_param(self._id, name, str(value)[:6000])
        self._last = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one step."""
        self._last = step
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step, synchronous=True)

    def close(self, values: Mapping[str, float]) -> None:
        """Log the whole run's numbers at the last step and end."""
        self.log(values, self._last)
        self._client.set_terminated(self._id)


_TRACKERS: dict[str, Callable[[SEALConfig, Path], Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "mlflow": MlflowTracker,
}


def _has_account() -> bool:
    """Whether a key of Weights & Biases is at hand; its value is not looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
