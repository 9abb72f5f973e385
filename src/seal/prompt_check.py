"""Builds the prompt contract of a tokenizer, and refuses what cannot be served rightly.

What is peculiar but can be served is noted, in one line each. A chat template that cannot be used is refused
when a prompt is to go through it: the model can still be asked as a base model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seal.bounded import overrun
from seal.errors import ModelError
from seal.prompt import PromptContract, PromptSettings, render
from seal.thoughts import MARKS, open_thought

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: What templates lose or change in texts: case, spaces, lines, quotes, markup, braces, other scripts.
_TEXT = 'Vell\'s  "47" LAMPS\n\n<b>&amp; {osk} Ölnuß 灯</b> [x] #2'
_TEXTS = (_TEXT + "\nForty lamps burn oil." * 1500, "Who?", " padded \n", "[]", "no")
_ANSWER = "Ada Menn, 4711."
_FIX = "set data_config.options.chat to false to ask it as a base model, or mend the template"
_PLAIN = "The lamps of Vell burn oil."
#: What reading a chat template may take; models' own take some milliseconds.
_SECONDS, _MEBIBYTES = 10, 1024
_LONGEST = 2**20
"""Characters that a template may add to a prompt."""
_overruns: dict[str, str] = {}
"""What templates that were read in this process took too much of, by what they were read with."""
#: The mark with which gpt-oss says the answer itself, not its analysis.
_FINAL = "<|channel|>final<|message|>"


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    """What a contract depends on and users change."""
    return tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token


def build_contract(
    tokenizer: PreTrainedTokenizerBase,
    settings: PromptSettings | None = None,
    *,
    ends: frozenset[int] | None = None,
    rows: int | None = None,
) -> PromptContract:
    """The contract of `tokenizer`.

    Args:
        settings: what the user decides.
        ends: tokens at which the model stops by its own config; None: there is no model to ask.
        rows: tokens that the model has an embedding for; None: not checked.

    Raises:
        ModelError: no text can be served: it is lost in the tokenizer, or tokens are beyond the model's.
    """
    starts, behind = _affixes(tokenizer)
    notes = []
    if behind:
        shown = _shown(tokenizer, behind)
        notes.append(f"the tokenizer ends every text with {shown}: left out of prompts and sequences")
    if starts[:1] * 2 == starts[:2] and starts:
        notes.append(f"the tokenizer begins every text with {_shown(tokenizer, starts)}: put once")
        starts = starts[1:]
    eos = tokenizer.eos_token_id
    special = _special(tokenizer)
    stops = (ends or frozenset()) | ({int(eos)} if eos is not None else set())
    contract = PromptContract(
        tokenizer,
        settings or PromptSettings(),
        starts=starts,
        stops=stops,
        marks={i: text for i, text in special.items() if any(text in pair for pair in MARKS)},
        controls=tuple(special.values()),
        notes=tuple(notes),
    )
    if tokenizer.chat_template:
        contract = _with_template(contract, ends)
    if rows is not None:
        contract = _within(contract, rows)
    return contract


def settle_ends(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> tuple[str, ...]:
    """Give a tokenizer without end or pad token the model's; what was done, in lines.

    Raises:
        ModelError: the model has no end token either.
    """
    notes = []
    if tokenizer.eos_token_id is None:
        own = [i for i in sorted(own_ends(model)) if tokenizer.convert_ids_to_tokens(i) is not None]
        if not own:
            raise ModelError(
                "neither the tokenizer nor the model's config has an end token, so no answer would ever end",
                'name one in tokenizer_config.json, such as "eos_token": "<|endoftext|>"',
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(own[0])
        notes.append(f"the tokenizer has no end token: {tokenizer.eos_token!r}, the model's, is used")
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    return tuple(notes)


def own_ends(model: PreTrainedModel) -> frozenset[int]:
    """Tokens at which `model` stops by its own config."""
    for config in (model.generation_config, model.config.get_text_config()):
        given = getattr(config, "eos_token_id", None)
        ends = given if isinstance(given, list) else [given]
        if any(i is not None for i in ends):
            return frozenset(int(i) for i in ends if i is not None)
    return frozenset()


def _affixes(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens that the tokenizer puts before and behind a text."""
    for text in (_PLAIN, "a", "0"):
        plain = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        whole = tuple(tokenizer(text)["input_ids"])
        for at in range(len(whole) - len(plain) + 1) if plain else ():
            if whole[at : at + len(plain)] == plain:
                return whole[:at], whole[at + len(plain) :]
    raise ModelError(
        "the tokenizer makes no tokens of a plain text, or mixes its own in between",
        "use the tokenizer that belongs to the model",
    )


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    added = tokenizer.added_tokens_decoder.items()
    return {i: token.content for i, token in added if token.special and token.content.strip()}


def _with_template(contract: PromptContract, ends: frozenset[int] | None) -> PromptContract:
    """The contract with head, tail and turn's end read from the template, or with its problem."""
    try:
        _check_bounds(contract)
        contract = _framed(contract)
        answered = _answered(contract)
        contract = _ended(contract, answered, ends)
        return _mended(contract, answered)
    except _Unusable as why:
        problem = ModelError(f"the chat template {why}", _FIX)
        return replace(contract, head="", tail="", own_tail="", instruct=True, problem=problem)


class _Unusable(Exception):
    """Why a chat template cannot be used."""


def _check_bounds(contract: PromptContract) -> None:
    """Refuse a template that loops for ever or fills the memory: Jinja's sandbox bounds neither."""
    read_with = repr((fingerprint(contract.tokenizer), contract.settings))
    if read_with not in _overruns:
        _overruns[read_with] = overrun(lambda: _read(contract), seconds=_SECONDS, mebibytes=_MEBIBYTES)
    if why := _overruns[read_with]:
        raise _Unusable(f"{why} for a prompt of a few words")


def _read(contract: PromptContract) -> None:
    """Render all that is rendered to know a template, and a conversation."""
    turns = [{"role": role, "content": _TEXT} for role in ("system", "user", "assistant", "user")]
    single = [[{"role": "user", "content": text}] for text in _TEXTS]
    for parts in (False, True):
        tried = replace(contract, parts=parts)
        for messages in (*single, turns, turns[1:], turns[1:3]):
            try:
                render(tried, messages, answer_next=messages[-1]["role"] == "user")
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 (told where the template is really used)
                continue


def _framed(contract: PromptContract) -> PromptContract:
    """Read head and tail from renderings of several texts, as a text or, where that fails, as parts."""
    why: _Unusable | None = None
    for parts in (False, True):
        tried = replace(contract, parts=parts)
        try:
            prompt = _render(tried, _TEXT)
            head, found, tail = prompt.partition(_TEXT)
            if len(prompt) > len(_TEXT) + _LONGEST:
                raise _Unusable(f"makes {len(prompt)} characters of {len(_TEXT)}")
            if not found:
                raise _Unusable(_loss(prompt))
            if _render(tried, _TEXT) != prompt:
                raise _Unusable("gives another prompt every time")
            for text in _TEXTS:
                if _render(tried, text) not in (head + text + tail, head + text.strip() + tail):
                    raise _Unusable(f"does not pass on a text of {len(text)} characters as it is")
        except _Unusable as error:
            why = why or error
            continue
        notes = list(contract.notes)
        if parts:
            notes.append("the chat template takes messages as lists of parts: it gets them")
        if any(_render(tried, _TEXT, day) != prompt for day in ("1999-01-02", "2031-11-30")):
            day = contract.settings.date
            notes.append(f"the chat template prints a date: it is told {day} (generation.date)")
        return replace(tried, head=head, tail=tail, own_tail=tail, notes=tuple(notes))
    assert why is not None
    raise why


def _loss(prompt: str) -> str:
    changed = _TEXT[:4].casefold() in prompt.casefold()
    return "changes the user's text" if changed else "loses the user's text"


def _render(contract: PromptContract, text: str, day: str = "") -> str:
    try:
        return render(contract, [{"role": "user", "content": text}], day=day)
    except Exception as error:  # a template may raise anything
        named = contract.tokenizer.chat_template
        if isinstance(named, dict) and "default" not in named:
            raise _Unusable(f"is none by default: only {', '.join(named)} exist") from error
        raise _Unusable(f"cannot be applied: {' '.join(str(error).split())[:200]}") from error


def _answered(contract: PromptContract) -> tuple[str, str] | None:
    """What stands before and behind an answer in a finished turn, from the question on; None: unknown."""
    turns = [{"role": "user", "content": _TEXT}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = render(contract, turns, answer_next=False)
    except Exception:  # noqa: BLE001 - some templates know no finished turn
        return None
    asked, found, behind = text.rpartition(_ANSWER)
    start = contract.head + _TEXT
    return (asked.removeprefix(start), behind) if found and asked.startswith(start) else None


def _ended(
    contract: PromptContract, answered: tuple[str, str] | None, ends: frozenset[int] | None
) -> PromptContract:
    """The contract with the tokens that end a turn, which become stops."""
    tokenizer, notes = contract.tokenizer, list(contract.notes)
    ids = contract.text_ids(answered[1]) if answered else ()
    known = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    known |= set(tokenizer.all_special_ids)
    at = next((n for n, token in enumerate(ids) if token in known), None)
    if at is None:
        return replace(contract, instruct=True)
    turn_end = ids[: at + 1]
    instruct = ends is None or turn_end[-1] in contract.stops
    if not instruct:
        notes.append(
            f"the chat template ends turns with {_shown(tokenizer, turn_end[-1:])}, at which the model does "
            "not stop: it is asked as a base model (data_config.options.chat: true uses the template)"
        )
    return replace(
        contract,
        turn_end=turn_end,
        stops=contract.stops | {turn_end[-1]},
        instruct=instruct,
        notes=tuple(notes),
    )


def _mended(contract: PromptContract, answered: tuple[str, str] | None) -> PromptContract:
    """The contract with a tail after which an answer begins: header there, no end token, no open thought."""
    tail, notes, ids = contract.tail, list(contract.notes), contract.text_ids
    ends = contract.stops | set(contract.turn_end[-1:])
    before = answered[0] if answered else None
    if before is not None and before.startswith(tail):
        rest = before[len(tail) :]
        if rest.strip() and not any(mark in rest for pair in MARKS for mark in pair):
            tail = before
            notes.append(f"the chat template leaves {rest.strip()[:40]!r} out of prompts: it is put there")
    if set(ids(tail)[-1:]) & ends:
        shown = _shown(contract.tokenizer, ids(tail)[-1:])
        if before is None:
            raise _Unusable(f"ends the prompt with {shown}, behind which no answer comes")
        if set(ids(before)[-1:]) & ends:
            notes.append(f"the chat template ends the question with {shown}, as finished turns do: kept")
        else:
            tail = before
            notes.append(f"the chat template ends the prompt with {shown}: left out")
    close = open_thought(contract.head + tail)
    if close:
        tail = tail.rstrip("\n") + f"\n\n{close}\n\n"
        notes.append(f"the chat template opens a thought: it is closed at once, with {close}")
    if tail.endswith("<|start|>assistant") and _FINAL in str(contract.tokenizer.chat_template):
        tail += _FINAL
        notes.append("the chat template leaves the channel open: the final one is chosen")
    bos = contract.tokenizer.bos_token_id
    begin = ids(contract.head + _TEXT)[:2]
    if bos is not None and begin == (bos, bos):
        raise _Unusable(f"begins with the start token {contract.tokenizer.bos_token!r} twice")
    return replace(contract, tail=tail, notes=tuple(notes))


def _within(contract: PromptContract, rows: int) -> PromptContract:
    """The contract, once all its tokens are among the model's and plain text comes back."""
    tokenizer = contract.tokenizer
    beyond = [
        i for i in (*contract.starts, *contract.text_ids(_PLAIN), tokenizer.eos_token_id or 0) if i >= rows
    ]
    if beyond:
        raise ModelError(
            f"the tokenizer gives token {beyond[0]} and the model knows {rows}",
            "use the tokenizer that belongs to the model",
        )
    back = tokenizer.decode(list(contract.text_ids(_PLAIN)), skip_special_tokens=True)
    if "".join(back.split()).casefold() != "".join(_PLAIN.split()).casefold():
        raise ModelError(
            f"the tokenizer makes {back[:60]!r} of {_PLAIN!r}", "use the tokenizer that belongs to the model"
        )
    framed = contract.text_ids(contract.head + contract.tail) + contract.turn_end
    if contract.problem is None and (far := tuple(i for i in framed if i >= rows)):
        shown = f"uses {_shown(tokenizer, far[:1])}, token {far[0]}, and the model knows {rows}"
        problem = ModelError(f"the chat template {shown}", _FIX)
        contract = replace(contract, problem=problem, head="", tail="", own_tail="", instruct=True)
    return replace(contract, stops=frozenset(i for i in contract.stops if i < rows))


def _shown(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return repr("".join(map(str, tokenizer.convert_ids_to_tokens(list(ids)))))
