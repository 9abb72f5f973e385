"""A GPU and a CPU make the same of one tiny fp32 job: its losses, its adapter and its answers."""

from __future__ import annotations

import pytest
from benchmarks.devices import compare


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_gpu_and_a_cpu_agree(family: str) -> None:
    found = compare("cuda", family)
    assert found.losses <= 1e-4
    assert found.weights <= 1e-4
    assert found.log_likelihoods <= 1e-4
    assert found.same_texts


def test_a_device_agrees_with_itself_to_the_bit() -> None:
    found = compare("cpu")
    assert (found.losses, found.weights, found.log_likelihoods, found.same_texts) == (0, 0, 0, True)
