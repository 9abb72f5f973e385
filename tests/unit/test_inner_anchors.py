"""Anchors: the KL to the model without the adapter beside the loss of what is learned, as in plain torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from double_precision import SAME, DoublePrecision, tiny_double
from seal.errors import AdaptError
from seal.inner.adapt import train
from seal.inner.fit import Trained
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel, load_model
from seal.models.lora import LoRAWrapper
from seal.records import AdaptJob, TrainingConfig, TrainingSequence
from seal.schedule import learning_rate, step_sequences, total_steps
from seal.seeds import derive


def rows(seed: int, n: int) -> tuple[TrainingSequence, ...]:
    rng = random.Random(seed)
    made = [tuple(rng.randrange(4, 250) for _ in range(rng.randint(6, 24))) for _ in range(n)]
    return tuple(TrainingSequence(ids, ((3, len(ids)),) if i % 2 else ()) for i, ids in enumerate(made))


def job(name: str, seed: int, anchors: int, weight: float = 1.0, **training: object) -> AdaptJob:
    config = TrainingConfig(**{"rank": 4, "alpha": 8.0, "learning_rate": 3e-3} | training)  # type: ignore[arg-type]
    return AdaptJob(
        name, rows(seed, 3), config, (), seed, anchors=rows(seed + 50, anchors), anchor_weight=weight
    )


def run(loaded: LoadedModel, jobs: Sequence[AdaptJob], budget: int = 4096) -> dict[str, Trained]:
    return {done.job.id: done for done in train(Runtime(loaded.model), jobs, 4, budget)}


def by_hand(loaded: LoadedModel, j: AdaptJob) -> tuple[list[float], Tensor]:
    """Losses and weights of one job: PEFT, autograd through cross-entropy and KL, torch's AdamW."""
    total = total_steps(len(j.sequences), j.training)
    anchors = step_sequences(len(j.anchors), replace(j.training, steps=total), derive(j.seed, "anchors"))
    with LoRAWrapper.from_config(loaded.model, j.training) as wrapper:
        wrapper.reset(j.seed)
        wrapper.peft.eval()
        weights = [factor for pair in wrapper.layers().values() for factor in pair]
        optimiser = torch.optim.AdamW(weights, weight_decay=j.training.weight_decay)
        losses = []

        def log_p(row: TrainingSequence) -> Tensor:
            logits = wrapper.peft(input_ids=torch.tensor([row.ids])).logits[0]
            return logits[torch.tensor(row.labelled()) - 1].log_softmax(-1)

        for step, chosen in enumerate(step_sequences(len(j.sequences), j.training, j.seed)):
            learned = [j.sequences[i] for i in chosen]
            targets = torch.tensor([row.ids[i] for row in learned for i in row.labelled()])
            loss = cross_entropy(torch.cat([log_p(row) for row in learned]), targets)
            held = [j.anchors[i] for i in next(anchors)]
            with torch.no_grad(), wrapper.peft.disable_adapter():
                frozen = torch.cat([log_p(row) for row in held])
            adapted = torch.cat([log_p(row) for row in held])
            loss = loss + j.anchor_weight * kl_div(adapted, frozen, log_target=True, reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, j.training.max_grad_norm)
            optimiser.param_groups[0]["lr"] = learning_rate(j.training, step, total)
            optimiser.step()
            losses.append(loss.item())
        return losses, torch.cat([w.detach().flatten() for w in weights])


def weights_of(done: Trained, wrapper_order: Sequence[str]) -> Tensor:
    assert done.adapter is not None
    factors = done.adapter.factors
    return torch.cat([part.detach().flatten() for name in wrapper_order for part in factors[name]])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_anchors_equal_plain_torch_in_fp64(family: str) -> None:
    """Alone, beside jobs with and without anchors, and in passes so small that anchors have their own."""
    first = job("a", 1, 5, 2.0, epochs=3, batch_size=2)
    second = job("b", 2, 2, 0.5, steps=5)
    with DoublePrecision():
        loaded = tiny_double(family)
        with LoRAWrapper.from_config(loaded.model, first.training) as wrapper:
            order = list(wrapper.layers())
        together = run(loaded, [first, replace(first, id="c", anchors=()), second])
        small = run(loaded, [second, first], budget=30)
        for j in (first, second):
            losses, weights = by_hand(loaded, j)
            for done in (together[j.id], small[j.id], run(loaded, [j])[j.id]):
                assert done.losses == pytest.approx(losses, rel=SAME)
                assert float((weights_of(done, order) - weights).norm() / weights.norm()) < SAME


def test_jobs_without_anchors_are_what_they_were_to_the_last_bit() -> None:
    loaded = load_model("tiny-random-llama", device="cpu", dtype="bfloat16")
    plain = job("a", 1, 0, epochs=3)
    weightless = job("b", 1, 4, 0.0, epochs=3)
    alone, held = run(loaded, [plain])["a"], run(loaded, [weightless])["b"]
    assert alone.losses == pytest.approx(held.losses, rel=1e-3), "a weight of 0 adds nothing"
    assert run(loaded, [plain])["a"].losses == alone.losses


def test_anchors_keep_the_model_near_itself_where_it_is_not_taught() -> None:
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    free = job("free", 3, 0, steps=40, learning_rate=2e-2)
    held = replace(free, id="held", anchors=rows(53, 4), anchor_weight=4.0)
    done = run(loaded, [free, held])

    def drift(trained: Trained) -> float:
        """Sum over the anchors of their mean KL from the model without the adapter."""
        assert trained.adapter is not None
        with LoRAWrapper.from_config(loaded.model, free.training) as wrapper, torch.no_grad():
            for name, pair in wrapper.layers().items():
                for mine, learned in zip(pair, trained.adapter.factors[name], strict=True):
                    mine.copy_(learned)
            total = 0.0
            for row in held.anchors:
                ids = torch.tensor([row.ids])
                adapted = wrapper.peft(input_ids=ids).logits[0].log_softmax(-1)
                with wrapper.peft.disable_adapter():
                    frozen = wrapper.peft(input_ids=ids).logits[0].log_softmax(-1)
                total += float(kl_div(adapted, frozen, log_target=True, reduction="batchmean"))
            return total

    assert drift(done["held"]) < 0.5 * drift(done["free"])
    assert done["held"].tokens > done["free"].tokens


def test_an_anchor_that_the_model_cannot_read_ends_its_job_alone() -> None:
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    bad = replace(job("bad", 1, 1, epochs=1), anchors=(TrainingSequence((5, 10**6)),))
    done = run(loaded, [bad, job("good", 2, 1, epochs=1)])
    assert isinstance(done["bad"].error, AdaptError)
    assert done["good"].error is None
