"""Adapters that a server refuses, has already, or takes and does not use are found out every time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_vllm import FakeVLLM, drawn, make_world, save
from loopback_http import answering
from seal.errors import GenerationError
from seal.models.vllm_policy import VLLMPolicy

MODES = ("404", "duplicate", "unlisted", "ignores", "stale", "good")


def test_what_is_not_really_served_is_found_out(
    tiny: Any, tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    server, ends, count = FakeVLLM(), Counter[str](), amount(200)
    with answering(lambda path, _, body: server.answer(path, body)) as address:
        server.url = f"{address}/v1"
        world = make_world(server, tiny, tmp_path)
        for n in range(count):
            server.mode = MODES[n % len(MODES)]
            base = server.names["base"]
            adapter = save(base, drawn(base, rng.randrange(10, 2**31)), tmp_path / f"n{n}")
            policy, served = server.made(str(adapter)), VLLMPolicy(server.url, "base")
            if server.mode == "good":
                served.load(adapter, f"run-{n}", policy)
                served.remove()
            else:
                with pytest.raises(GenerationError):
                    served.load(adapter, f"run-{n}", policy)
            assert set(server.names) == {"base", "old"}, "nothing is left on the server"
            ends[f"mode_{server.mode}"] += 1
    assert world.adapter.is_dir()
    told(**ends)
