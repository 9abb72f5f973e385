"""What the base answers to questions that have nothing to do with the documents.

Trained on among the documents, so that learning them costs it less of what it knew. No label is needed.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from seal.records import Sampling
from seal.taught.form import Form
from seal.taught.manifest import TrainingText, read_lines, write_lines

if TYPE_CHECKING:
    from seal.inner.adapter_engine import AdapterEngine

_MAX_NEW_TOKENS = 32


def anchors(engine: AdapterEngine, form: Form) -> tuple[TrainingText, ...]:
    """The base's greedy answers to sixty built-in questions.

    None of the questions is among those that measure what was lost. An answer that does not end is left out.
    """
    from seal.inner.adapter_engine import Prompt

    questions = json.loads((resources.files("seal.data") / "builtin" / "anchors.json").read_text("utf-8"))
    sampling = Sampling(temperature=0.0, max_new_tokens=_MAX_NEW_TOKENS, stop=form.stop)
    tokenizer = engine.loaded.tokenizer
    answers = engine.answer([Prompt(form.prompt(tokenizer, q), None, sampling) for q in questions])
    return tuple(
        TrainingText("", question, answer.text.strip())
        for question, answer in zip(questions, answers, strict=True)
        if answer.finish == "stop" and answer.text.strip()
    )


def kept_anchors(engine: AdapterEngine, form: Form, path: Path) -> tuple[TrainingText, ...]:
    """The same, from `path`; written there the first time."""
    if not path.is_file():
        write_lines(path, anchors(engine, form))
    return tuple(read_lines(TrainingText, path))
