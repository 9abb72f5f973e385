"""The scripts and how they are chained: options that the verbs know, dependencies, the site's GPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from seal.cli import main
from seal.cluster.slurm import ROUND, STEPS, as_script, plan, read_site, submit
from seal.errors import ConfigError, RunError

ROOT = Path(__file__).resolve().parents[2]
VERBS = {
    "make_squad_data": "make-data",
    "make_squad_data_openai": "make-data",
    "TTT_server": "serve",
    "query_server": "query",
    "CPT": "cpt",
    "build_SFT_dataset": "build-sft",
    "train_SFT": "train-sft",
    "continual_self_edits": "continual",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the scripts, where runs may leave files."""
    shutil.copytree(ROOT / "general-knowledge", tmp_path / "general-knowledge")
    return tmp_path


def bash(root: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script; its `seal` prints its arguments, one a line."""
    recorder = root / "recorder"
    recorder.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    recorder.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not re.match(r"SEAL_|SLURM_|CUDA_", name)}
    return subprocess.run(
        ["bash", f"general-knowledge/scripts/{script}.sh"],
        cwd=root,
        env={**clean, "SEAL_BIN": str(recorder), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_run_on_all_nodes_of_a_job_starts_ray_with_a_token_and_goes_on_after_a_requeue(root: Path) -> None:
    """Against stand-ins for SLURM and Ray that print what they got."""
    tools = root / "bin"
    tools.mkdir()
    recorder = '#!/bin/bash\nprintf "%s\\n" "$@"\n'
    for name, text in {
        "scontrol": "#!/bin/bash\nprintf 'node1\\nnode2\\n'\n",
        "srun": f'{recorder}stat -c "%a %s" "$RAY_AUTH_TOKEN_PATH"; echo "$RAY_AUTH_MODE"\n',
        "ray": recorder,
        "seal": recorder,
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    job |= {"PATH": f"{tools}:{os.environ['PATH']}", "SEAL_BIN": str(tools / "seal")}
    told = bash(root, "train_cluster", **job)
    assert told.returncode == 0, told.stderr
    out = "outputs/general-knowledge"
    assert told.stdout.splitlines() == [
        "--kill-on-bad-exit=1",
        str(tools / "ray"),
        *("symmetric-run", "--address", "node1:6379", "--min-nodes", "2", "--disable-usage-stats", "--"),
        *(str(tools / "seal"), "train", "--set", "inner.backend=ray", "--output-dir", f"{out}/runs/7"),
        "600 64",
        "token",
    ]
    assert not list((root / out).glob(".ray-token*"))
    (root / out / "runs/7").mkdir(parents=True)
    (root / out / "runs/7/config.yaml").write_text("")
    assert f"resume\n{out}/runs/7\n" in bash(root, "train_cluster", **job).stdout
    alone = bash(root, "train_cluster")
    assert (alone.returncode, "submit it with sbatch" in alone.stderr) == (2, True)


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The verb's parameters, as its own parser reads them."""
    name = arguments[0].replace("-", "_")
    app = typer.Typer()
    app.command()(getattr(import_module(f"seal.cli.{name}"), name))
    context = typer.main.get_command(app).make_context(name, list(arguments[1:]))
    assert context is not None
    return context.params


@pytest.mark.parametrize("script", STEPS)
@pytest.mark.parametrize("changes", [{}, {"SEAL_CONFIG": "general-knowledge/paper.env", "SEAL_LOCAL": "1"}])
def test_every_script_calls_its_verb_with_options_it_knows(
    script: str, changes: dict[str, str], root: Path
) -> None:
    done = bash(root, script, SEAL_SFT_DATA="some.jsonl", **changes)
    assert done.returncode == 0, done.stderr
    arguments = done.stdout.splitlines()
    assert arguments[0] == VERBS[script]
    parameters = parsed(arguments)
    if changes and "model" in parameters and parameters["model"]:
        assert parameters["model"] == "Qwen/Qwen2.5-7B"
    if script == "query_server":
        assert (parameters["n"], parameters["k"], parameters["repeats"]) == (50 if changes else 8, 5, 3)
        assert (parameters["lora_rank"], parameters["lora_alpha"], parameters["epochs"]) == (32, 64.0, 10)
        assert (parameters["server"] is None) is bool(changes)


def test_an_environment_variable_goes_over_the_files(root: Path) -> None:
    (root / "general-knowledge/site.env").write_text(': "${SEAL_N:=3}"\n: "${SEAL_K:=2}"\n')
    done = bash(root, "make_squad_data", SEAL_N="4", SEAL_OUT="with space")
    parameters = parsed(done.stdout.splitlines())
    assert (parameters["n"], parameters["k"]) == (4, 2)
    assert parameters["out"] == Path("with space/data/iter0_train.json")


def test_cpt_and_server_options(root: Path) -> None:
    full = parsed(bash(root, "CPT", SEAL_CPT_FULL="1", SEAL_CPT_EPOCHS="2").stdout.splitlines())
    assert (full["full"], full["epochs"], full["local"]) == (True, 2, "smollm2-135m-instruct")
    keyed = parsed(bash(root, "TTT_server", SEAL_SERVER_KEYS="k", SEAL_ALLOW="a").stdout.splitlines())
    assert (keyed["keys"], keyed["allow"], keyed["port"]) == (Path("k"), Path("a"), 0)
    missing = bash(root, "train_SFT")
    assert missing.returncode == 2
    assert "build_SFT_dataset.py" in missing.stderr
    assert bash(root, "CPT", SEAL_CONFIG="nowhere.env").returncode == 2


def test_a_script_hands_on_the_exit_code(root: Path) -> None:
    failing = root / "failing"
    failing.write_text("#!/bin/bash\nexit 7\n")
    failing.chmod(0o755)
    assert bash(root, "query_server", SEAL_BIN=str(failing)).returncode == 7


def test_a_round_is_chained(root: Path) -> None:
    jobs = {job.step: job for job in plan(ROUND, {}, {"SEAL_N": "2"}, root)}
    assert jobs["make_squad_data"].after_ok == ()
    assert jobs["TTT_server"].after_ok == ("make_squad_data",)
    query = jobs["query_server"]
    assert (query.after_ok, query.after_start) == (("make_squad_data",), ("TTT_server",))
    assert dict(query.environment) == {"SEAL_N": "2", "SEAL_SHUTDOWN": "1"}
    assert jobs["build_SFT_dataset"].after_ok == ("query_server",)
    assert jobs["train_SFT"].after_ok == ("build_SFT_dataset",)
    for job in jobs.values():
        assert "--kill-on-invalid-dep=yes" in job.command
        assert not any(word.startswith("--gres") for word in job.command)
        assert (root / job.command[-1]).stat().st_mode & 0o111


def test_gpus_come_from_the_site_file_alone(root: Path) -> None:
    path = root / "site.env"
    assert read_site(path) == {}
    path.write_text(': "${SEAL_GRES:=gpu:2}"\nSEAL_SBATCH="--partition=a --account=\'b c\'"\n')
    site = read_site(path)
    (job,) = plan(["CPT"], site, {}, root)
    assert job.command[1:-1] == (
        "--parsable",
        "--kill-on-invalid-dep=yes",
        "--gres=gpu:2",
        "--partition=a",
        "--account=b c",
    )
    path.write_text("exit 3\n")
    with pytest.raises(ConfigError, match="cannot be used"):
        read_site(path)
    scripts = "".join(p.read_text() for p in (ROOT / "general-knowledge/scripts").glob("*.sh"))
    assert "#SBATCH --gres" not in scripts


def test_the_dry_run_is_a_script_that_does_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both against a stand-in `sbatch` that prints what it got; the real one is in the end-to-end test."""
    tools = root / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(
        '#!/bin/bash\nn=$(($(cat "$COUNT")+1)); echo $n > "$COUNT"\n'
        'printf "%s|" "$SEAL_SHUTDOWN" "$SEAL_SERVER_JOB" "$SEAL_OUT" "$@" >> "$SEEN"\n'
        'echo >> "$SEEN"; echo $n\n'
    )
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.chdir(root)
    seen = []
    for way in ("script", "submit"):
        monkeypatch.setenv("COUNT", str(root / f"{way}.count"))
        monkeypatch.setenv("SEEN", str(root / f"{way}.seen"))
        (root / f"{way}.count").write_text("0")
        jobs = plan(ROUND, {"SEAL_GRES": "gpu:1"}, {"SEAL_OUT": "a b'c"}, root)
        if way == "script":
            subprocess.run(["bash", "-c", as_script(jobs)], check=True, capture_output=True, timeout=30)
        else:
            assert submit(jobs, os.environ, root) == {step: str(i + 1) for i, step in enumerate(ROUND)}
        seen.append((root / f"{way}.seen").read_text())
    assert seen[0] == seen[1]
    assert seen[0].splitlines()[2] == (
        "1|2|a b'c|--parsable|--kill-on-invalid-dep=yes|--gres=gpu:1|--dependency=afterok:1,after:2|"
        "general-knowledge/scripts/query_server.sh|"
    )
    assert main(["slurm", "--dry-run"]) == 0
    assert "--dependency=afterok:${build_SFT_dataset}" in capsys.readouterr().out


def test_what_cannot_be_submitted_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (["nonsense"], [], ["CPT", "CPT"]):
        with pytest.raises(ConfigError, match="choose among"):
            plan(steps, {}, {}, root)
    with pytest.raises(ConfigError, match="repository root"):
        plan(["CPT"], {}, {}, root / "nowhere")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(RunError, match="no sbatch"):
        submit(plan(["CPT"], {}, {}, root), os.environ, root)
    monkeypatch.chdir(root)
    assert main(["slurm", "--set", "novalue"]) == 2
