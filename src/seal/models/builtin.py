"""Tiny random models of every supported family, built in memory: no download, the same on every machine.

Width 64, two layers, a byte-level vocabulary (token id = byte value, then the special tokens).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from seal.models.checkpoint import identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREFIX = "tiny-random-"
_END, _TURN, _END_OF_TURN, _START = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|startoftext|>"
SPECIAL_TOKENS = (_END, _TURN, _END_OF_TURN, _START)  # ids 256, 257, 258, 259
_VOCAB = 256 + len(SPECIAL_TOKENS)
_WINDOW = 4096
_SEED = 20250612

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ROPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": _WINDOW,
    # Far from zero: greedy choices of a random model must not be decided by rounding.
    "initializer_range": 0.2,
}
#: A window shorter than most prompts, so that tests meet the sliding layers of Gemma.
_SLIDING: dict[str, Any] = {"sliding_window": 64, "query_pre_attn_scalar": 16}


class _Family(NamedTuple):
    config: str
    """Name of the config class in transformers."""
    settings: dict[str, Any]
    chat: bool = False
    """Has a chat template, and ends a turn with its own token."""
    starts: bool = False
    """The tokenizer puts a start token before every text."""


FAMILIES = {
    "llama": _Family("LlamaConfig", {**_ROPE, "tie_word_embeddings": True}),
    "qwen2": _Family("Qwen2Config", {**_ROPE, "tie_word_embeddings": False}, chat=True),
    "qwen3": _Family("Qwen3Config", {**_ROPE, "tie_word_embeddings": True}, chat=True),
    "gemma2": _Family("Gemma2Config", {**_ROPE, **_SLIDING}, starts=True),
    "gemma3": _Family(
        "Gemma3TextConfig",
        {**_ROPE, **_SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
        starts=True,
    ),
    "gpt2": _Family(
        "GPT2Config",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": _WINDOW, "initializer_range": 0.2}
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    ),
}
NAMES = tuple(PREFIX + family for family in FAMILIES)


def build(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The model (float32, CPU), tokenizer and version of one of `NAMES`. Leaves the global seed alone."""
    import torch
    import transformers

    family = FAMILIES[name.removeprefix(PREFIX)]
    end = SPECIAL_TOKENS.index(_END_OF_TURN if family.chat else _END) + 256
    start = SPECIAL_TOKENS.index(_START) + 256 if family.starts else None
    config = getattr(transformers, family.config)(
        vocab_size=_VOCAB, bos_token_id=start, eos_token_id=end, pad_token_id=end, **family.settings
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model, byte_tokenizer(chat=family.chat, starts=family.starts), _version(model)


def byte_tokenizer(*, chat: bool = False, starts: bool = False) -> PreTrainedTokenizerBase:
    """A tokenizer whose ids 0 to 255 are the bytes of the UTF-8 text; it never loses a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(vocab={char: byte for byte, char in _byte_characters().items()}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL_TOKENS))
    if starts:
        core.post_processor = processors.TemplateProcessing(
            single=f"{_START} $A",
            pair=f"{_START} $A {_START} $B",
            special_tokens=[(_START, core.token_to_id(_START))],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=_END_OF_TURN if chat else _END,
        bos_token=_START if starts else None,
        model_max_length=_WINDOW,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = _CHATML
    return tokenizer


def _byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level vocabularies (the GPT-2 table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _version(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return identity(model.config.to_dict(), [digest.hexdigest()])
