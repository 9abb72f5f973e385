"""The real vLLM, started and ended by us, serves the built-in model and what rounds make of it.

    SEAL_VLLM_PYTHON=/opt/vllm/bin/python pytest tests/slow/test_vllm.py

The interpreter is one with vLLM; without the variable this one, if it has it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from seal.errors import ConfigError
from seal.inner.loop import LocalGenerator
from seal.models.load import LoadedModel, load_model
from seal.models.vllm_policy import own
from seal.models.vllm_server import require_vllm
from seal.records import Sampling, TrainingConfig
from seal.restem import ReSTEMOptimizer
from seal.sections import GenerationConfig
from seal.selection import Pair
from seal.writers import Writers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # two starts, of minutes on a busy machine
MODEL = "smollm2-135m-instruct"
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter with vLLM, or a skip."""
    path = os.environ.get("SEAL_VLLM_PYTHON", sys.executable)
    try:
        require_vllm(path)
    except ConfigError as error:
        pytest.skip(f"{error.message}: name one that has it in SEAL_VLLM_PYTHON")
    return path


@pytest.fixture
def base() -> LoadedModel:
    return load_model(MODEL, "cpu", "float32")


@pytest.fixture
def writers(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    settings = GenerationConfig(
        engine="vllm", python=python, engine_arguments=("--enforce-eager",), restart_after=1, timeout_s=600
    )
    made = Writers(settings, MODEL, rank=8, logs=tmp_path)
    yield made
    made.close()


def test_a_servers_texts_are_the_policys_own_before_and_after_two_rounds(
    writers: Writers, base: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each round is believed by its log-probabilities; the second needs a new start (one load a start)."""
    caplog.set_level(logging.INFO)
    prompts = [base.contract.user_turn(text) for text in ("Name a colour.", "What burns in the lamps?")]
    optimizer = ReSTEMOptimizer(
        TrainingConfig(rank=8, alpha=16.0, steps=6, learning_rate=2e-3, batch_size=1), adapters=True
    )
    policy, names = base, []
    for number in range(3):
        generator = writers.generator(policy)
        theirs = [c.text for c in generator.generate(prompts, GREEDY, [0, 1])]
        assert theirs == [c.text for c in LocalGenerator(policy).generate(prompts, GREEDY, [0, 1])]
        address = writers.url
        assert address is not None
        names.append(models(address))
        generator.close()  # type: ignore[attr-defined]
        assert models(address) == [MODEL]
        if number < 2:
            out = tmp_path / f"policy-{number + 1}"
            optimizer.update(policy, [Pair(prompts[1], f"Oil of nut number {number}.")], out, seed=number)
            policy = load_model(str(out), "cpu", "float32")
    assert [len(listed) for listed in names] == [1, 2, 2]
    assert names[1] != names[2]
    assert own(policy) != pytest.approx(own(base), abs=1e-2)
    assert caplog.text.count("vLLM serves") == 2
    writers.close()
    with pytest.raises(OSError, match="refused"):
        models(address)


def models(address: str) -> list[str]:
    """Names that the server lists."""
    with urllib.request.urlopen(f"{address}/models", timeout=60) as reply:
        return [model["id"] for model in json.loads(reply.read())["data"]]
