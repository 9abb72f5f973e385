"""Does the batched engine compute what the model itself does? Asked once for each architecture, at start.

The engine serves any decoder that goes through transformers' attention interface with causal attention and
nothing else between tokens. No list of names says which do: position biases, sinks, recurrent states and
convolutions come and go with versions and options. So a few short sequences go both ways and are compared.
"""

from __future__ import annotations

import math
import random

import torch
from transformers import PreTrainedModel

from seal.errors import ModelError
from seal.inner.decode import Decoder, Request, TokenCompletion
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel
from seal.records import Sampling

#: Tokens of the prompts and of what follows each.
_LENGTHS = ((7, 5), (12, 3), (4, 6))
_WRITTEN = 4
#: Difference allowed in nats a token: twenty times what rounding has been seen to make.
_ALLOWED = {torch.float64: 1e-3, torch.float32: 1e-2, torch.bfloat16: 0.3, torch.float16: 0.1}
_FIX = "use a model of the Llama, Mistral, Qwen, Gemma, Phi, OLMo, OPT, GPT-2 or GPT-NeoX families"
_passed: set[tuple[str, torch.dtype, str]] = set()


def check_family(loaded: LoadedModel) -> None:
    """Refuse a model that the engine would compute wrongly; known architectures are not asked again.

    Raises:
        ModelError: the engine cannot run it, or comes to other numbers than transformers.
    """
    model = loaded.model
    config = model.config.to_dict() | {"_name_or_path": "", "transformers_version": ""}
    key = (repr(sorted(config.items(), key=lambda item: item[0])), model.dtype, model.device.type)
    if key in _passed:
        return
    name = getattr(model.config, "model_type", type(model).__name__)
    try:
        worst = _difference(model, Runtime.of(model))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a family that was not meant for it fails in any way
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise ModelError(f"{loaded.source}: the engine cannot serve {name} models ({why})", _FIX) from error
    allowed = _ALLOWED.get(model.dtype, 0.3)
    if not worst <= allowed:
        raise ModelError(
            f"{loaded.source}: the engine comes to other numbers than transformers for this {name} model "
            f"(by {worst:.2g} nats a token)",
            _FIX,
        )
    _passed.add(key)


@torch.no_grad()
def _difference(model: PreTrainedModel, runtime: Runtime) -> float:
    """Largest difference, in nats a token, of what the engine reads and writes from the model's own way."""
    draw = random.Random(0)
    room = max(1, min(runtime.max_tokens - _WRITTEN, 64))
    texts = [
        ([draw.randrange(runtime.vocabulary) for _ in range(a + b)][:room], a)
        for a, b in _LENGTHS
        if a < room
    ]
    read = Sampling(temperature=0.0, max_new_tokens=0)
    write = Sampling(temperature=0.0, max_new_tokens=_WRITTEN)
    decoder = Decoder(runtime, lambda ids: "", frozenset(), max_rows=8, token_budget=256)
    scored = decoder.run([Request(tuple(t[:a]), None, read, reference=tuple(t[a:])) for t, a in texts])
    written = decoder.run([Request(tuple(t), None, write) for t, _ in texts])
    differences = [_read_apart(model, t, a, s) for (t, a), s in zip(texts, scored, strict=True) if len(t) > a]
    differences += [_written_apart(model, t, w) for (t, _), w in zip(texts, written, strict=True)]
    return max((abs(d) if math.isfinite(d) else math.inf for d in differences), default=0.0)


def _read_apart(model: PreTrainedModel, text: list[int], start: int, scored: TokenCompletion) -> float:
    """Difference of the log-likelihood of what follows `start`, a token."""
    log_p = _log_p(model, text)[start - 1 : -1]
    target = torch.tensor(text[start:], device=log_p.device)[:, None]
    mine, own = scored.log_likelihood or 0.0, float(log_p.gather(1, target).sum())
    return (mine - own) / len(target)


def _written_apart(model: PreTrainedModel, prompt: list[int], written: TokenCompletion) -> float:
    """How far the tokens written one by one are, at most, from the model's own choices in its eyes."""
    log_p = _log_p(model, prompt + written.ids)[len(prompt) - 1 : -1]
    chosen = log_p.gather(1, torch.tensor(written.ids, device=log_p.device)[:, None])[:, 0]
    return float((log_p.max(-1).values - chosen).max())


def _log_p(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Log-probabilities (T, V) of the next token, the model's own way."""
    logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
