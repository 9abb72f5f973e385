"""One prompt, one model, one answer: the plain transformers path that the batched engine must agree with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from seal.prompt import contract_of
from seal.prompt_check import own_ends
from seal.records import Answer, EvalPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer_prompt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eval_prompt: EvalPrompt
) -> Answer:
    """`model`'s answer to `eval_prompt`, and the summed log-likelihood of its reference, in nats.

    The answer is greedy or sampled as the evaluation prompt says, cut at the first stop string.
    """
    import torch

    contract = contract_of(tokenizer)
    stops = contract.stops | own_ends(model)
    prompt = torch.tensor([eval_prompt.ids], device=model.device)  # (1, T)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = prompt
            if eval_prompt.sampling.max_new_tokens:
                with _plain_generation(model):
                    out = model.generate(
                        prompt,
                        attention_mask=torch.ones_like(prompt),
                        max_new_tokens=eval_prompt.sampling.max_new_tokens,
                        eos_token_id=sorted(stops) or None,
                        pad_token_id=min(stops, default=0),
                        **_how(eval_prompt),
                    )
            likelihood = None
            if eval_prompt.reference:
                likelihood = _log_likelihood(model, eval_prompt.ids, eval_prompt.reference)
            likely = [_log_likelihood(model, eval_prompt.ids, other) for other in eval_prompt.others]
    finally:
        model.train(training)
    new = out[0, prompt.shape[1] :].tolist()
    stopped = bool(new) and new[-1] in stops
    new = new[: len(new) - stopped]
    text = contract.decode(new)
    cuts = [text.find(s) for s in eval_prompt.sampling.stop if s in text]
    ended = bool(cuts) or stopped or len(new) < eval_prompt.sampling.max_new_tokens
    return Answer(
        prompt_id=eval_prompt.id,
        text=text[: min(cuts)] if cuts else text,
        n_tokens=len(new),
        finish="stop" if ended else "length",
        log_likelihood=likelihood,
        reference_tokens=len(eval_prompt.reference),
        margin=eval_prompt.margin(likelihood, likely),
    )


def _how(eval_prompt: EvalPrompt) -> dict[str, float | bool | None]:
    if eval_prompt.sampling.temperature == 0:
        return {"do_sample": False}
    drawn = eval_prompt.sampling
    return {"do_sample": True, "temperature": drawn.temperature, "top_p": drawn.top_p, "top_k": 0}


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """The model without its own penalties, suppressed tokens and the like, which the engine does not know."""
    from transformers import GenerationConfig

    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = owner.generation_config
    owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = own


def _log_likelihood(model: PreTrainedModel, prompt: Sequence[int], reference: Sequence[int]) -> float:
    import torch

    ids = torch.tensor([[*prompt, *reference]], device=model.device)
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float()  # (R, V): predicts the reference
    target = ids[0, len(prompt) :, None]
    return float(logits.log_softmax(-1).gather(1, target).sum())
