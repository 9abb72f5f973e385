"""Self-edits: how the policy is asked for one, how it is drawn, and which training sequences it becomes.

Templates are data: a config may replace or add any. The wordings are this project's own; layout and the rules
for sequences are the official ones (paper, appendix B.1 and B.6), so published completions can be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random
from string import Formatter
from typing import TYPE_CHECKING, Any

from seal.cloze import gaps
from seal.errors import ConfigError, DataError, GenerationError
from seal.plugins import taken
from seal.prompt import contract_of
from seal.records import Sampling, SelfEdit, Task
from seal.seeds import derive
from seal.thoughts import without_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seal.domains.base import BaseDomain
    from seal.protocols import Generator


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """How one kind of self-edit is asked for; `{context}` and `{title}` are filled in."""

    base: str
    """For models that continue text: ends where the completion starts. Empty: nothing is generated."""
    chat: str
    """For chat models: the user's message."""

    def render(self, context: str, title: str = "", *, chat: bool = False) -> str:
        """The prompt text; a passage without a title leaves no empty line behind."""
        text = self.chat if chat else self.base
        if not title:
            text = text.replace("{title}\n", "")
        return text.format(context=context.strip(), title=title)


def _template(ask: str, cue: str) -> PromptTemplate:
    passage = "Passage:\n{title}\n{context}"
    return PromptTemplate(base=f"{ask}\n\n{passage}\n\n{cue}", chat=f"{ask}\n\n{passage}")


TEMPLATES: dict[str, PromptTemplate] = {
    "implications": _template(
        "Read the passage and list what it tells us, directly or by implication. Write one short statement a "
        "line, and name the people, places and numbers in full in every line.",
        "Implications:\n",
    ),
    "implications-long": _template(
        "Read the passage and write a long list of what it tells us, directly or by implication. Write one "
        "statement a line, name everything in full, and cover every sentence of the passage.",
        "Implications:\n",
    ),
    "implications-very-long": _template(
        "Read the passage and write a very long list of everything that it tells us, directly or by "
        "implication. Write one statement a line, name everything in full, say each fact in several ways, "
        "and go on until nothing in the passage is left out.",
        "Implications:\n",
    ),
    "questions_answers": _template(
        "Read the passage and write questions with short answers about its facts. Number them, in the form "
        "'Question 1: ...' and, on the next line, 'Answer: ...'. Name everything in full.",
        "Question 1:",
    ),
    "self-qa": _template(
        "Rewrite the passage as numbered questions and answers, 'Question 1: ...' then 'Answer: ...', until "
        "everything in it has been asked.",
        "Question 1:",
    ),
    "rewrite": _template(
        "Rewrite the passage several times in other words. Keep every name, number and fact. Put a line with "
        "--- between the versions.",
        "Rewritten:\n",
    ),
    "facts": _template(
        "List the facts in the passage. Write one fact a line as a full sentence, and repeat the names and "
        "numbers exactly as they stand.",
        "Facts:\n",
    ),
    "study_plan": _template(
        "Plan how to study the passage, so that questions about it can be answered from memory. Write JSON "
        "with material (passage, sentences, orders, gaps, or gaps and passage), form (text or answers) and "
        "learning_rate.",
        "Plan:\n",
    ),
    "none": PromptTemplate(base="", chat=""),
}
"""Built-in templates by `prompt_type`; `none` generates nothing, so that the passage alone is trained on."""


FIXED = ("questions_answers", "facts", "implications", "rewrite")
"""Kinds of self-edit that the arm of fixed prompts asks for, beside pairs of names. Questions come first: the
first text of a self-edit with questions is taken for one."""
PAIRS = 4
"""Pairs of names that it asks about."""


def fixed_templates(passage: str, seed: int) -> list[PromptTemplate]:
    """What needs no learning: prompts of several kinds, and of pairs of names that the passage holds, how
    they are related (after EntiGraph, arXiv 2409.07431; names are found by rule). `seed` draws the pairs.
    """
    names = dict.fromkeys(gap.answer for gap in gaps(passage) if gap.kind == "name")
    pairs = list(combinations(names, 2))
    drawn = Random(seed).sample(pairs, min(PAIRS, len(pairs)))
    return [*(TEMPLATES[name] for name in FIXED), *(_related(*pair) for pair in drawn)]


def _related(first: str, second: str) -> PromptTemplate:
    first, second = (name.replace("{", "{{").replace("}", "}}") for name in (first, second))
    return _template(
        f"Read the passage and explain how {first} and {second} are related in it. Write short sentences, "
        "and name both in every sentence.",
        f"How {first} and {second} are related:\n",
    )


def resolve_template(name: str, custom: Mapping[str, Any] | None = None) -> PromptTemplate:
    """The template called `name`, from `custom` before the built-in ones.

    A custom template is a string (used for base and chat models) or a mapping with `base`, `chat` or both.

    Raises:
        ConfigError: unknown name, a template without `{context}`, or an unknown placeholder.
    """
    known = dict(TEMPLATES)
    for key, value in (custom or {}).items():
        known[key] = _custom_template(key, value)
    if name not in known:
        raise ConfigError(f"unknown prompt_type {name!r}", f"choose one of {', '.join(sorted(known))}")
    return known[name]


def _custom_template(name: str, value: Any) -> PromptTemplate:
    if isinstance(value, PromptTemplate):
        value = {"base": value.base, "chat": value.chat}
    if isinstance(value, str):
        value = {"base": value}
    if not isinstance(value, Mapping) or not value or set(value) - {"base", "chat"}:
        raise ConfigError(f"template {name!r} is {value!r}", "give a text, or a mapping with base and chat")
    for text in value.values():
        _check_placeholders(name, text)
    first = next(iter(value.values()))
    return PromptTemplate(base=value.get("base", first), chat=value.get("chat", first))


def _check_placeholders(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"template {name!r} is {text!r}", "give a text")
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"template {name!r}: {error}", "write a literal brace twice: {{ or }}") from None
    fields = {field for _, field, _, _ in parts if field is not None}
    if unknown := sorted(fields - {"context", "title"}):
        raise ConfigError(
            f"template {name!r} has the unknown placeholder {{{unknown[0]}}}",
            "use {context} and {title}; write a literal brace twice",
        )
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ConfigError(f"template {name!r} formats a placeholder", "write plain {context} and {title}")
    if "context" not in fields:
        raise ConfigError(f"template {name!r} lacks {{context}}", "say where the passage goes")


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` as the user's turn in the tokenizer's chat template, up to where the model's turn starts."""
    return contract_of(tokenizer).user_turn(text)


class SelfEditGenerator:
    """Draws self-edits from the policy (paper, Algorithm 1, line 4).

    Args:
        generator: the policy's engine.
        domain: writes the prompts.
        tokenizer: the policy's, for chat templates; None where a server adds its own.
        sampling: temperature, top-p and length of the completions.
        run_seed: every completion's seed derives from it, the task, the edit's number and the iteration.
        plain: writes to the domain's fixed prompts, where `generator` is held to a form; None: `generator`.
    """

    def __init__(
        self,
        generator: Generator,
        domain: BaseDomain,
        tokenizer: PreTrainedTokenizerBase | None,
        sampling: Sampling,
        run_seed: int = 0,
        plain: Generator | None = None,
    ) -> None:
        self.generator, self.domain, self.tokenizer = generator, domain, tokenizer
        self.sampling, self.run_seed, self.plain = sampling, run_seed, plain or generator

    def generate(
        self,
        tasks: Sequence[Task],
        n: int,
        policy_version: str,
        iteration: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[SelfEdit]:
        """`n` edits for every task, grouped by task. All prompts go to the engine in one call.

        `progress(done, total)` is called as completions end, by engines that say so, and at the end.

        A domain whose prompt is empty (`prompt_type: none`) gets empty edits, and nothing is generated.

        Raises:
            ConfigError: `n` is not positive.
            DataError: two tasks share an id, or a prompt is not a text.
            GenerationError: the policy could not write, or wrote another number of completions.
        """
        if n < 1:
            raise ConfigError(f"{n} self-edits a task", "ask for at least 1")
        if len({task.id for task in tasks}) < len(tasks):
            raise DataError("two tasks have the same id", "give every task an id of its own")
        drafts = [
            SelfEdit(
                id=f"{task.id}.i{iteration}.e{k}",
                task_id=task.id,
                prompt=prompt,
                completion="",
                seed=derive(self.run_seed, task.id, k, iteration),
                policy=policy_version,
            )
            for task in tasks
            for prompt in [self._prompt(task)]
            for k in range(n)
        ]
        # Exploring is for rounds: an evaluation asks for what the policy itself would do.
        sampling = self.sampling if iteration >= 0 else replace(self.sampling, explore=0.0)
        return self._complete(self.generator, drafts, sampling, progress or (lambda done, total: None))

    def fixed_drafts(self, tasks: Sequence[Task], policy_version: str) -> list[SelfEdit]:
        """The domain's fixed prompts for every task, grouped by task, with nothing written yet."""
        return [
            SelfEdit(
                id=f"{task.id}.fixed{k}",
                task_id=task.id,
                prompt=prompt,
                completion="",
                seed=derive(self.run_seed, task.id, "fixed", k),
                policy=policy_version,
            )
            for task in tasks
            for k, prompt in enumerate(self.domain.fixed_prompts(task, self.tokenizer))
        ]

    def complete(self, drafts: list[SelfEdit], progress: Callable[[int, int], None]) -> list[SelfEdit]:
        """Drafts with plain texts in them, see `fixed_drafts`. Raises as `generate` does."""
        return self._complete(self.plain, drafts, replace(self.sampling, explore=0.0), progress)

    def _prompt(self, task: Task) -> str:
        prompt = self.domain.prompt_for(task, self.tokenizer)
        if not isinstance(prompt, str):
            raise DataError(
                f"task {task.id!r}: {type(self.domain).__name__} gave {type(prompt).__name__} as its prompt",
                "return a text from create_self_edit_prompt",
            )
        return prompt

    def _complete(
        self,
        generator: Generator,
        drafts: list[SelfEdit],
        sampling: Sampling,
        progress: Callable[[int, int], None],
    ) -> list[SelfEdit]:
        asked = [edit for edit in drafts if edit.prompt]
        if not asked:
            return drafts
        progress(0, len(asked))
        generate = generator.generate
        telling = taken(generate, {"progress": progress})
        written = generate([e.prompt for e in asked], sampling, [e.seed for e in asked], **telling)
        progress(len(asked), len(asked))
        if len(written) != len(asked):
            raise GenerationError(f"{len(asked)} prompts gave {len(written)} completions", "check the server")
        done = {
            edit.id: replace(
                edit,
                completion=text.text,
                n_tokens=text.n_tokens,
                finish=text.finish,
                choices=text.choices,
            )
            for edit, text in zip(asked, written, strict=True)
        }
        return [done.get(edit.id, edit) for edit in drafts]


_QUESTION = re.compile(r"(?=Question \d+:)")


def sequence_texts(
    completion: str, title: str, context: str, split_newlines: bool, include_passage: bool = True
) -> list[str]:
    """The texts to train on: the completion's parts, each under the title, and the passage last.

    The completion is split at `---`. With `split_newlines` every non-empty line is a sequence of its own, but
    a completion of questions and answers is split before each `Question N:` (the first gets `Question 1: `
    where it has none), and a first line is dropped when the second begins with `1.` (an announcement).
    Everything is stripped, and thoughts are left out. Same results as the official code on its published
    completions.
    """
    completion = without_thoughts(completion)
    parts = [part.strip() for part in completion.split("---")]
    if split_newlines:
        parts = _split_questions(parts) if _is_questions(completion) else _split_lines(parts)
    texts = [part for part in parts if part]
    if include_passage:
        texts.append(context.strip())
    return [f"{title}\n{text}" if title else text for text in texts]


def _is_questions(completion: str) -> bool:
    return "Answer:" in completion and re.search(r"Question \d+:", completion) is not None


def _split_questions(parts: Sequence[str]) -> list[str]:
    texts = [text.strip() for part in parts for text in _QUESTION.split(part) if text.strip()]
    if texts and not re.match(r"Question \d+:", texts[0]):
        texts[0] = f"Question 1: {texts[0]}"
    return texts


def _split_lines(parts: Sequence[str]) -> list[str]:
    lines = [line.strip() for part in parts for line in part.split("\n") if line.strip()]
    return lines[1:] if len(lines) > 1 and lines[1].startswith("1.") else lines
