"""Knowledge incorporation: learn a passage so that questions are answered without it (paper, section 3.1).

Differences from the official code: rows are not padded, so no pad is trained on; base models get an `Answer:`
cue and stop at the end of the line; the gold answers' log-likelihood is measured beside the accuracy.
Rows are plain tokens of the text, as there: no end-of-text token unless `append_eos` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from seal.constrained import constrained, draw
from seal.data.invented import world_of
from seal.domains.base import BaseDomain, InvalidEdit, gold_log_likelihood, ranked
from seal.domains.study_plan import PlanSpace, StudyPlan, oracle_plan, parse_plan
from seal.errors import ConfigError, DataError, GradingError
from seal.grading import Grader, LexicalGrader
from seal.prompt import contract_of
from seal.records import (
    Answer,
    EditFinding,
    EvalPrompt,
    Performance,
    Question,
    Sampling,
    Task,
    TrainingConfig,
    TrainingSequence,
    Verdict,
)
from seal.sections import EditCheck
from seal.seeds import derive
from seal.self_edit import PromptTemplate, fixed_templates, resolve_template, sequence_texts
from seal.self_edit_check import check_edit, summary, without_loops
from seal.thoughts import without_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seal.protocols import Generator

BASE_QUESTION = "Topic: {title}\n{question}\nAnswer:"
CHAT_QUESTION = "Topic: {title}\n{question}\nGive only the answer, in a few words."


class KnowledgeIncorporation(BaseDomain):
    """Passages in, questions without the passage out.

    Args:
        prompt_type: name of the self-edit template (`seal.self_edit.TEMPLATES` or one of `templates`).
        templates: the user's own templates by name.
        split_newlines: every line of a self-edit is a training sequence of its own.
        include_passage: train on the passage too.
        chat: whether the model is asked through its chat template; "auto": when the tokenizer has one.
        base_question, chat_question: question prompts with `{title}` and `{question}`.
        max_new_tokens: length of an answer, in tokens.
        max_length: longest training row, in tokens; the tokenizer's own limit holds as well.
        too_long: what happens to a longer row: "error" or "truncate".
        choices: rank every gold answer against wrong ones (the question's, or else the other answers of the
            passage) by their likelihood, for the rewards `choice` and `contrast`.
        append_eos: end every row with the end-of-text token.
        check: what happens to a self-edit with loops, echoes or unsupported names (`seal.self_edit_check`):
            "off", "record" them, "drop-lines" that loop or echo, "refuse" the self-edit.
        plans: of prompt_type study_plan: what a plan chooses from (`seal.domains.study_plan.PlanSpace`).
        grader: used by `evaluate`; the lexical grader by default.
    """

    def __init__(
        self,
        prompt_type: str = "implications",
        *,
        templates: Mapping[str, Any] | None = None,
        split_newlines: bool = True,
        include_passage: bool = True,
        chat: bool | Literal["auto"] = "auto",
        base_question: str = BASE_QUESTION,
        chat_question: str = CHAT_QUESTION,
        max_new_tokens: int = 64,
        max_length: int = 2048,
        too_long: Literal["error", "truncate"] = "error",
        append_eos: bool = False,
        choices: bool = False,
        check: EditCheck = "drop-lines",
        plans: Mapping[str, Any] | None = None,
        grader: Grader | None = None,
    ) -> None:
        if max_new_tokens < 1 or max_length < 2:
            raise ConfigError(
                f"max_new_tokens is {max_new_tokens}, max_length {max_length}", "give at least 1 and 2 tokens"
            )
        if chat not in (True, False, "auto") or too_long not in ("error", "truncate"):
            raise ConfigError(
                f"chat is {chat!r}, too_long {too_long!r}",
                "chat is true, false or auto; too_long is error or truncate",
            )
        for text in (base_question, chat_question):
            if "{question}" not in text:
                raise ConfigError(f"question prompt {text!r} lacks {{question}}", "say where it goes")
        self.prompt_type = prompt_type
        self.template = resolve_template(prompt_type, templates)
        self.plan_space = _plan_space(plans) if prompt_type == "study_plan" else None
        self.split_newlines, self.include_passage, self.chat = split_newlines, include_passage, chat
        self.base_question, self.chat_question = base_question, chat_question
        self.max_new_tokens, self.max_length, self.too_long = max_new_tokens, max_length, too_long
        if check not in get_args(EditCheck):
            raise ConfigError(f"check is {check!r}", f"choose {', '.join(get_args(EditCheck))}")
        self.append_eos, self.edit_check, self.choices = append_eos, check, choices
        self.grader: Grader = grader or LexicalGrader()

    def create_self_edit_prompt(self, context: Any) -> str:
        """The prompt for a passage (a text, or a `Task`), before any chat template."""
        title = ""
        if isinstance(context, Task):
            context, title = context.context, context.title
        return self.template.render(_passage(context), title, chat=self.chat is True)

    def prompt_for(self, task: Task, tokenizer: PreTrainedTokenizerBase | None) -> str:
        """The complete prompt for `task`, title and chat template included; empty: nothing to generate."""
        return self._rendered(self.template, task, tokenizer)

    def fixed_prompts(self, task: Task, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, ...]:
        """Four kinds of self-edit, and how pairs of the passage's names are related
        (`seal.self_edit.fixed_templates`).
        """
        templates = fixed_templates(_passage(task.context), derive(0, task.id, "pairs"))
        return tuple(self._rendered(template, task, tokenizer) for template in templates)

    def joined(self, task: Task, completions: Sequence[str]) -> str:
        """The texts that each completion would be trained on by itself, in one self-edit."""
        texts: list[str] = []
        for completion in completions:
            with suppress(InvalidEdit):
                left = self._checked(task, completion)
                texts += sequence_texts(left, "", "", self.split_newlines, include_passage=False)
        return "\n---\n".join(texts)

    def _rendered(
        self, template: PromptTemplate, task: Task, tokenizer: PreTrainedTokenizerBase | None
    ) -> str:
        chat = self.chat is True if tokenizer is None else self.uses_chat(tokenizer)
        text = template.render(_passage(task.context), task.title, chat=chat)
        return contract_of(tokenizer).user_turn(text) if tokenizer is not None and chat and text else text

    def uses_chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether prompts go through the chat template. Raises `ConfigError`, or `ModelError`."""
        return contract_of(tokenizer).uses_chat(self.chat)

    def training_sequences(
        self, task: Task, completion: str, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[TrainingSequence, ...]:
        """Rows of the self-edit's sequences, the passage last; without what its check drops.

        Raises:
            InvalidEdit: there is nothing to train on, a row is longer than `max_length`, or the check refuses
                the self-edit.
        """
        plan = self.plan(completion)
        if plan is not None:
            return tuple(self._fitted(row, task, tokenizer) for row in self._studied(plan, task, tokenizer))
        texts = sequence_texts(
            self._checked(task, completion),
            task.title,
            _passage(task.context),
            self.split_newlines,
            self.include_passage,
        )
        contract = contract_of(tokenizer)
        rows = [contract.sequence(text, append_eos=self.append_eos) for text in texts]
        rows = [self._fitted(row, task, tokenizer) for row in rows if row.labelled()]
        if not rows:
            raise InvalidEdit(f"task {task.id!r}: the self-edit holds no text to train on")
        return tuple(rows)

    def plan(self, completion: str) -> StudyPlan | None:
        """The study plan that a completion is; None where self-edits are texts (or no policy wrote any).

        Raises:
            InvalidEdit: it should be a plan, and is none.
        """
        completion = without_thoughts(completion)
        if not self._planned(completion):
            return None
        try:
            return parse_plan(completion)
        except DataError as error:
            raise InvalidEdit(error.message, error.fix) from error

    def _planned(self, completion: str) -> bool:
        """Whether it is, or should be, a study plan."""
        return self.plan_space is not None and completion.lstrip().startswith("{")

    def _studied(
        self, plan: StudyPlan, task: Task, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[TrainingSequence]:
        """A plan's exercises: those with a question are asked as in a test, and their answer is learned.

        No gap that the task itself asks is among them: a reward must not ask what was trained on.
        """
        contract, chat = contract_of(tokenizer), self.uses_chat(tokenizer)
        exercises = plan.material_of(_passage(task.context), task.title, kept_out=_asked(task))
        if not exercises:
            raise InvalidEdit(
                f"task {task.id!r}: the passage has no gap to train on that the task does not ask",
                "choose a plan with other material, or a longer passage",
            )
        for exercise in exercises:
            if not exercise.question:
                text = f"{task.title}\n{exercise.answer}" if task.title else exercise.answer
                yield contract.sequence(text, append_eos=self.append_eos)
                continue
            asked = self.question_prompt(Question(exercise.question, exercise.answer), task.title, chat)
            prompt = contract.user_turn(asked) if chat else asked
            gold = exercise.answer if chat else f" {exercise.answer}\n"
            ids, answer = contract.continued(prompt, gold)
            if chat:
                answer += contract.ending(prompt)
            yield TrainingSequence(ids + answer, ((len(ids), len(ids) + len(answer)),))

    def training_config(self, completion: str, base: TrainingConfig) -> TrainingConfig:
        """`base`, with a study plan's learning rate."""
        plan = self.plan(completion)
        return base if plan is None else replace(base, learning_rate=plan.learning_rate)

    def sampler(self, generator: Generator, tokenizer: PreTrainedTokenizerBase) -> Generator:
        """The generator of self-edits: study plans are constrained where `generator` can score texts."""
        return generator if self.plan_space is None else constrained(generator, tokenizer, self.plan_space)

    def findings(self, task: Task, completion: str) -> tuple[EditFinding, ...]:
        """Loops, echoes of the instruction, and names and numbers that the passage lacks."""
        completion = without_thoughts(completion)
        if self.edit_check == "off" or not completion.strip() or self._planned(completion):
            return ()
        asked = f"{self.template.base}\n{self.template.chat}"
        return check_edit(completion, asked, _passage(task.context), task.title)

    def _checked(self, task: Task, completion: str) -> str:
        """The completion without its thoughts, or what the check leaves of it."""
        completion, whole = without_thoughts(completion), completion
        if whole.strip() and not completion.strip():
            raise InvalidEdit(
                f"task {task.id!r}: the self-edit is nothing but a thought",
                "switch thinking off, or raise generation.max_new_tokens",
            )
        found = self.findings(task, completion) if self.edit_check in ("drop-lines", "refuse") else ()
        if found and self.edit_check == "refuse":
            raise InvalidEdit(
                f"task {task.id!r}: the self-edit was refused: {summary(found)}",
                "set generation.check to drop-lines to train on the rest",
            )
        left = without_loops(completion, found)
        if found and not re.search(r"\w", left):
            raise InvalidEdit(f"task {task.id!r}: nothing but {summary(found)} in the self-edit")
        return left

    def check(self, task: Task, tokenizer: PreTrainedTokenizerBase, window: int | None) -> None:
        """Raise `DataError` for a passage that no adapter could be trained on: longer than allowed, or than
        the model's `window`, in tokens.
        """
        lonely = [q for q in _questions(task) if not _wrong(q, task)] if self.choices else []
        if lonely:
            raise DataError(
                f"task {task.id!r}: no wrong answer to {lonely[0].question!r:.80}",
                "give the question wrong answers, or choose a reward other than choice and contrast",
            )
        if not self.include_passage:
            return
        longest = max(len(row.ids) for row in self.training_sequences(task, "", tokenizer))
        if window is not None and longest > window:
            raise DataError(
                f"task {task.id!r}: the passage has {longest} tokens, and the model's window is {window}",
                "split the passage, or lower max_length and set data_config.options.too_long to truncate",
            )

    def _fitted(
        self, row: TrainingSequence, task: Task, tokenizer: PreTrainedTokenizerBase
    ) -> TrainingSequence:
        limit = min(self.max_length, getattr(tokenizer, "model_max_length", None) or self.max_length)
        if len(row.ids) <= limit:
            return row
        if self.too_long == "truncate":
            return TrainingSequence(row.ids[:limit])
        raise InvalidEdit(
            f"task {task.id!r}: a training row has {len(row.ids)} tokens, more than {limit}",
            "split the passage, or set data_config.options.too_long to truncate",
        )

    def eval_prompts(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[EvalPrompt, ...]:
        """One greedy prompt a question, without the passage; the reference is the gold answer's tokens."""
        return self._eval_prompts(task, tokenizer, "")

    def context_prompts(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[EvalPrompt, ...]:
        """The same questions under the passage."""
        return self._eval_prompts(task, tokenizer, f"{_passage(task.context)}\n\n")

    def _eval_prompts(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, above: str
    ) -> tuple[EvalPrompt, ...]:
        contract, chat = contract_of(tokenizer), self.uses_chat(tokenizer)
        stop = () if chat else ("\n",)
        sampling = Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens, stop=stop)
        eval_prompts = []
        for number, question in enumerate(_questions(task)):
            prompt = above + self.question_prompt(question, task.title, chat)
            text = contract.user_turn(prompt) if chat else prompt
            gold = question.answer if chat else f" {question.answer}"
            ids, reference = contract.continued(text, gold)
            wrong = _wrong(question, task) if self.choices else ()
            others = tuple(contract.continued(text, answer if chat else f" {answer}")[1] for answer in wrong)
            name = f"{task.id}.q{number}"
            eval_prompts.append(EvalPrompt(name, ids, sampling, reference, question, others))
        return tuple(eval_prompts)

    def reference_edits(self, task: Task) -> dict[str, str]:
        """`passage`: train on the passage alone; where self-edits are study plans also `random`, a plan drawn
        evenly, and for invented worlds `oracle`, the facts themselves as questions.
        """
        if self.plan_space is None:
            return {"passage": ""}
        named = {"passage": "", "random": draw(self.plan_space, derive(0, task.id), "plan")}
        world = world_of(task.id)
        if world is not None:
            named["oracle"] = oracle_plan(world.reward, max(self.plan_space.learning_rates))
        return named

    def question_prompt(self, question: Question, title: str = "", chat: bool = False) -> str:
        """The text that asks `question`; without a title its line is left out."""
        text = self.chat_question if chat else self.base_question
        title = question.title or title
        if not title:
            text = text.replace("Topic: {title}\n", "")
        return text.replace("{title}", title).replace("{question}", question.question)

    def score(self, task: Task, answers: Sequence[Answer]) -> Performance:
        """Share of correct answers, and the mean over questions of the gold log-likelihood a token.

        Where wrong answers were ranked, the details hold the share of gold ones above all of them (`choice`)
        and by how much on average (`contrast`, in nats a token).

        Raises:
            GradingError: an answer has no verdict or an error for one.
            DataError: not one answer a question.
        """
        if len(answers) != len(_questions(task)):
            raise DataError(f"task {task.id!r}: {len(answers)} answers to {len(_questions(task))} questions")
        for answer in answers:
            if answer.verdict not in (Verdict.CORRECT, Verdict.WRONG):
                why = answer.note or "it was not graded"
                raise GradingError(f"no verdict for {answer.prompt_id}: {why}", "check the grader and resume")
        correct = tuple(answer.verdict is Verdict.CORRECT for answer in answers)
        return Performance(
            score=sum(correct) / len(correct),
            n=len(correct),
            correct=correct,
            log_likelihood=gold_log_likelihood(answers),
            details=ranked(answers),
        )

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Any) -> Performance:
        """The performance of `model` on `task`, one question at a time, by the same prompts as in a batch."""
        if not isinstance(task, Task):
            raise DataError(f"evaluate was given {type(task).__name__}", "give a seal.records.Task")
        from seal.domains.answering import answer_prompt

        eval_prompts = self.eval_prompts(task, tokenizer)
        answers = [answer_prompt(model, tokenizer, eval_prompt) for eval_prompt in eval_prompts]
        said = [without_thoughts(a.text) for a in answers]
        pairs = list(zip(_questions(task), said, strict=True))
        graded = zip(answers, self.grader.grade(pairs), strict=True)
        return self.score(task, [replace(a, verdict=g.verdict, note=g.note) for a, g in graded])

    def compute_reward(self, performance: Any, task: Any) -> float:
        """The score in [0, 1]; reward models compare it with the score before adapting."""
        return float(performance.score if isinstance(performance, Performance) else performance)


def _plan_space(given: Mapping[str, Any] | None) -> PlanSpace:
    try:
        return PlanSpace(**{name: tuple(values) for name, values in (given or {}).items()})
    except TypeError as error:
        raise ConfigError(f"plans is {given!r}: {error}", "see seal.domains.study_plan.PlanSpace") from error


def _passage(context: Any) -> str:
    if not isinstance(context, str) or not context.strip():
        raise DataError(
            f"a passage is {context!r:.80}", "knowledge incorporation needs a text as the task's context"
        )
    return context


def _wrong(question: Question, task: Task) -> tuple[str, ...]:
    """Wrong answers to `question`: its own, or else the other answers of the passage."""
    accepted = {answer.casefold() for answer in question.accepted}
    answers = question.wrong or [other.answer for other in _questions(task)]
    return tuple(dict.fromkeys(a for a in answers if a.strip() and a.casefold() not in accepted))


def _questions(task: Task) -> tuple[Question, ...]:
    questions = task.target if isinstance(task.target, tuple | list) else ()
    if not questions or not all(isinstance(q, Question) for q in questions):
        raise DataError(f"task {task.id!r} has no questions", "give every passage at least one question")
    return tuple(questions)


def _asked(task: Task) -> frozenset[str]:
    """The texts of a task's questions, if it has any."""
    questions = task.target if isinstance(task.target, tuple | list) else ()
    return frozenset(q.question for q in questions if isinstance(q, Question))
