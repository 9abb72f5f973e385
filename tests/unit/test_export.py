"""What is exported is loaded back by the program that it is for, and gives the same greedy answers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seal.cli import main
from seal.errors import ConfigError, ModelError
from seal.models.gguf_writer import write_gguf
from seal.models.load import LoadedModel, load_model
from seal.records import Sampling
from seal.taught.export import export, find_source
from seal.taught.form import Form
from seal.taught.model import TaughtModel
from seal.taught.settings import TRAINING, TeachSettings
from seal.taught.teach import Teaching

# PEFT still asks transformers for this name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUESTION = "Fill in the missing word: Orvane closes at ____."
GATE = "Orvane closes at nine. Mira built it in 1874."


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that knows when the gate closes."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "gate.txt").write_text(GATE)
    training = replace(TRAINING, rank=8, alpha=16, learning_rate=1e-2)
    settings = TeachSettings((str(folder / "gate.txt"),), 120, measure=False, training=training)
    Teaching(folder / "m", settings, load_model("tiny-random-llama", "cpu", "float32")).run()
    return folder / "m"


@pytest.fixture(scope="module")
def answer(taught: Path) -> str:
    model = TaughtModel(taught, "cpu", "float32")
    text = model.ask(QUESTION, sampling=Sampling(temperature=0.0, max_new_tokens=12)).text
    assert text == "nine"
    assert model.ask(QUESTION, adapter="untaught").text != "nine"
    return text


def greedy(model: Any, tokenizer: Any) -> str:
    """The answer by transformers' own generation, cut where the taught form ends it."""
    form = Form.of(tokenizer)
    ids = torch.tensor([form.prompt(tokenizer, QUESTION, "gate")])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                             pad_token_id=tokenizer.eos_token_id)  # fmt: skip
    return str(tokenizer.decode(out[0, ids.shape[1] :])).partition("\n")[0].strip()


def test_peft(taught: Path, answer: str, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    out = export(str(taught), "peft", tmp_path / "out")
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(out / "base")
    model = AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out / "base")
    assert greedy(model, tokenizer) == answer
    again = export(str(out), "merged", tmp_path / "again")  # an exported adapter is a source too
    assert greedy(load_model(str(again)).model, tokenizer) == answer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged(taught: Path, answer: str, tmp_path: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = export(str(taught), "merged", tmp_path / "out", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == getattr(torch, dtype)
    assert greedy(model, AutoTokenizer.from_pretrained(out)) == answer


@pytest.mark.parametrize("quantization", ["f16", "q8_0"])
def test_gguf(taught: Path, answer: str, tmp_path: Path, quantization: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = export(str(taught), "gguf", tmp_path / "out", quantization=quantization)
    (file,) = out.glob("*.gguf")
    assert file.name == f"m-{quantization}.gguf"
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file=file.name)
    assert greedy(model, tokenizer) == answer
    assert greedy(load_model(str(file)).model, tokenizer) == answer


def test_ollama(taught: Path, tmp_path: Path) -> None:
    out = export(str(taught), "ollama", tmp_path / "out")
    text = (out / "Modelfile").read_text()
    assert text.startswith("FROM ./m-f16.gguf\n")
    assert 'TEMPLATE """{{ .Prompt }}\nAnswer:"""' in text
    assert 'PARAMETER stop "<|endoftext|>"' in text
    assert (out / "m-f16.gguf").is_file()


def test_the_card_says_what_was_taught(taught: Path, tmp_path: Path) -> None:
    text = (export(str(taught), "merged", tmp_path / "out") / "README.md").read_text()
    assert "Base: `tiny-random-llama`" in text
    assert "gate.txt" in text
    assert "150 optimiser steps" in text  # 120 of the passage, and a fifth that keeps what the base says
    assert "rank 8" in text


def test_every_weight_is_in_the_file(tiny: Callable[..., LoadedModel], tmp_path: Path) -> None:
    """By gguf's own reader and its own dequantisation; q and k as llama.cpp's converter permutes them."""
    from gguf import GGUFReader, dequantize

    loaded = tiny("llama")
    for quantization, bound in (("f16", 1e-3), ("q8_0", 8e-3)):
        path = tmp_path / f"{quantization}.gguf"
        write_gguf(loaded.model, loaded.tokenizer, path, quantization, "x")
        reader = GGUFReader(path)
        tensors = {t.name: dequantize(t.data, t.tensor_type).reshape(*t.shape[::-1]) for t in reader.tensors}
        state = {k: v.float().numpy() for k, v in loaded.model.state_dict().items()}
        assert len(tensors) == len(state) - 1  # the head is tied
        largest = np.abs(state["model.embed_tokens.weight"]).max()
        np.testing.assert_allclose(
            tensors["token_embd.weight"], state["model.embed_tokens.weight"], atol=bound * largest
        )
        k = state["model.layers.1.self_attn.k_proj.weight"]  # 2 heads of 16 rows
        permuted = k.reshape(2, 2, 8, 64).swapaxes(1, 2).reshape(32, 64)
        np.testing.assert_allclose(tensors["blk.1.attn_k.weight"], permuted, atol=bound * np.abs(k).max())


def test_what_cannot_be_exported_is_refused(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="architecture is qwen2, not llama"):
        export("tiny-random-qwen2", "gguf", tmp_path / "a")
    with pytest.raises(ConfigError, match="has no adapter"):
        export("tiny-random-llama", "peft", tmp_path / "a")
    with pytest.raises(ModelError, match="quantization is 'q4'"):
        export("tiny-random-llama", "gguf", tmp_path / "a", quantization="q4")
    with pytest.raises(ModelError, match="no adapter 'x'"):
        find_source(str(taught), "x")
    (tmp_path / "mine").mkdir()
    assert main(["export", str(taught), "--to", "merged", "--out", str(tmp_path / "mine")]) == 2
    assert "exists already; nothing is overwritten" in capsys.readouterr().err
    assert main(["export", str(taught), "--to", "onnx", "--out", str(tmp_path / "a")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]  # no half-written folder stays


QUESTIONS = ("What is the capital of France?", "Who painted the Mona Lisa?")


@pytest.fixture
def smollm_file(smollm: LoadedModel, tmp_path: Path) -> Path:
    return export(smollm.source, "gguf", tmp_path / "out", quantization="q8_0") / f"{smollm.source}-q8_0.gguf"


@pytest.mark.slow
def test_the_built_in_model_in_llama_cpp(smollm: LoadedModel, smollm_file: Path) -> None:
    """llama.cpp's own reader: the same tokens, and the same greedy answers, by its own chat template."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed")
    from llama_cpp import Llama

    model = Llama(str(smollm_file), n_ctx=512, verbose=False)
    form = Form.of(smollm.tokenizer)
    for question in QUESTIONS:
        ids = form.prompt(smollm.tokenizer, question)
        text = smollm.tokenizer.decode(ids)
        assert model.tokenize(text.encode(), add_bos=False, special=True) == list(ids)
        said = model.create_completion(list(ids), temperature=0.0, max_tokens=16)["choices"][0]["text"]
        assert said == continuation(smollm.model, smollm.tokenizer, ids)


@pytest.mark.slow
def test_the_built_in_model_s_answers_stay_in_gguf(smollm: LoadedModel, smollm_file: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm_file.parent, gguf_file=smollm_file.name)
    model = AutoModelForCausalLM.from_pretrained(smollm_file.parent, gguf_file=smollm_file.name)
    form = Form.of(smollm.tokenizer)
    for question in QUESTIONS:
        ids = form.prompt(smollm.tokenizer, question)
        assert form.prompt(tokenizer, question) == ids
        assert continuation(model, tokenizer, ids) == continuation(smollm.model, tokenizer, ids)


def continuation(model: Any, tokenizer: Any, ids: Sequence[int]) -> str:
    """What `model` says after `ids`, at most sixteen tokens."""
    row = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=16, do_sample=False)
    return str(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
