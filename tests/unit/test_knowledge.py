"""The knowledge domain: sequences, prompts, scores; and one model at a time equal to the batched engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from seal.domains.answering import answer_prompt
from seal.domains.base import InvalidEdit
from seal.domains.knowledge import KnowledgeIncorporation
from seal.errors import ConfigError, DataError, GradingError
from seal.graded import Graded
from seal.grading import Grade, LexicalGrader
from seal.inner.loop import LocalInnerLoop
from seal.models.load import LoadedModel
from seal.prompt import contract_of
from seal.records import AdaptJob, Answer, EvalPrompt, Performance, Question, Task, TrainingConfig, Verdict
from seal.sections import EditCheck

QUESTIONS = (Question("What is Anka?", "a cold river", "Anka"), Question("How long?", "40 miles", "Anka"))
TASK = Task("anka-1", "Anka is a cold river. It is 40 miles long.", QUESTIONS, "Anka")


@cache
def bpe() -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer that merges across the text it is tested on."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(
        [TASK.context, "Topic: Anka Question Answer: the river of many miles"] * 9, trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def answers(*verdicts: Verdict | None, likelihood: float | None = -4.0) -> list[Answer]:
    return [
        Answer(f"q{i}", "x", log_likelihood=likelihood, reference_tokens=i + 1, verdict=v)
        for i, v in enumerate(verdicts)
    ]


# --- rows -----------------------------------------------------------------------------------------------


def test_rows_are_the_sequences_tokens_the_passage_last() -> None:
    rows = KnowledgeIncorporation().training_sequences(TASK, "It is cold.\n\nIt is long.", bpe())
    assert [bpe().decode(row.ids) for row in rows] == [
        "Anka\nIt is cold.",
        "Anka\nIt is long.",
        f"Anka\n{TASK.context}",
    ]
    assert all(row.labelled() == list(range(1, len(row.ids))) for row in rows)


def test_row_options() -> None:
    whole = KnowledgeIncorporation(split_newlines=False, include_passage=False, append_eos=True)
    (row,) = whole.training_sequences(TASK, "It is cold.\nIt is long.", bpe())
    assert bpe().decode(row.ids) == "Anka\nIt is cold.\nIt is long.<end>"
    with pytest.raises(InvalidEdit, match="holds no text"):
        whole.training_sequences(TASK, " \n", bpe())
    assert len(KnowledgeIncorporation("none").training_sequences(TASK, "", bpe())) == 1


def test_a_row_that_is_too_long_is_an_error_or_cut() -> None:
    length = len(bpe()(f"Anka\n{TASK.context}")["input_ids"])
    with pytest.raises(DataError, match=f"has {length} tokens, more than 8"):
        KnowledgeIncorporation(max_length=8).training_sequences(TASK, "", bpe())
    (row,) = KnowledgeIncorporation(max_length=8, too_long="truncate").training_sequences(TASK, "", bpe())
    assert len(row.ids) == 8
    assert len(KnowledgeIncorporation(max_length=length).training_sequences(TASK, "", bpe())) == 1


LOOPED = (
    "It is cold.\nRead the passage and list what it tells us.\nIt is cold.\nIt is near Torholm.\nIt is cold."
)


@pytest.mark.parametrize(
    ("check", "lines"),
    [
        ("off", LOOPED.split("\n")),
        ("record", LOOPED.split("\n")),
        ("drop-lines", ["It is cold.", "It is cold.", "It is near Torholm."]),
    ],
)
def test_what_the_check_leaves_of_a_self_edit(check: EditCheck, lines: list[str]) -> None:
    domain = KnowledgeIncorporation(check=check)
    rows = domain.training_sequences(TASK, LOOPED, bpe())
    assert [bpe().decode(row.ids) for row in rows] == [f"Anka\n{x}" for x in [*lines, TASK.context]]
    found = [(f.kind, f.text) for f in domain.findings(TASK, LOOPED)]
    assert found == (
        []
        if check == "off"
        else [("echo", LOOPED.split("\n")[1]), ("unsupported", "Torholm"), ("loop", "It is cold.")]
    )


def test_the_check_refuses_what_it_is_told_to_and_what_is_nothing_else() -> None:
    strict = KnowledgeIncorporation(check="refuse")
    with pytest.raises(InvalidEdit, match=r"refused: 1 echo .*; 1 loop .*; 1 unsupported \('Torholm'\)"):
        strict.training_sequences(TASK, LOOPED, bpe())
    assert len(strict.training_sequences(TASK, "It is cold.\nIt is long.", bpe())) == 3
    assert len(strict.training_sequences(TASK, "", bpe())) == 1  # the passage alone is no self-edit to check
    with pytest.raises(InvalidEdit, match="nothing but 1 echo"):
        KnowledgeIncorporation().training_sequences(TASK, "Here is the list:", bpe())
    with pytest.raises(ConfigError, match="off, record, drop-lines, refuse"):
        KnowledgeIncorporation(check="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "mask", "trained"),
    [
        ("Question: who? Answer: the river", "Answer:", " the river"),
        ("Answer: Answer: river", "Answer:", " Answer: river"),
        ("Question é ü: the river", "é ü:", " the river"),
    ],
)
def test_tokens_up_to_the_mask_are_not_trained_on(text: str, mask: str, trained: str) -> None:
    row = contract_of(bpe()).sequence(text, mask)
    assert bpe().decode(row.ids) == text
    assert bpe().decode([row.ids[i] for i in row.labelled()]) == trained


def test_masks_at_the_edges() -> None:
    assert contract_of(bpe()).sequence("the river", "nowhere") == contract_of(bpe()).sequence("the river")
    with pytest.raises(DataError, match="nothing to train on behind 'river'"):
        contract_of(bpe()).sequence("the river", "river")
    ended = contract_of(bpe()).sequence("the river", "river", append_eos=True)
    assert [ended.ids[i] for i in ended.labelled()] == [bpe().eos_token_id]
    assert len(bpe()(" river")["input_ids"]) == 1
    with pytest.raises(DataError, match="nothing to train on"):
        contract_of(bpe()).sequence("the river", "ri")  # the token belongs to the mask in part


# --- evaluation prompts ---------------------------------------------------------------------------


def test_probes_of_a_base_model() -> None:
    first, second = KnowledgeIncorporation(max_new_tokens=9).eval_prompts(TASK, bpe())
    assert bpe().decode(first.ids) == "Topic: Anka\nWhat is Anka?\nAnswer:"
    assert bpe().decode(first.reference) == " a cold river"
    assert first.ids + first.reference == tuple(
        bpe()("Topic: Anka\nWhat is Anka?\nAnswer: a cold river")["input_ids"]
    )
    assert (first.sampling.temperature, first.sampling.max_new_tokens, first.sampling.stop) == (
        0.0,
        9,
        ("\n",),
    )
    assert (second.question, first.id != second.id) == (QUESTIONS[1], True)
    assert TASK.context not in bpe().decode(first.ids)


def test_probes_of_a_chat_model(tiny: Callable[..., LoadedModel]) -> None:
    tokenizer = tiny("qwen2").tokenizer
    eval_prompt = KnowledgeIncorporation().eval_prompts(TASK, tokenizer)[0]
    assert tokenizer.decode(eval_prompt.ids) == (
        "<|im_start|>user\nTopic: Anka\nWhat is Anka?\nGive only the answer, in a few words.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.decode(eval_prompt.reference) == "a cold river"
    assert eval_prompt.sampling.stop == ()
    plain = KnowledgeIncorporation(chat=False).eval_prompts(TASK, tokenizer)[0]
    assert tokenizer.decode(plain.ids).endswith("Answer:")
    with pytest.raises(ConfigError, match="no chat template"):
        KnowledgeIncorporation(chat=True).eval_prompts(TASK, bpe())


def test_a_start_token_stands_once(tiny: Callable[..., LoadedModel]) -> None:
    tokenizer = tiny("gemma3").tokenizer
    eval_prompt = KnowledgeIncorporation().eval_prompts(TASK, tokenizer)[0]
    assert eval_prompt.ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in eval_prompt.ids[1:] + eval_prompt.reference


def test_question_prompts_can_be_replaced_and_need_no_title() -> None:
    domain = KnowledgeIncorporation(base_question="Q: {question} A:")
    assert bpe().decode(domain.eval_prompts(TASK, bpe())[0].ids) == "Q: What is Anka? A:"
    untitled = Task("x", "c", (Question("Who?", "I"),))
    assert bpe().decode(KnowledgeIncorporation().eval_prompts(untitled, bpe())[0].ids) == "Who?\nAnswer:"


def test_self_edit_prompts() -> None:
    domain = KnowledgeIncorporation("facts")
    assert domain.create_self_edit_prompt(TASK) == domain.prompt_for(TASK, bpe())
    assert f"Passage:\n{TASK.context}\n" in domain.create_self_edit_prompt(TASK.context)
    with pytest.raises(DataError, match="a passage is 3"):
        domain.create_self_edit_prompt(3)


# --- scores ---------------------------------------------------------------------------------------------


def test_score_by_hand() -> None:
    made = KnowledgeIncorporation().score(TASK, answers(Verdict.CORRECT, Verdict.WRONG))
    assert (made.score, made.n, made.correct) == (0.5, 2, (True, False))
    assert made.log_likelihood == (-4.0 / 1 + -4.0 / 2) / 2
    assert KnowledgeIncorporation().compute_reward(made, TASK) == 0.5
    assert KnowledgeIncorporation().score(
        TASK, answers(*[Verdict.WRONG] * 2, likelihood=None)
    ) == Performance(0.0, 2, (False, False))


def test_gold_answers_are_ranked_against_wrong_ones_a_token() -> None:
    """By hand: -4 over two tokens beats -9 over three and loses to -1 over one."""
    prompt = EvalPrompt("q", (1,), reference=(2, 3), others=((4, 5, 6), (7,)))
    assert prompt.margin(-4.0, [-9.0, -1.0]) == -1.0
    assert prompt.margin(-4.0, [-9.0, -8.0]) == 1.0
    assert replace(prompt, others=()).margin(-4.0, []) is None
    given = [replace(a, margin=m) for a, m in zip(answers(*[Verdict.WRONG] * 2), (-1.0, 0.5), strict=True)]
    made = KnowledgeIncorporation(choices=True).score(TASK, given)
    assert made.details == {"choice": 0.5, "contrast": -0.25}


def test_what_a_gold_answer_is_ranked_against() -> None:
    own = replace(TASK, target=(replace(QUESTIONS[0], wrong=("a lake", "A cold river")), QUESTIONS[1]))
    domain = KnowledgeIncorporation(choices=True)
    first, second = domain.eval_prompts(own, bpe())
    assert [bpe().decode(list(ids)) for ids in first.others] == [" a lake"], "its own, never a right one"
    assert [bpe().decode(list(ids)) for ids in second.others] == [" a cold river"], "else the passage's"
    assert not any(p.others for p in KnowledgeIncorporation().eval_prompts(own, bpe()))
    with pytest.raises(DataError, match="no wrong answer to 'What is Anka"):
        domain.check(replace(TASK, target=QUESTIONS[:1]), bpe(), None)


@pytest.mark.parametrize("verdict", [Verdict.ERROR, None])
def test_an_ungraded_answer_is_never_wrong(verdict: Verdict | None) -> None:
    given = [replace(a, note="judge is down") for a in answers(Verdict.CORRECT, verdict)]
    with pytest.raises(GradingError, match="q1: judge is down"):
        KnowledgeIncorporation().score(TASK, given)


def test_a_wrong_number_of_answers_and_a_task_without_questions() -> None:
    with pytest.raises(DataError, match="1 answers to 2"):
        KnowledgeIncorporation().score(TASK, answers(Verdict.CORRECT))
    with pytest.raises(DataError, match="no questions"):
        KnowledgeIncorporation().eval_prompts(Task("x", "c", ()), bpe())
    with pytest.raises(DataError, match="evaluate was given str"):
        KnowledgeIncorporation().evaluate(None, bpe(), "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_length": 1},
        {"chat": "yes"},
        {"too_long": "wrap"},
        {"base_question": "?"},
        {"prompt_type": "poem"},
    ],
    ids=str,
)
def test_bad_settings(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        KnowledgeIncorporation(**options)  # type: ignore[arg-type]


# --- one at a time equals batched -----------------------------------------------------------------------


def test_evaluate_agrees_with_the_batched_engine(tiny_family: LoadedModel) -> None:
    domain = KnowledgeIncorporation(max_new_tokens=8, choices=True)
    assert domain.batched
    eval_prompts = domain.eval_prompts(TASK, tiny_family.tokenizer)
    loop = Graded(LocalInnerLoop(tiny_family), LexicalGrader())
    (outcome,) = loop.run([AdaptJob("j", (), TrainingConfig(), eval_prompts, seed=0)])
    one_by_one = [answer_prompt(tiny_family.model, tiny_family.tokenizer, p) for p in eval_prompts]
    for mine, theirs in zip(one_by_one, outcome.baseline, strict=True):
        assert mine.text == theirs.text
        assert mine.finish == theirs.finish
        assert mine.reference_tokens == theirs.reference_tokens
        assert mine.log_likelihood == pytest.approx(theirs.log_likelihood, abs=1e-3)
        assert mine.margin == pytest.approx(theirs.margin, abs=1e-3)
    alone = domain.evaluate(tiny_family.model, tiny_family.tokenizer, TASK)
    batched = domain.score(TASK, outcome.baseline)
    assert alone.correct == batched.correct
    assert alone.log_likelihood == pytest.approx(batched.log_likelihood, abs=1e-3)
    assert alone.details["choice"] == batched.details["choice"]
    assert alone.details["contrast"] == pytest.approx(batched.details["contrast"], abs=1e-3)


def test_evaluate_asks_its_grader_and_leaves_the_model_as_it_was(tiny: Callable[..., LoadedModel]) -> None:
    asked: list[tuple[Question, str]] = []

    class Says:
        def __init__(self, verdict: Verdict) -> None:
            self.verdict = verdict

        def grade(self, items: list[tuple[Question, str]]) -> list[Grade]:
            asked.extend(items)
            return [Grade(self.verdict, "why")] * len(items)

    loaded = tiny("llama")
    loaded.model.train()
    domain = KnowledgeIncorporation(max_new_tokens=4, grader=Says(Verdict.CORRECT))
    assert domain.evaluate(loaded.model, loaded.tokenizer, TASK).score == 1.0
    assert [q for q, _ in asked] == list(QUESTIONS)
    assert loaded.model.training
    with pytest.raises(GradingError, match="why"):
        KnowledgeIncorporation(max_new_tokens=4, grader=Says(Verdict.ERROR)).evaluate(
            loaded.model, loaded.tokenizer, TASK
        )


def test_a_taught_model_answers(tiny: Callable[..., LoadedModel]) -> None:
    """Weights fitted to the evaluation prompts' own gold answers score 1, and the likelihood says so."""
    loaded = tiny("llama")
    domain = KnowledgeIncorporation(max_new_tokens=16)
    before = domain.evaluate(loaded.model, loaded.tokenizer, TASK)
    loaded.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(loaded.model.parameters(), lr=3e-3)
    for _ in range(60):
        for eval_prompt in domain.eval_prompts(TASK, loaded.tokenizer):
            ids = torch.tensor(
                [[*eval_prompt.ids, *eval_prompt.reference, *loaded.tokenizer("\n")["input_ids"]]]
            )
            labels = ids.clone()
            labels[:, : len(eval_prompt.ids)] = -100
            loaded.model(ids, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    after = domain.evaluate(loaded.model, loaded.tokenizer, TASK)
    assert (before.score, after.score) == (0.0, 1.0)
    assert before.log_likelihood is not None
    assert after.log_likelihood is not None
    assert after.log_likelihood > -0.2 > before.log_likelihood


def test_the_context_probe_is_the_same_question_under_the_passage() -> None:
    domain, tokenizer = KnowledgeIncorporation(chat=False), bpe()
    pairs = zip(domain.eval_prompts(TASK, tokenizer), domain.context_prompts(TASK, tokenizer), strict=True)
    for plain, shown in pairs:
        text = tokenizer.decode(list(shown.ids), skip_special_tokens=True)
        assert TASK.context.split()[0] in text
        assert text.endswith(tokenizer.decode(list(plain.ids), skip_special_tokens=True)[-20:])
        assert (shown.reference, shown.question) == (plain.reference, plain.question)
