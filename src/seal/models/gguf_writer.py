"""A Llama model as a GGUF file, in f16 or q8_0, for llama.cpp, Ollama and whatever else reads the format.

Other architectures, and tokenizers other than byte-level BPE, are refused: a file that loads and answers
wrongly is worse than none. Layout as in llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUANTIZATIONS = ("f16", "q8_0")
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # gguf.TokenType
#: The pre-tokenizer regexes that llama.cpp knows by name, by what stands in `tokenizer.json`.
_LLAMA3_REGEX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"


def check_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ModelError`, with the reason, for a model that `write_gguf` cannot write faithfully."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    reasons = {
        f"its architecture is {config.model_type}, not llama": config.model_type != "llama",
        f"its rotary embedding is {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
        "its projections have biases": getattr(config, "attention_bias", False)
        or getattr(config, "mlp_bias", False),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelError(f"GGUF cannot be written of {_name(model)}: {reason}", "export it --to merged")
    _pre_tokenizer(_tokenizer_json(tokenizer))


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, quantization: str, name: str
) -> None:
    """Write `path`, one file with weights, configuration, tokenizer and chat template.

    Args:
        quantization: one of `QUANTIZATIONS`; vectors (norms) stay in float32.
        name: the model's name inside the file.

    Raises:
        ModelError: the model is of another kind (see `check_gguf`), or the quantization unknown.
    """
    import gguf

    if quantization not in QUANTIZATIONS:
        raise ModelError(f"quantization is {quantization!r}", f"use {' or '.join(QUANTIZATIONS)}")
    check_gguf(model, tokenizer)
    kinds = gguf.LlamaFileType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(kinds.MOSTLY_F16 if quantization == "f16" else kinds.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_config(writer, model.config)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    for tensor_name, tensor in _tensors(model):
        data, kind = _packed(tensor, quantization)
        writer.add_tensor(tensor_name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_config(writer: Any, config: Any) -> None:
    head = config.head_dim or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its GGUF name; q and k with their rotary halves interleaved, as llama.cpp wants."""
    import gguf

    config: Any = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if name.endswith("inv_freq") or (tied and name == "lm_head.weight"):
            continue
        new = names.get_name(name, try_suffixes=(".weight",))
        if new is None:
            raise ModelError(f"GGUF has no name for {name} of {_name(model)}", "export it --to merged")
        tensor = tensor.detach().float().cpu()
        if ".q_proj." in name:
            tensor = _interleaved(tensor, config.num_attention_heads)
        elif ".k_proj." in name:
            tensor = _interleaved(tensor, config.num_key_value_heads)
        yield new, tensor


def _interleaved(weight_OD: Tensor, heads: int) -> Tensor:
    """Rows of each head in the order 0, E/2, 1, E/2 + 1, …: llama.cpp rotates neighbours, not halves."""
    halves = weight_OD.unflatten(0, (heads, 2, -1))  # (H, 2, E/2, D)
    woven: Tensor = halves.transpose(1, 2).reshape(weight_OD.shape)
    return woven


def _packed(tensor: Tensor, quantization: str) -> tuple[np.ndarray[Any, Any], Any]:
    """The bytes of a tensor and their GGML type. Rows that 32 does not divide cannot be q8_0 and stay f16."""
    import gguf
    import numpy as np

    data = tensor.contiguous().numpy()
    if data.ndim < 2:
        return data.astype(np.float32), gguf.GGMLQuantizationType.F32
    if quantization == "f16" or data.shape[-1] % 32:
        return data.astype(np.float16), gguf.GGMLQuantizationType.F16
    kind = gguf.GGMLQuantizationType.Q8_0
    return gguf.quants.quantize(data, kind), kind


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    content = _tokenizer_json(tokenizer)
    added = {entry["id"]: entry for entry in content["added_tokens"]}
    by_id = {index: token for token, index in content["model"]["vocab"].items()}
    by_id |= {index: entry["content"] for index, entry in added.items()}
    tokens, types = [], []
    for index in range(size):
        entry = added.get(index)
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        special = _CONTROL if entry and entry["special"] else _USER_DEFINED
        types.append(special if entry or index not in by_id else _NORMAL)
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(content))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges:
        writer.add_token_merges(merges)
    else:  # readers make merges of the scores where there are none
        writer.add_token_scores([0.0] * size)
    for role in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{role}_token_id")
        if index is not None:
            getattr(writer, f"add_{role}_token_id")(index)
    starts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(starts)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("GGUF cannot be written: the tokenizer is not a fast one", "export it --to merged")
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def _pre_tokenizer(content: dict[str, Any]) -> str:
    """llama.cpp's name for how the text is cut before the merges. Without merges it does not matter."""
    pre = content.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    if content["model"]["type"] == "BPE" and content.get("normalizer") is None:
        if not content["model"]["merges"] or kinds == ["ByteLevel"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and _LLAMA3_REGEX in str(steps[0].get("pattern", {}).get("Regex")):
            return "llama-bpe"
    raise ModelError(
        f"GGUF cannot be written: the tokenizer ({content['model']['type']}, {' + '.join(map(str, kinds))}) "
        "is none that llama.cpp is known to read the same way",
        "export it --to merged, and convert that with llama.cpp's own script",
    )


def _name(model: PreTrainedModel) -> str:
    return str(model.config.name_or_path or model.config.model_type)
