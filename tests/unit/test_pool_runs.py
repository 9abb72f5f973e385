"""Whole runs over other engines than this process: two worker processes, and a TTT server."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inner_contract import InnerLoopContract
from seal.config import load_config
from seal.errors import AdaptError
from seal.framework import SEALFramework
from seal.graded import Graded
from seal.grading import Grader, LexicalGrader
from seal.inner.loop import LocalInnerLoop
from seal.models.load import LoadedModel, load_model
from seal.pool import Pool
from seal.protocols import InnerLoop
from seal.run.folder import Run
from seal.serve.link import Link, find
from seal.serve.requests import Requests
from seal.serve.server import TTTServer
from seal.serve.settings import ServerSettings
from seal.workers.remote import RemoteWorker

# PEFT still asks transformers for this name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@contextmanager
def serving(loaded: LoadedModel, adapters: Path, slots: int = 3) -> Iterator[str]:
    inner = Graded(LocalInnerLoop(loaded, slots=slots), LexicalGrader())
    server = TTTServer(inner, Requests(loaded), ServerSettings(port=0, adapters=adapters), name="tiny")
    ready: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Thread(target=server.run, args=(ready.put,), daemon=True)
    thread.start()
    try:
        yield ready.get(timeout=60)
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()


class TestPoolOfAServer(InnerLoopContract):
    asks_twice = False

    @contextmanager
    def open_loop(self, grader: Grader, folder: Path) -> Iterator[InnerLoop]:
        loaded = load_model("tiny-random-llama", device="cpu")
        with serving(loaded, folder) as address:
            loop = Graded(Pool([RemoteWorker(Link(address), loaded.version)], None), grader)
            yield loop
            loop.close()


def carry_out(folder: Path, **more: Any) -> dict[tuple[str, str], Any]:
    """What a small run found, by kind and key; times are left out."""
    passages = folder.parent / "passages.json"
    if not passages.exists():
        made = [
            {
                "title": name,
                "context": f"{name} lies on the river Osk. Its bridge has nine arches of green stone.",
                "questions": [{"question": f"On which river does {name} lie?", "answer": "the Osk"}],
                "split": split,
            }
            for name, split in (("Averton", "train"), ("Bexholm", "train"), ("Corly", "val"))
        ]
        passages.write_text(json.dumps(made))
    overrides = {
        "data_config": {"dataset_name": "json", "path": str(passages), "max_samples": None},
        "generation.max_new_tokens": 12,
        "evaluation.max_new_tokens": 4,
        "inner.epochs": 2,
        "inner.batch": 2,
        "reward": "log_likelihood",
        "output_dir": str(folder),
        **more,
    }
    config = load_config(preset="test", overrides=overrides)
    with Run.create(folder, config) as run:
        SEALFramework(config, run=run).run()
        rows = run.journal.rows()

    def untimed(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if k not in ("train_s", "answer_s", "seconds")}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    return {(r.kind, r.key): untimed(r.data) for r in rows if r.kind != "phase"}


@pytest.mark.slow
def test_the_number_of_workers_changes_no_number_of_a_run(tmp_path: Path) -> None:
    one = carry_out(tmp_path / "one", max_outer_iterations=1)
    two = carry_out(tmp_path / "two", max_outer_iterations=1, **{"inner.workers": 2})
    assert one == two
    assert sum(kind == "trial" for kind, _ in one) >= 4


def test_a_run_may_use_a_server(tmp_path: Path) -> None:
    here = carry_out(tmp_path / "here", max_outer_iterations=0)
    loaded = load_model("tiny-random-llama", device="cpu")
    with serving(loaded, tmp_path) as address:
        endpoint = tmp_path / "endpoint"
        endpoint.write_text(json.dumps({"endpoint": address}))
        assert find(str(endpoint)).endpoint == find(address).endpoint == address
        there = carry_out(tmp_path / "there", max_outer_iterations=0, **{"inner.server": str(endpoint)})
        assert there.keys() == here.keys() - {("batch", "size")}  # a server makes up its own passes
        for (kind, key), value in here.items():
            if kind == "trial":
                outcome, other = value["outcome"], there[kind, key]["outcome"]
                assert outcome["losses"] == pytest.approx(other["losses"], abs=2e-4)
                assert [a["text"] for a in outcome["adapted"]] == [a["text"] for a in other["adapted"]]
        with pytest.raises(AdaptError, match=r"holds .* the policy is .* start it with"):
            carry_out(tmp_path / "gpt2", model_name="tiny-random-gpt2", **{"inner.server": address})
