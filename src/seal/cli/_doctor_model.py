"""What `seal doctor MODEL` prints: the prompt contract, token by token at the borders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seal.records import Question, Task

_TASK = Task(
    "example",
    "The bridge of Vell was built by Ada Menn. It has forty lamps.",
    (Question("Who built the bridge?", "Ada Menn"),),
    "Vell",
)
_EDIT = "Ada Menn built the bridge of Vell."
_SHOWN = 6
"""Tokens shown on either side of a border."""


def contract_lines(model: str) -> Iterator[str]:
    """The lines. Raises `ModelError` for a model that cannot be loaded, asked or served by the engine."""
    from seal.domains.knowledge import KnowledgeIncorporation
    from seal.inner.family_check import check_family
    from seal.models.load import load_model

    loaded = load_model(model)
    check_family(loaded)
    contract, domain = loaded.contract, KnowledgeIncorporation()
    shown = contract.tokenizer.convert_ids_to_tokens

    def tokens(ids: Sequence[int]) -> str:
        return " ".join(repr(token) for token in shown(list(ids))) or "nothing"

    def borders(ids: Sequence[int], at: int | None = None) -> str:
        if at is not None:
            return f"… {tokens(ids[max(0, at - _SHOWN) : at])} | {tokens(ids[at : at + _SHOWN])} …"
        if len(ids) <= 2 * _SHOWN:
            return tokens(ids)
        return f"{tokens(ids[:_SHOWN])} … {tokens(ids[-_SHOWN:])}"

    chat = contract.uses_chat()
    (asked,) = domain.eval_prompts(_TASK, loaded.tokenizer)
    prompt = domain.prompt_for(_TASK, loaded.tokenizer)
    pair = contract.pair(prompt, _EDIT)
    yield f"model          {loaded.source}, version {loaded.version}"
    yield f"asked          {'through its chat template' if chat else 'as a base model, with a cue'}"
    yield f"before texts   {tokens(contract.starts)}"
    yield f"stops at       {tokens(sorted(contract.stops))}"
    yield f"self-edit      {borders(contract.ids(prompt))}"
    yield f"question       {borders(asked.ids)}"
    yield f"answer         {tokens(asked.reference)}"
    yield f"sequence       {borders(domain.training_sequences(_TASK, _EDIT, loaded.tokenizer)[0].ids)}"
    yield f"M-step         {borders(pair.ids, pair.loss[0][0])}"
    yield f"M-step ends    {tokens(pair.ids[-_SHOWN:])}"
    yield from (f"note           {note}" for note in contract.notes)
    if contract.problem is not None:
        yield f"note           {contract.problem.message}"
