"""Models that the batched engine cannot serve are refused by name, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from seal.errors import ModelError
from seal.inner import family_check
from seal.inner.adapter_engine import AdapterEngine
from seal.inner.loop import LocalGenerator, LocalInnerLoop
from seal.models import builtin
from seal.models.load import LoadedModel, load_model

SMALL: dict[str, Any] = {
    "vocab_size": 260,
    "initializer_range": 0.2,
    "eos_token_id": 256,
    "bos_token_id": 256,
}
WIDE = SMALL | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = WIDE | {"num_key_value_heads": 2, "intermediate_size": 64}
OLD = SMALL | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", SMALL | {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "gptj": ("GPTJConfig", OLD | {"rotary_dim": 8}),
    "falcon": ("FalconConfig", WIDE | {"alibi": True, "new_decoder_architecture": False}),
    "mpt": ("MptConfig", {"vocab_size": 260, "d_model": 64, "n_heads": 4, "n_layers": 2}),
    "mamba": ("MambaConfig", {"vocab_size": 260, "hidden_size": 64, "num_hidden_layers": 1}),
    "gpt_oss": (
        "GptOssConfig",
        LLAMA | {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8},
    ),
    "lfm2": ("Lfm2Config", LLAMA | {"layer_types": ["conv", "full_attention"]}),
}


def folder(name: str, config: str, settings: dict[str, Any], place: Path) -> str:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**settings))
    with torch.no_grad():  # attention sinks, among others, begin at 0, where nothing shows
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    made.float().save_pretrained(place / name)
    builtin.byte_tokenizer().save_pretrained(place / name)
    return str(place / name)


@pytest.mark.parametrize("family", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_a_family_that_the_engine_cannot_serve_is_refused_by_name(family: str, tmp_path: Path) -> None:
    loaded = load_model(folder(family, *REFUSED[family], tmp_path), "cpu")
    for make in (LocalGenerator, lambda model: LocalInnerLoop(model), AdapterEngine):
        with pytest.raises(ModelError, match=f"{family} model") as refused:
            make(loaded)
        assert "\n" not in str(refused.value)
        assert "Llama" in refused.value.fix


def test_a_family_that_is_served_is_asked_once(
    tiny_family: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    family_check._passed.clear()
    LocalGenerator(tiny_family)

    def again(*_: Any) -> float:
        raise AssertionError("asked twice")

    monkeypatch.setattr(family_check, "_difference", again)
    LocalInnerLoop(tiny_family)


def test_other_numbers_are_refused(tiny: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    family_check._passed.clear()
    monkeypatch.setattr(family_check, "_difference", lambda *_: float("nan"))
    with pytest.raises(ModelError, match="other numbers than transformers for this llama model"):
        LocalGenerator(tiny())
