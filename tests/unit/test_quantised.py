"""Adapters on a quantised base: the engine equals PEFT on the same one, one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seal.errors import MissingExtra, ModelError
from seal.inner.adapt import train
from seal.inner.loop import LocalInnerLoop
from seal.inner.memory import footprint
from seal.inner.runtime import Runtime
from seal.models import quantise as quantising
from seal.models.load import load_model
from seal.models.lora import LoRAWrapper, linear_modules
from seal.models.quantise import QUANTISED, dequantised, is_quantised, stored_bytes
from seal.records import AdaptJob, EvalPrompt, Sampling, TrainingConfig, TrainingSequence

pytestmark = [
    pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torchao"),
]
CONFIG = TrainingConfig(rank=4, alpha=8, epochs=3, learning_rate=1e-3)


@pytest.fixture(params=sorted(QUANTISED))
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(QUANTISED[request.param], reason="the extra `quantised` is not installed")
    return str(request.param)


def jobs() -> list[AdaptJob]:
    def rows(i: int, *lengths: int) -> tuple[TrainingSequence, ...]:
        return tuple(TrainingSequence(tuple(5 + (k + i * 31) % 200 for k in range(n))) for n in lengths)

    each = (rows(0, 30, 12), rows(1, 25), rows(2, 7, 44, 18))
    return [AdaptJob(str(i), own, CONFIG, (), i) for i, own in enumerate(each)]


def change(factors: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    """What the adapters add to every layer's weight."""
    return torch.cat([(b.double() @ a.double()).flatten() for _, (a, b) in sorted(factors.items())])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_engine_equals_peft_on_the_same_quantised_base(family: str, kind: str) -> None:
    loaded = load_model(f"tiny-random-{family}", device="cpu", dtype=kind)
    assert loaded.quantised == kind
    ours = {t.job.id: t for t in train(Runtime.of(loaded.model), jobs(), 3, 512)}
    for job in jobs():
        with LoRAWrapper.from_config(loaded.model, CONFIG) as peft:
            peft.reset(job.seed)
            losses = peft.fit(job.sequences, CONFIG, job.seed)
            reference = change(peft.factors())
        done = ours[job.id]
        assert done.adapter is not None
        assert done.losses == pytest.approx(losses, rel=1e-4)
        mine = change(done.adapter.factors)
        assert float((mine - reference).norm()) <= 1e-3 * float(reference.norm())


def test_layers_are_quantised_and_nothing_else(kind: str) -> None:
    plain = load_model("tiny-random-llama", device="cpu", dtype="float32")
    loaded = load_model("tiny-random-llama", device="cpu", dtype=kind)
    layers = linear_modules(loaded.model)
    for name, module in linear_modules(plain.model).items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        assert is_quantised(layers[name])
        assert not is_quantised(module)
        off = (dequantised(layers[name]) - weight).norm() / weight.norm()
        assert 0 < float(off) < {"int8": 0.01, "nf4": 0.12}[kind]
    for name, parameter in plain.model.named_parameters():
        if not name.endswith("_proj.weight"):
            assert torch.equal(parameter, loaded.model.get_parameter(name))
    on, dtype = torch.device("cpu"), torch.float32
    assert footprint(loaded.model, CONFIG, on, dtype) == footprint(plain.model, CONFIG, on, dtype)


def test_a_whole_job_answers(kind: str, tmp_path: Path) -> None:
    loaded = load_model("tiny-random-llama", device="cpu", dtype=kind)
    prompt = EvalPrompt("q", tuple(range(5, 25)), Sampling(0.0, max_new_tokens=4), reference=(7, 8))
    first = jobs()[0]
    job = AdaptJob("a", first.sequences, CONFIG, (prompt,), 1, save_to=str(tmp_path / "adapter"))
    (outcome,) = LocalInnerLoop(loaded, slots=2, token_budget=64).run([job])
    assert outcome.error is None
    assert outcome.adapted[0].n_tokens == 4
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_what_cannot_be_quantised_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match="nf4 needs bitsandbytes"):
        load_model("tiny-random-llama", device="cpu", dtype="nf4")
    monkeypatch.setattr(quantising, "need", lambda module, use: None)
    with pytest.raises(ModelError, match="Conv1D, which has no int8"):
        load_model("tiny-random-gpt2", device="cpu", dtype="int8")
    with pytest.raises(ModelError, match="unknown dtype 'int3'"):
        load_model("tiny-random-llama", device="cpu", dtype="int3")


def test_what_a_base_takes_is_a_sum() -> None:
    """q, k, v, o, gate, up and down of two layers in 4 bits with their scales; all else in bf16."""
    assert quantising.layer_shape(nn.Linear(3, 5)) == (5, 3)
    model = load_model("tiny-random-llama", device="cpu", dtype="float32").model
    linear = 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128)
    others = sum(p.numel() for p in model.parameters()) - linear
    assert stored_bytes(model, torch.bfloat16, "nf4") == pytest.approx(0.52 * linear + 2 * others, abs=1)
    assert stored_bytes(model, torch.bfloat16, "bfloat16") == 2 * (linear + others)
