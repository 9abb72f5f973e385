# ruff: noqa: E501 (hostile bytes)
"""Files of strangers: nothing in them is run, nothing outside is touched, and a word says what is wrong."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from seal.config import load_config
from seal.data.documents.library import read_library
from seal.data.loader import load_tasks
from seal.errors import SealError
from seal.models.adapter_reader import read_adapter
from seal.models.load import load_model
from seal.run.folder import Run
from seal.taught.model import TaughtModel

pytestmark = pytest.mark.slow

Write = Callable[[Path], None]


class Bomb:
    """Unpickled, it makes the file CANARY in the working directory."""

    def __reduce__(self) -> Any:
        return os.system, ("touch CANARY",)


PICKLE = pickle.dumps(Bomb())
TAGS = ["!!python/object/apply:os.system ['touch CANARY']", "!!python/name:os.system", "!!python/module:os",
        "!!python/object/new:os.system ['touch CANARY']", "!!python/object:subprocess.Popen {args: [touch, CANARY]}",
        "!include /etc/passwd", "!ENV ${HOME}"]  # fmt: skip
TARGETS = [{"_target_": "os.system", "command": "touch CANARY"}, {"domain": "os:system"}, {"reward": "subprocess:Popen"},
           {"data_config": {"loader": "os:system", "options": {"command": "touch CANARY"}}},
           {"domain": "builtins:eval"}, {"reward": "os:_exit"}, {"data_config": {"dataset_name": "os:system"}}]  # fmt: skip
SMALL = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
}
LLAMA = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SMALL}).encode()
CONFIG = {
    "architectures": ["Evil"],
    "model_type": "evil",
    "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
}
BOMB_XML = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12)
)


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_xml", ".xml"), content)
    return out.getvalue()


def array() -> bytes:
    out = io.BytesIO()
    numpy.save(out, numpy.array([Bomb()], dtype=object), allow_pickle=True)
    return out.getvalue()


DOCUMENTS = {
    "zip-bomb.docx": zipped(word__document_xml=b"<w>" + b" " * 60_000_000),
    "entities.docx": zipped(word__document_xml=f"{BOMB_XML}]><x>&m;</x>".encode()),
    "no-document.docx": zipped(other=b"x"), "no-zip.docx": b"PK\x03\x04" + bytes(100), "cut.docx": zipped(word__document_xml=b"<w/>")[:-30],
    "no.pdf": b"%PDF-1.7\n" + bytes(1000), "loop.pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 1 0 R/Kids[1 0 R]>>endobj\ntrailer<</Root 1 0 R>>",
    "deep.json": b"[" * 100_000, "wide.json": b'{"a":' * 50_000, "number.json": b'[{"title": ' + b"9" * 10_000 + b"}]",
    "no.parquet": b"PAR1" + bytes(100) + b"PAR1", "pickle.parquet": PICKLE, "pickle.json": PICKLE, "pickle.txt": PICKLE,
    "null.csv": b"title,context\n\x00,\x00\n", "wide.csv": b"a" * 2_000_000, "null.jsonl": b"\x00" * 100, "surrogate.json": b'[{"title": "\\ud800", "context": "x", "questions": []}]',
}  # fmt: skip


def text(name: str, content: str) -> Write:
    return lambda folder: (folder / name).write_text(content) and None


def files(**contents: bytes) -> Write:
    def write(folder: Path) -> None:
        for name, content in contents.items():
            (folder / name.replace("__", ".")).write_bytes(content)

    return write


def header(size: int, body: bytes = b"{}") -> bytes:
    return struct.pack("<Q", size) + body


ADAPTER = json.dumps({"r": 1, "lora_alpha": 1, "peft_type": "LORA"}).encode()
MODELS: dict[str, Write] = {
    "code": files(config__json=json.dumps(CONFIG).encode(), evil__py=b"open('CANARY', 'w')"),
    "code of a known family": files(config__json=json.dumps(CONFIG | {"model_type": "llama", **SMALL}).encode(), evil__py=b"open('CANARY', 'w')", model__safetensors=header(2)),
    "pickled weights": files(config__json=LLAMA, pytorch_model__bin=PICKLE),
    "huge header": files(config__json=LLAMA, model__safetensors=header(1 << 62)),
    "header past the end": files(config__json=LLAMA, model__safetensors=header(5000)),
    "tensor past the end": files(config__json=LLAMA, model__safetensors=header(69, b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}')),
    "deep config": files(config__json=b"[" * 100_000),
    "no config": files(model__safetensors=header(2)),
    "config of another kind": files(config__json=b"7"),
}  # fmt: skip
GGUFS = {
    "counts": b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62), "string": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60),
    "array": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 4, 1 << 60), "empty": b"", "pickle": PICKLE,
    "version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
}  # fmt: skip
ADAPTERS: dict[str, Write] = {
    "pickled": files(adapter_config__json=ADAPTER, adapter_model__bin=PICKLE),
    "pickle by another name": files(adapter_config__json=ADAPTER, adapter_model__safetensors=PICKLE),
    "huge header": files(adapter_config__json=ADAPTER, adapter_model__safetensors=header(1 << 62)),
    "config of another kind": files(adapter_config__json=b"[]"),
    "numpy": files(adapter_config__json=ADAPTER, adapter_model__safetensors=array()),
}  # fmt: skip


def attempts(folder: Path) -> dict[str, Callable[[], Any]]:
    """Every hostile file, and what reads it."""
    found: dict[str, Callable[[], Any]] = {}

    def add(name: str, write: Write, read: Callable[[Path], Any]) -> None:
        place = folder / name.replace(" ", "-")
        place.mkdir()
        write(place)
        found[name] = lambda: read(place)

    for n, tag in enumerate(TAGS):
        add(f"tag {n}", text("c.yaml", f"model_name: {tag}\n"), lambda p: load_config(p / "c.yaml"))
    for n, config in enumerate(TARGETS):

        def built(place: Path) -> None:
            from seal.framework import SEALFramework

            SEALFramework(load_config(place / "c.json", "test", {"output_dir": str(place / "run")}))

        add(f"target {n}", text("c.json", json.dumps(config)), built)
    for name, write in MODELS.items():
        add(f"model {name}", write, lambda p: load_model(str(p), device="cpu"))
    for name, content in GGUFS.items():
        add(f"gguf {name}", files(m__gguf=content), lambda p: load_model(str(p / "m.gguf"), device="cpu"))
    for name, write in ADAPTERS.items():
        add(f"adapter {name}", write, read_adapter)
    for name, content in DOCUMENTS.items():
        add(
            f"data {name}",
            lambda p, n=name, c=content: (p / n).write_bytes(c) and None,
            lambda p, n=name: load_tasks(p / n),
        )
        add(
            f"document {name}",
            lambda p, n=name, c=content: (p / n).write_bytes(c) and None,
            lambda p: read_library((str(p),)),
        )
    return found


def test_no_file_of_a_stranger_runs_or_deletes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "letter").write_text("dear")
    tried, accepted, slowest = attempts(tmp_path), list[str](), 0.0
    for name, read in tried.items():
        began = time.process_time()
        try:
            read()
            accepted.append(name)
        except SealError:
            pass
        except Exception as error:
            raise AssertionError(
                f"{name}: {type(error).__name__} is no word for a person: {error}"
            ) from error
        slowest = max(slowest, time.process_time() - began)
        assert not list(tmp_path.rglob("CANARY")), name
    assert (keep / "letter").read_text() == "dear"
    told(refused=len(tried) - len(accepted), left_out_or_read_as_text=len(accepted), slowest_s=slowest)
    assert all(name.startswith(("document", "data")) for name in accepted), accepted


@pytest.mark.parametrize("name", ["../../keep", "/etc/passwd", "link"])
def test_a_taught_model_names_nothing_outside_itself(name: str, tmp_path: Path) -> None:
    """Paths in its manifest lead to files inside its folder, or nowhere."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    known = {
        "base": "tiny-random-llama",
        "base_version": "x",
        "chat": False,
        "question_prompt": "",
        "apart": False,
        "training": {},
    }
    adapter = {"name": "a", "folder": name, "sha256": "0", "passages": []}
    batch = {
        "number": 1,
        "documents": [],
        "passages": 0,
        "texts": 0,
        "updates": 0,
        "seconds": 0,
        "adapters": [adapter],
        "scores": [],
        "routed": None,
    }
    (folder / "taught.json").write_text(json.dumps(known | {"batches": [batch]}))
    loaded = load_model("tiny-random-llama", device="cpu")
    with pytest.raises(SealError):
        TaughtModel(folder, loaded=loaded)


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "journal.jsonl", "journal.jsonl.torn", "checkpoints", "logs", ".journal.jsonl.lock"],
)
def test_a_run_folder_with_a_link_is_refused(name: str, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", load_config(preset="test")).close()
    target = tmp_path / "keep"
    target.mkdir()
    (target / "letter").write_text("dear")
    place = tmp_path / "run" / name
    if place.is_dir():
        place.rmdir()
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(target if place.suffix == "" and not name.startswith(".") else target / "letter")
    with pytest.raises(SealError):
        Run.open(tmp_path / "run").close()
    assert (target / "letter").read_text() == "dear"
