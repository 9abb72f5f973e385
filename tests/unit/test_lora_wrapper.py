"""The single-adapter reference against PEFT, Hugging Face's schedulers and hand computations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, get_scheduler

from double_precision import SAME, DoublePrecision
from seal.errors import AdaptError, ConfigError, ModelError
from seal.models.builtin import FAMILIES, PREFIX, build
from seal.models.lora import LoRAWrapper, linear_modules, row_loss, target_modules
from seal.models.merge import merged
from seal.records import TrainingConfig, TrainingSequence
from seal.schedule import epoch_order, init_lora, learning_rate, step_sequences, total_steps

#: PEFT asks transformers for a deprecated name; the wrapper silences it, bare PEFT in these tests does not.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROWS = [
    TrainingSequence(tuple(b"the tower of Vell leans east")),
    TrainingSequence(tuple(b"Q: where? A: Vell"), loss=((10, 17),)),
    TrainingSequence(tuple(b"short")),
]


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = build(PREFIX + family)[0]
    return model.eval().requires_grad_(False).to(dtype)


@pytest.fixture
def double() -> Iterator[torch.dtype]:
    """The type of models that two ways must agree on to `SAME`."""
    with DoublePrecision():
        yield torch.float64


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() <= SAME * b.norm())


def digest(model: torch.nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ROWS[0].ids])).logits


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_all_means_every_linear_layer_but_the_head(family: str) -> None:
    names = target_modules(tiny(family), ["all"])
    assert len(names) == (4 if family == "gpt2" else 7) * 2
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_groups_share_out_all(family: str) -> None:
    model = tiny(family)
    attention, mlp = target_modules(model, ["attention"]), target_modules(model, ["mlp"])
    assert len(attention) == (2 if family == "gpt2" else 4) * 2
    assert sorted(attention + mlp) == sorted(target_modules(model, ["all"]))


def test_suffixes_keep_the_models_order() -> None:
    assert target_modules(tiny(), ["down_proj", "q_proj"])[:2] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
    ]
    assert target_modules(tiny("gpt2"), ["attn.c_proj"]) == [f"transformer.h.{i}.attn.c_proj" for i in (0, 1)]


def test_a_target_the_model_lacks_says_which_it_has() -> None:
    with pytest.raises(ConfigError, match=r"'gate_proj'.*GPT2LMHeadModel.*c_attn, c_fc, c_proj"):
        target_modules(tiny("gpt2"), ["gate_proj"])
    with pytest.raises(ConfigError, match="'proj'"):
        target_modules(tiny(), ["proj"])
    with pytest.raises(ConfigError, match="no LoRA targets"):
        target_modules(tiny(), [])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_learning_rates_are_hugging_faces(schedule: str, warmup: float) -> None:
    recipe = TrainingConfig(learning_rate=3e-4, schedule=schedule, warmup_ratio=warmup)  # type: ignore[arg-type]
    total = 10
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimiser, math.ceil(total * warmup), total)
    for step in range(total):
        assert learning_rate(recipe, step, total) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-15)
        optimiser.step()
        scheduler.step()


def test_steps_cover_every_row_once_an_epoch() -> None:
    recipe = TrainingConfig(epochs=3, batch_size=2, accumulation=2)
    steps = list(step_sequences(10, recipe, seed=5))
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    assert len(steps) == total_steps(10, recipe)
    epochs = [[i for step in steps[e * 3 : e * 3 + 3] for i in step] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[1] == epoch_order(10, recipe, 5, 1)
    assert epoch_order(10, TrainingConfig(shuffle=False), 5, 1) == list(range(10))


def test_start_values_are_kaiming_uniform_and_named() -> None:
    a = init_lora("x", 400, 16, seed=1)
    assert a.shape == (16, 400)
    assert a.abs().max() <= 0.05 < a.abs().max() * 1.01
    assert a.std() == pytest.approx(0.05 / math.sqrt(3), rel=0.02)
    assert torch.equal(a, init_lora("x", 400, 16, seed=1))
    assert not torch.equal(a, init_lora("y", 400, 16, seed=1))


def test_row_loss_counts_only_the_labelled_tokens(double: torch.dtype) -> None:
    model, row = tiny("llama", double), ROWS[1]
    scores = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    by_hand = -sum(scores[i - 1, row.ids[i]].item() for i in range(10, 17))
    assert row_loss(model, row).item() == pytest.approx(by_hand, rel=SAME)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2"])
def test_fit_is_peft_with_adamw(family: str, double: torch.dtype) -> None:
    """The same steps written out with PEFT alone, padded into batches with Hugging Face labels."""
    recipe = TrainingConfig(rank=4, alpha=8, epochs=2, batch_size=2, accumulation=1, learning_rate=2e-3)
    with LoRAWrapper.from_config(tiny(family, double), recipe) as wrapper:
        losses = wrapper.fit(ROWS, recipe, seed=3)
        ours = {name: (a.clone(), b.clone()) for name, (a, b) in wrapper.layers().items()}

    model = tiny(family, double)
    names = list(linear_modules(model))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=names, fan_in_fan_out=family == "gpt2")
    peft = get_peft_model(model, config)
    layers = {name: peft.base_model.model.get_submodule(name) for name in names}
    for name, layer in layers.items():
        weight = layer.lora_A["default"].weight
        weight.data.copy_(init_lora(name, weight.shape[1], 4, 3))
    factors = [p for p in peft.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(factors, lr=2e-3, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimiser, 0, 4)
    for chosen, loss in zip(step_sequences(3, recipe, 3), losses, strict=True):
        batch = [ROWS[i] for i in chosen]
        width = max(len(row.ids) for row in batch)
        ids = torch.tensor([row.ids + (0,) * (width - len(row.ids)) for row in batch])
        labels = torch.full_like(ids, -100)
        for n, row in enumerate(batch):
            labels[n, row.labelled()] = ids[n, row.labelled()]
        mask = torch.tensor([[int(i < len(row.ids)) for i in range(width)] for row in batch])
        theirs = peft(input_ids=ids, attention_mask=mask, labels=labels).loss
        assert loss == pytest.approx(theirs.item(), rel=SAME)
        theirs.backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad()
    for name, layer in layers.items():
        for mine, other in zip(ours[name], (layer.lora_A, layer.lora_B), strict=True):
            assert same(mine, other["default"].weight)


def test_the_model_comes_back_untouched() -> None:
    model = tiny()
    model.lm_head.weight.requires_grad_(True)
    before, state, out = digest(model), torch.random.get_rng_state(), logits(model)
    with LoRAWrapper(model, rank=4, alpha=8, dropout=0.3) as wrapper:
        wrapper.fit(ROWS, TrainingConfig(epochs=2), seed=0)
        assert not torch.equal(logits(wrapper.peft), out)
    assert digest(model) == before
    assert torch.equal(logits(model), out)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["model.embed_tokens.weight"]
    assert not hasattr(model, "peft_config")
    with pytest.raises(ModelError, match="merged or closed"):
        wrapper.peft  # noqa: B018


def test_a_failure_inside_the_block_still_restores() -> None:
    model = tiny()
    before = digest(model)
    with pytest.raises(AdaptError, match="the training loss became"), LoRAWrapper(model, rank=4) as wrapper:
        wrapper.fit(ROWS, TrainingConfig(learning_rate=1e30, max_grad_norm=0, epochs=3), seed=0)
    assert digest(model) == before


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_save_load_merge_agree_with_peft(family: str, double: torch.dtype, tmp_path: Path) -> None:
    recipe = TrainingConfig(rank=4, alpha=8, epochs=2)
    with LoRAWrapper.from_config(tiny(family, double), recipe) as wrapper:
        wrapper.fit(ROWS, recipe, seed=1)
        expected = logits(wrapper.peft)
        wrapper.save(tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(tiny(family, double), tmp_path / "adapter")
    assert same(logits(theirs), expected)

    model = tiny(family, double)
    layer = target_modules(model, ["mlp"])[0]
    weight = model.get_submodule(layer).weight.clone()
    again = LoRAWrapper.from_config(model, recipe)
    again.load(tmp_path / "adapter")
    assert same(logits(again.peft), expected)
    a, b = again.factors()[layer]
    delta = (b @ a) * 2.0
    folded = again.merge()
    assert folded is model
    assert same(logits(folded), expected)
    delta = delta.T if family == "gpt2" else delta
    assert same(folded.get_submodule(layer).weight, weight + delta)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_is_merge_for_the_length_of_a_block(family: str, double: torch.dtype) -> None:
    recipe = TrainingConfig(rank=4, alpha=8, epochs=2)
    model = tiny(family, double)
    before = digest(model)
    with LoRAWrapper.from_config(model, recipe) as wrapper:
        wrapper.fit(ROWS, recipe, seed=1)
        factors = wrapper.factors()
    with merged(model, factors, 2.0) as folded:
        inside = {name: tensor.clone() for name, tensor in folded.state_dict().items()}
    assert digest(model) == before
    again = LoRAWrapper.from_config(model, recipe)
    again.fit(ROWS, recipe, seed=1)
    for name, tensor in again.merge().state_dict().items():
        assert same(inside[name], tensor), name


def test_load_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with LoRAWrapper(tiny(), rank=4, alpha=8, targets=["attention"]) as wrapper:
        wrapper.save(tmp_path)
    with LoRAWrapper(tiny(), rank=2, alpha=8) as other, pytest.raises(ModelError, match="rank 4 and alpha 8"):
        other.load(tmp_path)
    with LoRAWrapper(tiny(), rank=4, alpha=8) as other, pytest.raises(ModelError, match="8 layers"):
        other.load(tmp_path)
    with (
        LoRAWrapper(tiny(), rank=4, alpha=8) as other,
        pytest.raises(ModelError, match="no PEFT LoRA"),
    ):
        other.load(tmp_path / "nowhere")


def test_adapter_is_fp32_on_a_bf16_model_and_dropout_is_seeded() -> None:
    recipe = TrainingConfig(rank=4, dropout=0.5, epochs=2)
    runs = []
    for _ in range(2):
        with LoRAWrapper.from_config(tiny().to(torch.bfloat16), recipe) as wrapper:
            assert {a.dtype for a, _ in wrapper.layers().values()} == {torch.float32}
            runs.append(wrapper.fit(ROWS, recipe, seed=2))
    assert runs[0] == runs[1]
    with LoRAWrapper(tiny().to(torch.bfloat16), rank=4) as wrapper:
        without = wrapper.fit(ROWS, recipe, seed=2)
    assert without[0] == runs[0][0]  # B is zero at the first step: dropout cannot show yet
    assert without[1:] != runs[0][1:]


def test_a_row_longer_than_the_window_is_refused() -> None:
    with LoRAWrapper(tiny(), rank=2) as wrapper, pytest.raises(AdaptError, match=r"4097 tokens.*4096"):
        wrapper.fit([TrainingSequence(tuple([65] * 4097))], TrainingConfig())


def test_a_second_adapter_is_refused() -> None:
    model = tiny()
    with LoRAWrapper(model, rank=2), pytest.raises(ModelError, match="already carries an adapter"):
        LoRAWrapper(model, rank=2)


def test_query_key_and_value_name_the_layer_that_holds_them_all() -> None:
    gpt2, llama = build("tiny-random-gpt2")[0], build("tiny-random-llama")[0]
    fused = target_modules(gpt2, ("c_attn",))
    assert len(fused) == 2
    assert target_modules(gpt2, ("q_proj", "v_proj")) == fused
    assert target_modules(gpt2, ("q_proj", "mlp")) == target_modules(gpt2, ("c_attn", "mlp"))
    assert all(name.endswith("q_proj") for name in target_modules(llama, ("q_proj",)))
