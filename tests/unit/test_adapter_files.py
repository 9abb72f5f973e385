"""Adapters in and out of PEFT's folders: the numbers stay the same, and what does not fit is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from double_precision import SAME, DoublePrecision
from seal.errors import AdaptError, ModelError
from seal.inner.adapter import Adapter
from seal.inner.adapter_files import load_adapter, save_adapter
from seal.inner.packing import pack
from seal.inner.runtime import Runtime
from seal.inner.stack import stack_up
from seal.models.load import LoadedModel
from seal.models.lora import LoRAWrapper, target_modules
from seal.records import TrainingConfig

# PEFT still asks transformers for this name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = tuple(range(5, 95))


def trained(loaded: LoadedModel, targets: tuple[str, ...] = ("all",), alpha: float = 6.0) -> Adapter:
    """An adapter whose B is not zero."""
    made = Adapter(Runtime.of(loaded.model), TrainingConfig(rank=3, alpha=alpha, targets=targets), seed=1)
    for _, b_OR in made.factors.values():
        b_OR.copy_(torch.randn(b_OR.shape) * 0.05)
    return made


def engine_logits(loaded: LoadedModel, adapter: Adapter | None) -> Tensor:
    """(T, V) of `IDS` through the engine."""
    runtime = Runtime.of(loaded.model)
    places = stack_up(runtime, [adapter]) if adapter else [None]
    with torch.no_grad(), runtime.active(), DoublePrecision():
        return runtime.forward(pack([IDS], places, runtime.device), torch.arange(len(IDS)))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    with DoublePrecision():
        out: Tensor = model(torch.tensor([IDS])).logits[0]
    return out


def relative(a: Tensor, b: Tensor) -> float:
    """Greatest difference, as a share of the greatest logit."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture
def double(tiny_family: LoadedModel) -> LoadedModel:
    """The tiny model of each family in turn, in fp64."""
    tiny_family.model.double()
    return tiny_family


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "adapter"


def test_peft_loads_what_was_saved(
    double: LoadedModel, tiny: Callable[..., LoadedModel], folder: Path
) -> None:
    from peft import PeftModel

    adapter = trained(double)
    save_adapter(adapter, double, folder)
    ours, bare = engine_logits(double, adapter), logits(double.model)
    fresh = tiny(double.source.removeprefix("tiny-random-")).model.double()
    peft = PeftModel.from_pretrained(fresh, str(folder))
    assert relative(ours, logits(peft)) < SAME
    assert relative(ours, logits(peft.merge_and_unload())) < SAME
    assert relative(ours, bare) > 0.01
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["adapter"], "a staging folder was left"


def test_a_saved_adapter_loads_again_to_the_bit(tiny_family: LoadedModel, folder: Path) -> None:
    adapter = trained(tiny_family, ("attention",), alpha=5.5)
    save_adapter(adapter, tiny_family, folder)
    again = load_adapter(Runtime.of(tiny_family.model), folder)
    assert again.layout is adapter.layout
    assert list(again.layout.layers) == target_modules(tiny_family.model, ("attention",))
    assert again.scale == adapter.scale == 5.5 / 3
    assert torch.equal(again.weights, adapter.weights)


def peft_folder(loaded: LoadedModel, folder: Path, **changes: Any) -> Any:
    """A random adapter that PEFT itself made and saved; returns its model."""
    from peft import LoraConfig, get_peft_model

    gpt2 = loaded.model.config.model_type == "gpt2"
    names = ["c_attn", "c_fc"] if gpt2 else ["q_proj", "down_proj"]
    settings = {"r": 5, "lora_alpha": 7, "target_modules": names, "init_lora_weights": False} | changes
    made = get_peft_model(loaded.model, LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=gpt2, **settings))
    made.eval().save_pretrained(str(folder))
    return made


def test_adapters_that_peft_made_can_be_loaded(
    double: LoadedModel, tiny: Callable[..., LoadedModel], folder: Path
) -> None:
    other = tiny(double.source.removeprefix("tiny-random-"))
    other.model.double()
    theirs = logits(peft_folder(other, folder))
    adapter = load_adapter(Runtime.of(double.model), folder)
    assert len(adapter.layout.layers) == 4
    assert relative(engine_logits(double, adapter), theirs) < SAME
    assert relative(logits(double.model), theirs) > 0.01


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
def test_what_is_not_plain_lora_is_refused(
    tiny: Callable[..., LoadedModel], folder: Path, changes: dict[str, Any], named: str
) -> None:
    peft_folder(tiny("qwen2"), folder, **changes)
    loaded = tiny("qwen2")
    with pytest.raises(ModelError, match=named) as caught:
        load_adapter(Runtime.of(loaded.model), folder)
    assert "only plain LoRA" in caught.value.fix
    wrapper = LoRAWrapper(loaded.model, rank=5, alpha=7, targets=["q_proj", "down_proj"])
    with wrapper, pytest.raises(ModelError, match=named):
        wrapper.load(folder)


def test_rank_stabilised_scaling_is_honoured_by_both_readers(
    tiny: Callable[..., LoadedModel], folder: Path
) -> None:
    base = tiny()
    base.model.double()
    theirs = logits(peft_folder(base, folder, use_rslora=True))
    loaded, targets = tiny(), ["q_proj", "down_proj"]
    loaded.model.double()
    adapter = load_adapter(Runtime.of(loaded.model), folder)
    assert relative(engine_logits(loaded, adapter), theirs) < SAME
    with LoRAWrapper(loaded.model, rank=5, alpha=7 * 5**0.5, targets=targets) as wrapper:
        wrapper.load(folder)
        assert relative(logits(wrapper.peft), theirs) < SAME
    plain = LoRAWrapper(loaded.model, rank=5, alpha=7, targets=targets)
    with plain, pytest.raises(ModelError, match=r"alpha 15\.6525, this wrapper 5 and 7"):
        plain.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("lora_bias", True),
        ("layer_replication", [[0, 2]]),
        ("use_something_new", True),
        ("something_new_config", {"a": 1}),
        ("trainable_token_indices", [1]),
    ],
)
def test_any_other_method_is_refused_by_name(
    tiny: Callable[..., LoadedModel], folder: Path, key: str, value: Any
) -> None:
    peft_folder(tiny(), folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=key):
        load_adapter(Runtime.of(tiny().model), folder)


def test_an_adapter_of_another_model_is_refused(tiny: Callable[..., LoadedModel], folder: Path) -> None:
    peft_folder(tiny("gpt2"), folder)
    with pytest.raises(ModelError, match=r"made for another model \(layer transformer"):
        load_adapter(Runtime.of(tiny().model), folder)


def test_an_adapter_of_another_width_is_refused(tiny: Callable[..., LoadedModel], folder: Path) -> None:
    peft_folder(tiny(), folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(n for n in tensors if n.endswith("down_proj.lora_A.weight"))
    save_file(tensors | {name: torch.zeros(5, 96)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"has shape \(5, 96\), the model's needs \(5, 128\)"):
        load_adapter(Runtime.of(tiny().model), folder)


@pytest.mark.parametrize(
    "config", [None, "", "{", "[]", '"text"', "{}", '{"peft_type": "LORA"}', '{"r": "x", "lora_alpha": 1}']
)
def test_a_broken_config_is_refused(
    tiny: Callable[..., LoadedModel], folder: Path, config: str | None
) -> None:
    peft_folder(tiny(), folder)
    path = folder / "adapter_config.json"
    path.unlink()
    if config is not None:
        path.write_text(config)
    with pytest.raises(ModelError, match=str(folder)):
        load_adapter(Runtime.of(tiny().model), folder)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file"])
def test_broken_weights_are_refused(
    tiny: Callable[..., LoadedModel], folder: Path, content: bytes | None
) -> None:
    peft_folder(tiny(), folder)
    path = folder / "adapter_model.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        load_adapter(Runtime.of(tiny().model), folder)


def test_a_missing_factor_is_refused(tiny: Callable[..., LoadedModel], folder: Path) -> None:
    peft_folder(tiny(), folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(n for n in tensors if n.endswith("lora_B.weight")))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"lora_B"):
        load_adapter(Runtime.of(tiny().model), folder)


def test_adapters_are_never_overwritten(tiny: Callable[..., LoadedModel], folder: Path) -> None:
    loaded = tiny()
    folder.mkdir(parents=True)
    (folder / "precious").write_text("kept")
    with pytest.raises(AdaptError, match="exists already"):
        save_adapter(trained(loaded), loaded, folder)
    assert [p.name for p in folder.iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_written_is_an_error_of_its_own(
    tiny: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    loaded = tiny()
    (tmp_path / "file").write_text("")
    with pytest.raises(AdaptError, match="cannot save the adapter"):
        save_adapter(trained(loaded), loaded, tmp_path / "file" / "adapter")


def test_a_failed_save_leaves_nothing(
    tiny: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last move fails, as on a full disk: neither the folder nor its staging place stays."""
    loaded = tiny()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(AdaptError, match="No space left on device"):
        save_adapter(trained(loaded), loaded, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_the_config_is_what_servers_expect(tiny: Callable[..., LoadedModel], folder: Path) -> None:
    loaded = tiny("qwen2")
    save_adapter(trained(loaded, ("mlp",)), loaded, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    assert isinstance(config["lora_alpha"], int), "vLLM's adapter config has an integer here"
    assert config["base_model_name_or_path"] == "tiny-random-qwen2"
    assert config["inference_mode"] is True
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 3
    assert {t.dtype for t in tensors.values()} == {torch.float32}


def test_a_saved_adapter_knows_when_a_weight_or_its_scale_was_changed(
    tiny: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    loaded = tiny()
    save_adapter(trained(loaded), loaded, tmp_path / "a")
    weights, config = tmp_path / "a" / "adapter_model.safetensors", tmp_path / "a" / "adapter_config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    with pytest.raises(ModelError, match="damaged: its checksum"):
        load_adapter(Runtime.of(loaded.model), tmp_path / "a")
    weights.write_bytes(whole)
    config.write_text(text.replace('"lora_alpha": 6', '"lora_alpha": 7'))
    with pytest.raises(ModelError, match="damaged: its checksum"):
        load_adapter(Runtime.of(loaded.model), tmp_path / "a")
    config.write_text(text)
    save_file(load_file(weights), weights)  # of another program: without a checksum
    load_adapter(Runtime.of(loaded.model), tmp_path / "a")


def test_equal_adapters_are_equal_files(tiny: Callable[..., LoadedModel], tmp_path: Path) -> None:
    loaded = tiny()
    made = Adapter(Runtime.of(loaded.model), TrainingConfig(rank=3, alpha=6.0), seed=1)
    for n in range(12):  # in any order, two entries of metadata would agree by chance
        save_adapter(made, loaded, tmp_path / str(n))
    assert len({(tmp_path / str(n) / "adapter_model.safetensors").read_bytes() for n in range(12)}) == 1
