"""A round on a real SLURM: chained with dependencies, the query requeued in its middle, files checked.

Needs Debian's `slurm-wlm` and `munge`, root, and the one-node cluster's start script.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seal.recipes.results import read_run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(580)]

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "SEAL_MODEL": "tiny-random-llama",
    "SEAL_DTYPE": "float32",
    "SEAL_N": "3",
    "SEAL_K": "2",
    "SEAL_MAX_TOKENS": "24",
    "SEAL_EVAL_TIMES": "12",
    "SEAL_LORA_RANK": "4",
    "SEAL_EPOCHS": "2",
    "SEAL_SFT_EPOCHS": "1",
    "SEAL_SFT_RANK": "4",
}


class Cluster:
    """A one-node SLURM, and a copy of the scripts to submit from."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root, self.environment = root, environment

    def call(self, *command: str, **more: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        found = re.search(r"JobState=(\w+)", self.call("scontrol", "show", "job", job))
        assert found
        return found[1]

    def wait(self, what: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < until, f"not within {seconds} s\n{self.logs()}"
            time.sleep(0.3)

    def logs(self) -> str:
        files = sorted((self.root / "general-knowledge/logs").glob("*.log"))
        return "\n".join(f"== {f.name}\n{f.read_text()[-2000:]}" for f in files) + self.call("squeue", "-l")

    def ended(self, job: str, seconds: float) -> str:
        self.wait(lambda: self.state(job) not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"), seconds)
        return self.state(job)


@pytest.fixture
def cluster(shared: Path, tmp_path: Path) -> Iterator[Cluster]:
    for tool in ("sbatch", "slurmctld", "slurmd", "munged"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("bringing up a cluster needs root")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("server and query need a core each")
    script = shared / "tools/minislurm.sh"
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: a socket's path has at most 108 characters
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "general-knowledge", root / "general-knowledge")
    clean = {n: v for n, v in os.environ.items() if not re.match(r"SEAL_|SLURM_|SBATCH_|CUDA_", n)}
    environment = {
        **clean,
        "SD": str(folder),
        "SLURM_CONF": str(folder / "slurm.conf"),
        "SEAL_BIN": str(Path(sys.executable).parent / "seal"),
        "OMP_NUM_THREADS": "1",
    }
    started = subprocess.run(
        ["bash", str(script), "start"],
        # nproc believes OMP_NUM_THREADS, and server and query need a core each
        env={**{n: v for n, v in environment.items() if n != "OMP_NUM_THREADS"}, "GPUS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    try:
        if started.returncode:
            pytest.skip(f"the one-node cluster did not start: {(started.stdout + started.stderr)[-300:]}")
        yield Cluster(root, environment)
        subprocess.run(["scancel", "-u", "root"], env=environment, timeout=30, check=False)
        time.sleep(1)
    finally:
        subprocess.run(["bash", str(script), "stop"], env=environment, timeout=60, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_round_survives_a_requeue_in_the_middle_of_the_query(cluster: Cluster) -> None:
    seal = cluster.environment["SEAL_BIN"]
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    said = cluster.call(seal, "slurm", *settings)
    jobs = dict(re.findall(r"^(\w+): job (\d+)$", said, re.MULTILINE))
    assert list(jobs) == ["make_squad_data", "TTT_server", "query_server", "build_SFT_dataset", "train_SFT"]

    out = cluster.root / "outputs/general-knowledge"
    journal = out / "query/run_iter0_train.run/journal.jsonl"

    def measured() -> int:
        return journal.read_text().count('"kind":"trial"') if journal.exists() else 0

    cluster.wait(lambda: measured() >= 8, 240)
    cluster.call("scancel", "--batch", "--signal=USR1", jobs["query_server"])
    cluster.wait(lambda: cluster.state(jobs["query_server"]) == "PENDING", 60)
    before = measured()
    assert 8 <= before < 72
    assert "Restarts=1" in cluster.call("scontrol", "show", "job", jobs["query_server"])
    cluster.call("scontrol", "update", f"JobId={jobs['query_server']}", "StartTime=now")

    for step, job in jobs.items():
        assert cluster.ended(job, 240) == "COMPLETED", f"{step}\n{cluster.logs()}"
    data = json.loads((out / "data/iter0_train.json").read_text())
    assert [len(record["completions"]) for record in data] == [2, 2, 2]
    run = read_run(out / "query/run_iter0_train.json")
    assert [len(article.completions) for article in run.articles] == [2, 2, 2]
    for article, record in zip(run.articles, data, strict=True):
        assert len(article.completions[0].questions) == 12 * len(record["questions"])
    assert measured() == 72
    (chosen,) = (out / "query").glob("sft_best1of2_*.jsonl")
    assert len(chosen.read_text().splitlines()) == 3
    from seal.models.load import load_model

    tuned = load_model(str(out / "models/iter0_train"), device="cpu")
    assert tuned.version != load_model("tiny-random-llama", device="cpu").version
    assert not (out / "server.json").exists()


def test_a_failed_step_ends_what_depends_on_it(cluster: Cluster) -> None:
    seal = cluster.environment["SEAL_BIN"]
    said = cluster.call(
        seal, "slurm", "--set", "SEAL_MODEL=no/such-model", "--set", "SEAL_DATASET=nowhere.json"
    )
    jobs = dict(re.findall(r"^(\w+): job (\d+)$", said, re.MULTILINE))
    assert cluster.ended(jobs["make_squad_data"], 60) == "FAILED"
    for step in ("TTT_server", "query_server", "build_SFT_dataset", "train_SFT"):
        assert cluster.ended(jobs[step], 60) == "CANCELLED"


def test_the_page_s_own_command_gets_the_sites_gpus(cluster: Cluster) -> None:
    (cluster.root / "general-knowledge/site.env").write_text(': "${SEAL_GRES:=gpu:2}"\n')
    (cluster.root / "show").write_text('#!/bin/bash\necho "gpus: $CUDA_VISIBLE_DEVICES; $*"\n')
    (cluster.root / "show").chmod(0o755)
    show = {"SEAL_BIN": str(cluster.root / "show")}
    said = cluster.call("sbatch", "general-knowledge/scripts/make_squad_data.sh", **show)
    first = said.split()[-1]
    assert cluster.ended(first, 60) == "COMPLETED"
    log = cluster.root / f"general-knowledge/logs/seal-data-{first}.log"
    second = re.findall(r"submitted again as job (\d+) with --gres=gpu:2", log.read_text())
    assert cluster.ended(second[0], 60) == "COMPLETED"
    log = cluster.root / f"general-knowledge/logs/seal-data-{second[0]}.log"
    assert log.read_text().startswith("gpus: 0,1; make-data builtin")
    said = cluster.call(cluster.environment["SEAL_BIN"], "slurm", "CPT", **show)
    job = said.split()[-1]
    assert cluster.ended(job, 60) == "COMPLETED"
    log = cluster.root / f"general-knowledge/logs/seal-cpt-{job}.log"
    assert log.read_text().startswith("gpus: 0,1; cpt --data")
