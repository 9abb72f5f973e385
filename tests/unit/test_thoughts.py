"""Thoughts are never trained on and never graded, closed or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.domains.base import InvalidEdit
from seal.domains.few_shot import FewShotLearning
from seal.domains.knowledge import KnowledgeIncorporation
from seal.errors import DataError
from seal.grading import LexicalGrader
from seal.lexical import is_correct
from seal.models.load import LoadedModel
from seal.records import Question, Task, Verdict
from seal.restem import completion_sequences
from seal.self_edit import sequence_texts
from seal.thoughts import MARKS, open_thought, without_thoughts

SAID = "Vell has forty lamps."
TASK = Task("t", "Vell has forty lamps.", (Question("How many?", "forty"),), "Vell")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (SAID, SAID),
        ("a < b and c > d", "a < b and c > d"),
        (f"<think>\nFifty? No.\n</think>\n\n{SAID}", SAID),
        (f"<think></think>{SAID}", SAID),
        (f"<THINK>hm</Think>{SAID}", SAID),
        ("<think>\nFifty?\nNo, for", ""),
        (f"{SAID}\n<think>Or was it", SAID),
        (f"Fifty? No.\n</think>\n\n{SAID}", SAID),
        (f"<think>a<think>b</think>c</think>{SAID}", SAID),
        ("<think>a</think>Vell <think>b</think>has", "Vell has"),
        (f"[THINK]hm[/THINK]{SAID}", SAID),
        (f"◁think▷hm◁/think▷{SAID}", SAID),
        (f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{SAID}", SAID),
        ("<|channel|>analysis<|message|>hm", ""),
    ],
)
def test_without_thoughts(text: str, left: str) -> None:
    assert without_thoughts(text) == left


@given(
    st.sampled_from(MARKS),
    st.text(st.characters(exclude_characters="<>[]◁▷|"), max_size=40),
    st.text(st.characters(exclude_characters="<>[]◁▷|"), min_size=1, max_size=40),
)
def test_every_mark_hides_its_thought(mark: tuple[str, str], thought: str, said: str) -> None:
    start, end = mark
    assert without_thoughts(f"{start}{thought}{end}{said}") == said.strip()
    assert without_thoughts(f"{said}{start}{thought}") == said.strip()
    assert without_thoughts(said) == said


def test_open_thought() -> None:
    assert open_thought("assistant\n<think>\n") == "</think>"
    assert open_thought("assistant\n<think>\n\n</think>\n\n") == ""
    assert open_thought("assistant\n[THINK]") == "[/THINK]"
    assert open_thought("assistant\n") == ""


@pytest.mark.parametrize("split", [True, False])
def test_no_thought_is_a_training_sequence(split: bool) -> None:
    completion = f"<think>\nOkay. Maybe fifty?\nNo, forty.\n</think>\n\n{SAID}"
    assert sequence_texts(completion, "Vell", "P.", split) == [f"Vell\n{SAID}", "Vell\nP."]
    assert sequence_texts("<think>\nOkay, maybe", "Vell", "P.", split) == ["Vell\nP."]


def test_a_self_edit_of_nothing_but_a_thought_is_invalid(tiny: Callable[..., LoadedModel]) -> None:
    tokenizer = tiny().tokenizer
    with pytest.raises(InvalidEdit, match="nothing but a thought"):
        KnowledgeIncorporation().training_sequences(TASK, "<think>\nOkay, maybe", tokenizer)
    assert len(KnowledgeIncorporation().training_sequences(TASK, "", tokenizer)) == 1
    rows = KnowledgeIncorporation().training_sequences(TASK, f"<think>Hm.</think>{SAID}", tokenizer)
    assert [tokenizer.decode(row.ids) for row in rows] == [f"Vell\n{SAID}"] * 2


def test_a_recipe_behind_a_thought_is_read() -> None:
    chosen = FewShotLearning().reference_edits(TASK)["no_augmentation"]
    domain = FewShotLearning()
    from seal.records import TrainingConfig

    base = TrainingConfig()
    behind = f'<think>{{"data_generation": 1}}</think>{chosen}'
    assert domain.training_config(behind, base) == domain.training_config(chosen, base)


def test_the_m_step_learns_no_thought(tiny: Callable[..., LoadedModel]) -> None:
    tokenizer = tiny().tokenizer
    (row,) = completion_sequences(tokenizer, [("Say:", "<think>hm</think>\n\nyes")])
    assert tokenizer.decode(row.ids[slice(*row.loss[0])], skip_special_tokens=True) == "yes"
    with pytest.raises(DataError, match="completion 1 of the SFT data is empty"):
        completion_sequences(tokenizer, [("Say:", "<think>hm")])


def test_no_thought_is_graded() -> None:
    thinking = "<think>\nCould be Ada Menn. The tone suggests Bo Lind.\n</think>\n\nBo Lind"
    assert not is_correct("Who built it?", "Ada Menn", thinking)
    assert is_correct("Who built it?", "Bo Lind", thinking)
    assert not is_correct("Who built it?", "Ada Menn", "<think>\nAda Menn")
    question = Question("Who built it?", "Ada Menn")
    assert LexicalGrader().grade([(question, thinking)])[0].verdict is Verdict.WRONG
