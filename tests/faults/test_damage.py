"""Truncations and bit flips of every file that a resumed run or a server reads: none of it is used."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from seal.config import load_config
from seal.errors import ModelError, RunError, ServeError
from seal.models.checkpoint import verify_checkpoint, write_checkpoint
from seal.run.folder import Run, read_config
from seal.run.journal import Journal
from seal.serve.store import Store

Amount = Callable[[int], int]
Tell = Callable[..., None]


def damage(file: Path, whole: bytes, rng: random.Random) -> None:
    """Cut `file` off, or flip a bit of it; half the time it keeps its mtime."""
    stat = file.stat()
    if rng.random() < 0.3:
        file.write_bytes(whole[: rng.randrange(len(whole))])
    else:
        at = rng.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    if rng.random() < 0.5:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_journal(tmp_path: Path, amount: Amount, rng: random.Random, told: Tell) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for n in range(12):
            journal.append("trial", f"t{n}", {"text": "ä\n" * n, "score": n / 7})
    whole, rows, ends = path.read_bytes(), Journal.read(path), Counter[str]()
    for _ in range(amount(600)):
        damage(path, whole, rng)
        try:
            found = Journal.read(path)
            assert found == rows[: len(found)], "what is read is what was written"
            ends["the lines before it"] += 1
        except RunError:
            ends["refused"] += 1
            continue
        with Journal(path) as again:
            assert again.rows() == found
            again.append("trial", "more", {})
        assert Journal.read(path)[:-1] == found
    told(**ends)


def test_settings(tmp_path: Path, amount: Amount, rng: random.Random, told: Tell) -> None:
    config = load_config(preset="test")
    Run.create(tmp_path / "run", config).close()
    file = tmp_path / "run" / "config.yaml"
    whole, ends = file.read_bytes(), Counter[str]()
    for _ in range(amount(150)):
        damage(file, whole, rng)
        try:
            read_config(tmp_path / "run")
            ends["USED"] += file.read_bytes() != whole
        except RunError:
            ends["refused"] += 1
    told(**ends)
    assert not ends["USED"]


def test_set_up_file(tmp_path: Path, amount: Amount, rng: random.Random, told: Tell) -> None:
    """Nothing is computed from it: whatever is in it, the run goes on."""
    Run.create(tmp_path / "run", load_config(preset="test")).close()
    file = tmp_path / "run" / "environment.json"
    whole, count = file.read_bytes(), amount(60)
    for _ in range(count):
        for later in (tmp_path / "run").glob("environment-*.json"):
            later.unlink()
        damage(file, whole, rng)
        Run.open(tmp_path / "run").close()
    told(goes_on=count)


def test_policy(tmp_path: Path, amount: Amount, rng: random.Random, told: Tell) -> None:
    folder = tmp_path / "policy-1"

    def write(target: Path) -> None:
        (target / "config.json").write_text(json.dumps({"hidden_size": 4, "vocab_size": 7}))
        (target / "model.safetensors").write_bytes(rng.randbytes(4000))
        (target / "tokenizer.json").write_text('{"model": {"vocab": {}}}')

    version, ends = write_checkpoint(folder, write), Counter[str]()
    files = [file for file in folder.iterdir() if file.name != "manifest.json"]
    whole = {file: file.read_bytes() for file in files}
    for _ in range(amount(600)):
        file = rng.choice(files)
        damage(file, whole[file], rng)
        try:
            verify_checkpoint(folder)
            ends["USED"] += file.read_bytes() != whole[file]
        except ModelError:
            ends["refused"] += 1
        file.write_bytes(whole[file])
    assert verify_checkpoint(folder) == version
    told(**ends)
    assert not ends["USED"]


def test_reply_store(tmp_path: Path, amount: Amount, rng: random.Random, told: Tell) -> None:
    path, body = tmp_path / "store.sqlite", b'{"adapter_accuracy": 0.5}' * 20
    store = Store(path, "p")
    for n in range(5):
        store.put(f"k{n}", "d", body)
    store.close()
    whole, ends = path.read_bytes(), Counter[str]()
    for _ in range(amount(400)):
        damage(path, whole, rng)
        try:
            store = Store(path, "p")
        except ServeError:
            ends["refused"] += 1
            continue
        try:
            found = [store.get(f"k{n}", "d") for n in range(5)]
            assert set(found) <= {body, None}
            ends["trained_anew" if None in found else "not_touched"] += 1
        except ServeError:
            ends["refused"] += 1
        finally:
            store.close()
    told(**ends)
