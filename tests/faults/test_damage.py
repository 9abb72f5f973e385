"""Truncations and bit flips of every file that a resumed run or a server reads: none of it is used."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from seal.config import load_config
from seal.data.load_report import Tally, note_loaded
from seal.data.loader import load_tasks, report_of
from seal.errors import DataError, ModelError, RunError, ServeError
from seal.inner.adapter import Adapter
from seal.inner.adapter_files import save_adapter
from seal.inner.runtime import Runtime
from seal.models.adapter_reader import read_adapter
from seal.models.checkpoint import cached_checkpoint, verify_checkpoint, write_checkpoint
from seal.models.gguf_writer import write_gguf
from seal.models.load import LoadedModel, load_model
from seal.records import TrainingConfig
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


def test_adapter(
    tmp_path: Path, tiny: Callable[..., LoadedModel], amount: Amount, rng: random.Random, told: Tell
) -> None:
    """Damage is refused, or in what has no part in the numbers."""
    loaded, folder = tiny(), tmp_path / "adapter"
    made = Adapter(Runtime.of(loaded.model), TrainingConfig(rank=2, alpha=8.0), seed=1)
    save_adapter(made, loaded, folder)
    whole = {file: file.read_bytes() for file in folder.iterdir()}
    want, ends = read_adapter(folder), Counter[str]()
    for _ in range(amount(300)):
        file = rng.choice(list(whole))
        damage(file, whole[file], rng)
        try:
            found = read_adapter(folder)
            same = (found.rank, found.alpha, list(found.factors)) == (
                want.rank,
                want.alpha,
                list(want.factors),
            )
            same = same and all(
                torch.equal(a, b)
                for n in want.factors
                for a, b in zip(found.factors[n], want.factors[n], strict=True)
            )
            ends["same_numbers" if same else "USED"] += 1
        except ModelError:
            ends["refused"] += 1
        file.write_bytes(whole[file])
    told(**ends)
    assert not ends["USED"]


def test_data_set(tmp_path: Path, amount: Amount, rng: random.Random, told: Tell) -> None:
    """A run that began with the whole file goes on with the same tasks, or not at all."""
    file, ends = tmp_path / "data.json", Counter[str]()
    records = [
        {"title": f"T{n}", "context": f"Part {n}.", "questions": [{"question": "Which?", "answer": f"{n}"}]}
        for n in range(6)
    ]
    file.write_text(json.dumps(records))
    whole = file.read_bytes()
    with Run.create(tmp_path / "run", load_config(preset="test")) as run:
        tasks = load_tasks(file)
        note_loaded(run, report_of("all", tasks, Tally()))
        for _ in range(amount(300)):
            damage(file, whole, rng)
            try:
                found = load_tasks(file)
                note_loaded(run, report_of("all", found, Tally()))
                ends["same_tasks" if found == tasks else "USED"] += 1
            except DataError:
                ends["cannot_be_read"] += 1
            except RunError:
                ends["not_what_the_run_began_with"] += 1
    told(**ends)
    assert not ends["USED"]


def test_model_cache(tmp_path: Path, amount: Amount, rng: random.Random, told: Tell) -> None:
    """A damaged entry is built again."""
    folder, built = tmp_path / "model", []

    def write(target: Path) -> None:
        (target / "config.json").write_text('{"hidden_size": 4}')
        (target / "model.safetensors").write_bytes(bytes(range(256)) * 4)
        built.append(target)

    cached_checkpoint(folder, write, "building")
    whole = {file: file.read_bytes() for file in folder.iterdir()}
    count = amount(100)
    for n in range(count):
        file = rng.choice(list(whole))
        damage(file, whole[file], rng)
        cached_checkpoint(folder, write, "building")
        assert {f: f.read_bytes() for f in folder.iterdir()} == whole or file.name == "manifest.json"
        assert n + 2 - count <= len(built) <= n + 2
    told(built_again=len(built) - 1, not_touched_by_it=count - len(built) + 1)


def test_gguf(
    tmp_path: Path, tiny: Callable[..., LoadedModel], amount: Amount, rng: random.Random, told: Tell
) -> None:
    """A damaged file is refused, or another model by its version, which is that of the whole file."""
    loaded, file, ends = tiny(), tmp_path / "tiny.gguf", Counter[str]()
    write_gguf(loaded.model, loaded.tokenizer, file, "f16", "tiny")
    whole, version = file.read_bytes(), load_model(str(file), device="cpu").version
    for _ in range(amount(100)):
        damage(file, whole, rng)
        if file.read_bytes() == whole:
            continue
        try:
            assert load_model(str(file), device="cpu").version != version
            ends["another_model"] += 1
        except ModelError:
            ends["refused"] += 1
    told(**ends)
