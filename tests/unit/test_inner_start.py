"""Training on from a saved adapter, and answers that are watched while they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seal.inner.adapter_files import load_adapter
from seal.inner.decode import Request, TokenCompletion
from seal.inner.loop import LocalInnerLoop
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel
from seal.models.lora import LoRAWrapper, row_loss
from seal.records import AdaptJob, Sampling, TrainingConfig, TrainingSequence

# PEFT still asks transformers for this name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TRAINING = TrainingConfig(rank=4, alpha=8, epochs=5, learning_rate=1e-2)
ROWS = (
    TrainingSequence(tuple(b"The gate of Orvane closes at nine.")),
    TrainingSequence(tuple(b"Mira keeps the key.")),
)


def trained(loaded: LoadedModel, folder: Path) -> Path:
    (outcome,) = LocalInnerLoop(loaded).run([AdaptJob("a", ROWS, TRAINING, (), 1, str(folder))])
    assert outcome.error is None
    return folder


def test_training_goes_on_from_a_saved_adapter(tiny_family: LoadedModel, tmp_path: Path) -> None:
    first = trained(tiny_family, tmp_path / "first")
    still = TrainingConfig(rank=4, alpha=8, epochs=1, learning_rate=1e-12, shuffle=False)
    job = AdaptJob("b", ROWS, still, (), 2, str(tmp_path / "second"), start_from=str(first))
    (outcome,) = LocalInnerLoop(tiny_family).run([job])
    runtime = Runtime.of(tiny_family.model)
    before, after = (load_adapter(runtime, folder).weights for folder in (first, tmp_path / "second"))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    assert before.abs().max() > 1e-2
    with LoRAWrapper.from_config(tiny_family.model, TRAINING) as peft:
        peft.load(first)
        expected = [row_loss(peft.peft, row).item() / len(row.labelled()) for row in ROWS]
    assert outcome.losses == pytest.approx(expected, rel=1e-4)


def test_an_adapter_that_does_not_fit_fails_its_job_alone(
    tiny: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    first = trained(tiny("llama"), tmp_path / "first")
    jobs = [
        AdaptJob("rank", ROWS, TrainingConfig(rank=8, epochs=1), (), 1, start_from=str(first)),
        AdaptJob("gone", ROWS, TRAINING, (), 1, start_from=str(tmp_path / "gone")),
        AdaptJob("good", ROWS, TRAINING, (), 1, start_from=str(first)),
    ]
    outcomes = {o.job_id: o.error for o in LocalInnerLoop(tiny("llama")).run(jobs)}
    assert outcomes["good"] is None
    assert outcomes["rank"] is not None
    assert "rank 4" in outcomes["rank"].message
    assert outcomes["gone"] is not None
    assert "no PEFT LoRA adapter" in outcomes["gone"].message


def test_an_answer_can_be_watched(tiny: Callable[..., LoadedModel]) -> None:
    loop = LocalInnerLoop(tiny("llama"))
    greedy = Sampling(temperature=0.0, max_new_tokens=9)
    requests = [Request(tuple(b"The gate"), None, greedy), Request(tuple(b"Mira keeps"), None, greedy)]
    seen: list[list[list[int]]] = []

    def watch(written: list[TokenCompletion]) -> None:
        seen.append([list(w.ids) for w in written])

    done = loop._decoder.run(requests, watch)
    assert [w.ids for w in done] == [w.ids for w in loop._decoder.run(requests)]
    assert [len(row) for row in seen[0]] == [1, 1]
    for earlier, later in zip(seen, [*seen[1:], [w.ids for w in done]], strict=True):
        assert all(b[: len(a)] == a for a, b in zip(earlier, later, strict=True))
    assert [len(row) for row in seen[-1]] == [8, 8]
