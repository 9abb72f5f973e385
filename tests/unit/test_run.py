"""Run folders: new, locked, never overwritten; logs without secrets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from seal.config import SEALConfig, load_config
from seal.errors import ConfigError, RunError
from seal.run import log
from seal.run.folder import Run, next_free, read_config
from seal.run.journal import Journal


@pytest.fixture
def config() -> SEALConfig:
    return load_config(preset="test")


@pytest.fixture(autouse=True)
def _no_handlers_left() -> Iterator[None]:
    yield
    for handler in list(logging.getLogger("seal").handlers):
        logging.getLogger("seal").removeHandler(handler)
        handler.close()
    logging.getLogger("seal").propagate = True


def test_a_run_is_a_folder_that_says_what_it_is(tmp_path: Path, config: SEALConfig) -> None:
    path = tmp_path / "outputs" / "one"
    with Run.create(path, config) as run:
        run.journal.append("edit", "a", {"x": 1})
        assert (run.checkpoints, run.logs) == (path / "checkpoints", path / "logs")
        assert run.checkpoints.is_dir()
        assert run.logs.is_dir()
    assert read_config(path) == config
    facts = json.loads((path / "environment.json").read_text(encoding="utf-8"))
    assert facts["packages"]["torch"].startswith("2.")
    assert facts["cpus"] == os.cpu_count()
    assert facts["device"] == "cpu"
    assert facts["threads"] >= 1
    with Run.open(path) as again:
        assert again.config == config
        assert again.journal.get("edit", "a") == {"x": 1}
    assert not (path / "environment-2.json").exists()


def test_nothing_is_overwritten(tmp_path: Path, config: SEALConfig) -> None:
    Run.create(tmp_path / "one", config).close()
    before = {file: file.read_bytes() for file in (tmp_path / "one").glob("*.*")}
    with pytest.raises(RunError, match="holds a run already") as caught:
        Run.create(tmp_path / "one", config)
    assert f"seal resume {tmp_path / 'one'}" in caught.value.fix
    assert "--output-dir" in caught.value.fix
    assert {file: file.read_bytes() for file in (tmp_path / "one").glob("*.*")} == before
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "thesis.tex").write_text("words")
    with pytest.raises(RunError, match=r"is not empty, it holds thesis\.tex"):
        Run.create(tmp_path / "two", config)
    assert [file.name for file in (tmp_path / "two").iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_what_a_broken_start_left_are_used(tmp_path: Path, config: SEALConfig) -> None:
    Journal(tmp_path / "journal.jsonl").close()
    assert os.listdir(tmp_path)
    Run.create(tmp_path, config).close()
    assert read_config(tmp_path) == config


def test_a_file_in_the_way_and_a_folder_that_cannot_be_written(tmp_path: Path, config: SEALConfig) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="a file is in the way"):
            Run.create(path, config)
    if os.getuid() == 0:
        unwritable = Path("/proc/self/run")  # root may write wherever there are files
    else:
        unwritable = tmp_path / "locked" / "run"
        unwritable.parent.mkdir(mode=0o500)
    with pytest.raises(RunError, match="cannot be written"):
        Run.create(unwritable, config)


def test_a_run_that_never_began_leaves_nothing_and_one_that_did_stays(
    tmp_path: Path, config: SEALConfig
) -> None:
    run = Run.create(tmp_path / "new", config)
    log.set_up("INFO", run.logs)
    assert run.abandon()
    assert list(tmp_path.iterdir()) == []
    run = Run.create(tmp_path / "begun", config)
    run.journal.append("edit", "a", {})
    assert not run.abandon()
    with Run.open(tmp_path / "begun") as again:
        assert len(again.journal.rows()) == 1


def test_only_one_process_opens_a_run(tmp_path: Path, config: SEALConfig) -> None:
    with Run.create(tmp_path / "one", config), pytest.raises(RunError, match="another process has this run"):
        Run.open(tmp_path / "one")


def test_what_is_no_run_cannot_be_opened(tmp_path: Path, config: SEALConfig) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    Run.create(tmp_path / "one", config).close()
    (tmp_path / "one" / "config.yaml").write_text("lora_r: -1\n")
    with pytest.raises(RunError, match=r"config\.yaml:1: lora_r"):
        Run.open(tmp_path / "one")


def test_a_resumption_elsewhere_is_recorded_and_said(
    tmp_path: Path, config: SEALConfig, caplog: pytest.LogCaptureFixture
) -> None:
    Run.create(tmp_path / "one", config).close()
    file = tmp_path / "one" / "environment.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts["threads"] = 999
    file.write_text(json.dumps(facts), encoding="utf-8")
    Run.open(tmp_path / "one").close()
    Run.open(tmp_path / "one").close()
    assert "another set-up (threads differs)" in caplog.text
    assert json.loads(file.read_text(encoding="utf-8"))["threads"] == 999
    assert (tmp_path / "one" / "environment-2.json").exists()
    assert not (tmp_path / "one" / "environment-3.json").exists()


def test_next_free(tmp_path: Path) -> None:
    assert next_free(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    assert next_free(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "x").touch()
    (tmp_path / "run-2").touch()
    assert next_free(tmp_path / "run") == tmp_path / "run-3"


def test_logs_go_to_both_places_and_hold_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret")
    monkeypatch.setenv("HF_TOKEN", "hf_alsosecret")
    monkeypatch.setenv("MONKEY", "a banana")
    monkeypatch.setenv("USE_TOKEN", "1")
    log.set_up("INFO", tmp_path / "logs")
    logger = logging.getLogger("seal.test")
    logger.debug("details of step %d", 1)
    logger.info("asked with %s, a banana", {"key": "sk-verysecret"})
    try:
        raise ValueError("refused: hf_alsosecret")
    except ValueError:
        logger.exception("failed")
    terminal = capsys.readouterr().err
    lines = (tmp_path / "logs" / "seal.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["level"] for entry in entries] == ["DEBUG", "INFO", "ERROR"]
    assert entries[0]["message"] == "details of step 1"
    assert entries[1]["message"] == "asked with {'key': '<OPENAI_API_KEY>'}, a banana"
    assert "ValueError: refused: <HF_TOKEN>" in entries[2]["traceback"]
    assert "details" not in terminal
    assert "asked with {'key': '<OPENAI_API_KEY>'}, a banana" in terminal
    for secret in ("sk-verysecret", "hf_alsosecret"):
        assert secret not in terminal + "".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("at http://user:hunter2@host:9/v1", "at http://***@host:9/v1"),
        ("at https://host/v1?api_key=hunter2&x=1", "at https://host/v1?***&x=1"),
        ("see https://host/a@b and me@host.org", "see https://host/a@b and me@host.org"),
    ],
)
def test_credentials_in_addresses_are_shown_nowhere(text: str, told: str) -> None:
    assert log.redact(text) == told


@pytest.mark.parametrize("value", ["runs-hunter2x", "https://me:pw@127.0.0.1:9/runs"])
def test_a_setting_that_holds_a_secret_begins_no_run(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2x")
    config = load_config(preset="test", overrides={"wandb_project": value})
    with pytest.raises(ConfigError, match=r"wandb_project: '.*' holds a password or key") as refused:
        Run.create(tmp_path / "run", config)
    assert not any(secret in str(refused.value) for secret in ("hunter2x", "pw@"))
    assert not (tmp_path / "run").exists()


def test_setting_up_again_replaces_the_handlers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("WARNING", tmp_path)
    log.set_up("WARNING")
    logging.getLogger("seal.test").warning("once")
    assert capsys.readouterr().err.count("once") == 1
    assert (tmp_path / "seal.jsonl").read_text(encoding="utf-8") == ""
