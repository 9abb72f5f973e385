"""Thoughts that a model writes before what it has to say: they are no answer and no training data.

A thought stands between two marks. It may be cut before its end (all that follows the mark is thought), and
a template may have opened it in the prompt (all that precedes the closing mark is thought).
"""

from __future__ import annotations

import re

#: Opening and closing marks: DeepSeek and Qwen, those of prompted reasoning, Magistral, Seed, Kimi, Cohere,
#: Sky-T1, and gpt-oss' channels.
MARKS: tuple[tuple[str, str], ...] = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "thoughts", "reasoning")),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
#: What remains of gpt-oss' channels once the analysis is gone.
_FINAL = re.compile(r"(<\|start\|>assistant)?<\|channel\|>final<\|message\|>")
_OPEN = re.compile("|".join(re.escape(mark) for mark, _ in MARKS), re.IGNORECASE)
#: gpt-oss' closing mark ends other things too, so alone it says nothing.
_CLOSE = re.compile("|".join(re.escape(mark) for _, mark in MARKS if mark != "<|end|>"), re.IGNORECASE)
_END_OF = {start.lower(): re.compile(re.escape(end), re.IGNORECASE) for start, end in MARKS}


def without_thoughts(text: str) -> str:
    """`text` without its thoughts, closed or not; unchanged where there are none.

    >>> without_thoughts("<think>Forty? Yes.</think>\\n\\nForty lamps.")
    'Forty lamps.'
    >>> without_thoughts("Forty lamps. <think>Or was it")
    'Forty lamps.'
    """
    if not (_OPEN.search(text) or _CLOSE.search(text) or _FINAL.search(text)):
        return text
    left = _without_closed(text)
    for close in reversed(list(_CLOSE.finditer(left))):
        left = left[close.end() :]
        break
    opened = _OPEN.search(left)
    if opened:
        left = left[: opened.start()]
    return _FINAL.sub("", left).strip()


def _without_closed(text: str) -> str:
    """`text` without what stands between an opening mark and its own closing one; in linear time."""
    kept: list[str] = []
    at = look = 0
    never_closed: set[str] = set()  # from here on; without it many openings would each read to the end
    while (mark := _OPEN.search(text, look)) is not None:
        look, kind = mark.end(), mark[0].lower()
        end = None if kind in never_closed else _END_OF[kind].search(text, look)
        if end is None:
            never_closed.add(kind)
            continue
        kept.append(text[at : mark.start()])
        at = look = end.end()
    return "".join([*kept, text[at:]])


def open_thought(text: str) -> str:
    """The mark that closes the thought in which `text` ends; empty: it ends in none."""
    marks = list(_OPEN.finditer(text))
    if not marks or _END_OF[marks[-1][0].lower()].search(text, marks[-1].end()):
        return ""
    return next(end for start, end in MARKS if start.lower() == marks[-1][0].lower())
