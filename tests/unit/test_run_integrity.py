"""A run folder that was damaged, changed, or packed by a stranger: nothing outside it is touched, nothing
wrong is used, and one line says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seal.cli import main
from seal.config import load_config
from seal.data.load_report import Tally, note_loaded
from seal.data.loader import load_tasks, report_of
from seal.errors import ConfigError, ModelError, RunError
from seal.framework import SEALFramework
from seal.models.checkpoint import MANIFEST, save_checkpoint, verify_checkpoint
from seal.plugins import DOMAINS, load_kind
from seal.recipes.pipeline import Step
from seal.records import PolicyUpdate
from seal.reward import make_reward
from seal.run.folder import Run, read_config
from seal.run.journal import Journal
from seal.setup import make_domain
from seal.whole_file import write_whole

CONFIG = load_config(preset="test")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Run.create(tmp_path / "run", CONFIG).close()
    return tmp_path / "run"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What lies beside the run and must stay as it is."""
    place = tmp_path / "outside"
    for name in (".ssh", ".policy-1.abcdefgh", "photos"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text("dear")
    return place


def contents(place: Path) -> dict[str, str]:
    return {str(f.relative_to(place)): f.read_text() for f in sorted(place.rglob("*")) if f.is_file()}


def updated(checkpoint: str) -> PolicyUpdate:
    return PolicyUpdate(0, "abc", checkpoint, True, 1, 1, (), (1.0,))


# --- nothing outside ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoints", "logs", "logs/seal.jsonl", "config.yaml"])
def test_a_link_in_a_run_folder_is_refused_and_what_it_points_to_is_left_alone(
    folder: Path, outside: Path, name: str
) -> None:
    before = contents(outside)
    link = folder / name
    target: Path = outside
    if link.is_dir():
        link.rmdir()
    else:
        target = outside / "photos" / "file"
        if name == "config.yaml":
            target.write_text(link.read_text())
            before = contents(outside)
        link.unlink(missing_ok=True)
    link.symlink_to(target)
    with pytest.raises(RunError, match=f"{link}: is a link"):
        Run.open(folder)
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["journal.jsonl", "journal.jsonl.torn", ".journal.jsonl.lock"])
def test_a_journal_is_no_link(folder: Path, outside: Path, name: str) -> None:
    before = contents(outside)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / "photos" / "file")
    with pytest.raises(RunError, match="is a link"):
        Run.open(folder)
    assert contents(outside) == before


def test_only_half_written_policies_are_cleared_away(folder: Path, outside: Path) -> None:
    checkpoints = folder / "checkpoints"
    (checkpoints / ".DS_Store").write_text("x")
    (checkpoints / ".git").mkdir()
    (checkpoints / ".policy-1.12345678").mkdir()
    (checkpoints / ".policy-1.old.abc_efgh").mkdir()
    (checkpoints / ".policy-2.12345678").symlink_to(outside)
    (checkpoints / "policy-1").mkdir()
    Run.open(folder).close()
    left = {entry.name for entry in checkpoints.iterdir()}
    assert left == {".DS_Store", ".git", ".policy-2.12345678", "policy-1"}
    assert len(contents(outside)) == 3


@pytest.mark.parametrize(
    "name", ["{outside}", "../../outside", "checkpoints/../../outside", "checkpoints", ".", "checkpoints/x"]
)
def test_a_policy_outside_the_run_is_neither_deleted_nor_loaded(
    folder: Path, outside: Path, name: str
) -> None:
    before = contents(outside)
    with Run.open(folder) as run:
        run.record("update", "0", updated(name.format(outside=outside)))
        run.record("update", "1", updated("checkpoints/policy-2"))
        with pytest.raises(RunError, match="names a policy"):
            run.keep_newest(1)
    assert contents(outside) == before
    assert (folder / "checkpoints").is_dir()


def test_a_file_is_written_beside_and_never_through_a_link(tmp_path: Path, outside: Path) -> None:
    link = tmp_path / ".metrics.jsonl.00000000.part"
    link.symlink_to(outside / "photos" / "file")
    write_whole(tmp_path / "metrics.jsonl", "new")
    assert (tmp_path / "metrics.jsonl").read_text() == "new"
    assert (outside / "photos" / "file").read_text() == "dear"
    assert link.is_symlink()


# --- settings -------------------------------------------------------------------------------------------


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_changed_settings_are_refused_until_they_are_accepted(folder: Path) -> None:
    assert read_config(folder) == CONFIG
    change(folder / "config.yaml", f"seed: {CONFIG.seed}", "seed: 43")
    for reading in (read_config, Run.open):
        with pytest.raises(RunError, match="has changed since the run began") as caught:
            reading(folder)
        assert "--accept-settings" in caught.value.fix
    with Run.open(folder, accept_settings=True) as run:
        assert run.config.seed == 43
    assert read_config(folder).seed == 43  # from now on these are the run's settings
    Run.open(folder).close()


def test_every_cut_and_many_flips_of_the_settings_are_seen(folder: Path) -> None:
    file = folder / "config.yaml"
    whole = file.read_bytes()
    for length in range(0, len(whole), 3):
        file.write_bytes(whole[:length])
        with pytest.raises(RunError):
            read_config(folder)
    for at in range(0, len(whole), 3):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(RunError):
            read_config(folder)


def test_settings_without_a_checksum_are_accepted_once_for_all(folder: Path) -> None:
    (folder / "config.yaml").write_text(CONFIG.to_yaml())
    with pytest.raises(RunError, match="has lost its checksum"):
        read_config(folder)
    Run.open(folder, accept_settings=True).close()
    assert read_config(folder) == CONFIG


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"threads": '])
def test_a_damaged_set_up_file_is_said_and_stops_nothing(
    folder: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "environment.json").write_text(text)
    Run.open(folder).close()
    assert "environment.json is damaged" in caplog.text
    assert (folder / "environment.json").read_text() == text
    assert json.loads((folder / "environment-2.json").read_text())["python"]


# --- code of strangers ----------------------------------------------------------------------------------

CANARY = """
from pathlib import Path

Path("executed").touch()
from seal import BaseDomain

def function(**options):
    Path("executed").touch()

class Loader:
    def load_data(self):
        return [("The sky is blue.", [{"question": "What colour?", "answer": "blue"}])] * 2
"""


def test_a_run_from_elsewhere_runs_no_code_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canary_module.py").write_text(CANARY)
    config = load_config(preset="test", overrides={"data_config.loader": "canary_module:Loader"})
    Run.create("mine", config).close()
    Run.open("mine").close()  # begun here: known
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "somebody else"))
    for command in (["resume", "mine"], ["report", "mine"]):
        code = main(command)
        assert (tmp_path / "executed").exists() is False, command
        if command[0] == "resume":
            assert code == 2
            told = capsys.readouterr().err
            assert "begun elsewhere asks for code: data_config.loader 'canary_module:Loader'" in told
            assert "--accept-settings" in told
    Run.open("mine", accept_settings=True).close()
    Run.open("mine").close()


def test_a_journal_cannot_ask_for_any_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(folder / "journal.jsonl") as journal:
        journal.append("step", "step", Step("query", "out.json", ("init", "planted"), str(folder)))
    assert main(["resume", str(folder)]) == 2
    assert "asks for seal init" in capsys.readouterr().err
    assert not (folder / "planted").exists()


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:run", "subprocess:Popen", "pathlib:Path", "os:path"]
)
def test_only_documented_kinds_are_ever_called(name: str) -> None:
    for wanted in ({"base": SEALFramework}, {"method": "load_data"}):
        with pytest.raises(ConfigError, match="is not a"):
            load_kind(DOMAINS, name, "thing", **wanted)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is not a reward model"):
        make_reward(name)
    with pytest.raises(ConfigError, match="is not a domain"):
        make_domain(load_config(preset="test", overrides={"domain": name}), None)


# --- policies -------------------------------------------------------------------------------------------


@pytest.fixture
def policy(tmp_path: Path, tiny: Any) -> Path:
    loaded = tiny()
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "policy-1")
    return tmp_path / "policy-1"


def test_damage_that_kept_size_and_mtime_is_found(policy: Path) -> None:
    file = policy / "model.safetensors"
    verify_checkpoint(policy)
    stat, raw = file.stat(), bytearray(file.read_bytes())
    raw[-1] ^= 1
    with file.open("r+b") as out:
        out.write(raw)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ModelError, match="is damaged"):
        verify_checkpoint(policy)


def test_a_file_that_no_manifest_names_or_that_is_missing_is_found(policy: Path) -> None:
    (policy / ".DS_Store").write_text("x")
    verify_checkpoint(policy)
    (policy / "model-00002.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"holds model-00002\.safetensors"):
        verify_checkpoint(policy)
    (policy / "model-00002.safetensors").unlink()
    (policy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        verify_checkpoint(policy)


def test_a_manifest_leads_nowhere_else(policy: Path) -> None:
    manifest = json.loads((policy / MANIFEST).read_text())
    for name in ("/dev/zero", "../outside"):
        (policy / MANIFEST).write_text(json.dumps({"files": manifest["files"] | {name: "0"}}))
        with pytest.raises(ModelError, match="is missing"):
            verify_checkpoint(policy, deep=True)


class _Tokenizer:
    def save_pretrained(self, folder: Path) -> None:
        raise Exception("No space left on device (os error 28)")  # as tokenizers raise it


def test_a_full_disk_in_the_tokenizers_save_is_a_named_error(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(ModelError, match="No space left"):
        save_checkpoint(tiny().model, _Tokenizer(), tmp_path / "policy")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# --- the journal's fence --------------------------------------------------------------------------------


def test_a_second_process_is_refused_although_the_lock_file_is_gone(folder: Path) -> None:
    with Run.open(folder):
        (folder / ".journal.jsonl.lock").unlink()
        with pytest.raises(RunError, match="another process has this run open"):
            Run.open(folder)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x\n")


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@pytest.mark.parametrize("act", [_append, _replace, Path.unlink], ids=["appended", "replaced", "deleted"])
def test_a_process_that_lost_its_journal_writes_nothing_more(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("a", "1", {})
        act(path)
        left = path.read_bytes() if path.exists() else None
        for key in ("2", "3"):
            with pytest.raises(RunError):
                journal.append("a", key, {})
    assert (path.read_bytes() if path.exists() else None) == left


def test_a_zombie_cannot_write_to_a_run_that_another_process_finished(tmp_path: Path) -> None:
    """Its lock file deleted and its journal copied over, as a hasty operator would."""
    path = tmp_path / "journal.jsonl"
    code = (
        "import sys; from seal.run.journal import Journal\n"
        "j = Journal(sys.argv[1]); j.append('a', '1', {}); print('open', flush=True); sys.stdin.readline()\n"
        "j.append('a', '2', {})"
    )
    zombie = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "open\n"
    _replace(path)
    (tmp_path / ".journal.jsonl.lock").unlink()
    with Journal(path) as other:
        other.append("a", "2", {"by": "other"})
    whole = path.read_bytes()
    zombie.communicate("go on\n", timeout=60)
    assert zombie.returncode != 0
    assert path.read_bytes() == whole
    assert len(Journal.read(path)) == 2


# --- data -----------------------------------------------------------------------------------------------


CHANGES = {"nothing": ("", ""), "context": ("Part 2", "Part 3"), "answer": ('"2"', '"3"')}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_run_goes_on_with_the_data_that_it_began_with(folder: Path, tmp_path: Path, changed: str) -> None:
    records = [
        {"title": f"T{n}", "context": f"Part {n}.", "questions": [{"question": "Which?", "answer": f"{n}"}]}
        for n in range(3)
    ]
    file = tmp_path / "data.json"
    file.write_text(json.dumps(records))

    def note() -> None:
        with Run.open(folder) as run:
            note_loaded(run, report_of("train", load_tasks(file), Tally()))

    note()
    file.write_text(json.dumps(records[::-1]).replace(*CHANGES[changed]))  # their order means nothing
    if changed == "nothing":
        note()
    else:
        with pytest.raises(RunError, match="not those that the run began with"):
            note()
