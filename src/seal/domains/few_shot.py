"""Few-shot learning on ARC: the self-edit is a training recipe for one puzzle (paper, section 3.2).

The policy sees a task's demonstrations and chooses augmentations, loss, learning rate and epochs. The inner
loop trains on leave-out tasks made of the demonstrations; the adapted model answers the test input through
several views, demonstrations in context, and the answers vote for two attempts.

Differences from the official code, each with an option: one token a cell instead of about two
(`serialisation`), votes are counted (`vote`), translations move input and output together
(`shared_translation`), an invalid recipe is kept with its reason and earns 0 instead of being drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from seal.arc.augment import augmenters, named
from seal.arc.grammar import RecipeSpace
from seal.arc.grid import Pair, to_array, to_pair
from seal.arc.outcome import Detail, read_votes
from seal.arc.recipe import (
    COLOUR_FLAG,
    FLAGS,
    STRATEGIES,
    ArcRecipe,
    RecipeError,
    check_steps,
    parse_recipe,
)
from seal.arc.serialise import END, Codec, LossOn, Style, encode_pair
from seal.arc.synthetic import rule_preserving
from seal.arc.views import CAP, PredictionView, TrainView, prediction_views, training_views
from seal.arc.vote import Attempts, Vote, attempts, best_of_experts, candidates, official_attempts
from seal.constrained import constrained
from seal.domains.base import BaseDomain, InvalidEdit
from seal.errors import ConfigError, DataError
from seal.prompt import contract_of
from seal.records import Answer, EvalPrompt, Performance, Sampling, Task, TrainingConfig, TrainingSequence
from seal.seeds import derive
from seal.thoughts import without_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seal.protocols import Generator

#: The paper's inner loop on ARC (appendix A.2); learning rate and epochs come from the self-edit.
PAPER_LORA = TrainingConfig(
    rank=128,
    alpha=16.0,
    targets=("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"),
    batch_size=2,
    schedule="cosine",
    warmup_ratio=0.1,
)

PROMPT = """\
A puzzle is given by solved examples: input grid, {separator}, output grid, {end}. Digits are colours, \
0 is the background.

{examples}

Choose how to train on it. An augmentation changes input and output alike: switch it on only if the puzzle's \
rule still holds for the changed grids.
basic: turn, flip, reflect, shift, transpose. size: enlarge cells. chain: turn or flip, then enlarge. \
repeat: lay copies side by side. colour permutation: rename the colours.
Training takes at most 375 steps. Answer in JSON.
"""
#: For free text only, and with every choice open: a filled-in example would be copied.
FORM = """\
Form: {{"data_generation": {{{flags}}}, "training": {{"strategy": {strategies}, "learning_rate": number, \
"num_train_epochs": number}}}}
""".format(
    flags=", ".join(f'"{key}": true or false' for key in (*FLAGS.values(), COLOUR_FLAG)),
    strategies=" or ".join(f'"{name}"' for name in STRATEGIES),
)


_MARGIN = 16
"""Tokens by which one recipe may be longer than another."""


class FewShotLearning(BaseDomain):
    """ARC tasks in (`Task.context`: demonstrations, `Task.target`: tests), two attempts a test out.

    Args:
        serialisation: "compact", one token a cell, or "official", NumPy's print.
        chat: whether prompts go through the chat template; "auto": when the tokenizer has one.
        vote: "simple" counts, the plain view breaks ties; "official" is the official scheme; "experts" takes
            the grids likeliest over all views (a product of experts), of the `candidates` with most votes.
        leave: demonstrations left out of the views of a test input, each way once.
        permutations: reorderings of the demonstrations for each of those.
        max_views: at most this many views of a test input; None: all.
        candidates: answers of a test that every view is asked about with `vote="experts"`.
        cap: most training rows of one self-edit.
        rounds: permuted (and recoloured) copies of every leave-out task; the official code makes one.
        max_row_tokens: longer rows are left out.
        demonstration_loss: with output loss, count the demonstrations' outputs as well.
        shared_translation: move input and output by one shift.
        batch_size: rows a step, for the limit of 375 steps.
        reward: "solved" (the specification's) or "cells", the better attempt's cell accuracy.
        prompt_cells: cells of demonstrations shown to the policy; further ones are left out.
        constrained: a policy that can score texts chooses from `space` field by field; if not, or if it
            cannot, it writes free text.
        space: the recipes to choose from; its fields may be given as a mapping.
        fixed: arms with recipes of your own on held-out tasks: name -> augmentations that are on ("basic",
            "size", "chain", "repeat", "colour").
        seed: seed of colour and order permutations.
    """

    asked = "demonstrations in context"

    def __init__(
        self,
        *,
        serialisation: Style = "compact",
        chat: bool | Literal["auto"] = "auto",
        vote: Literal["simple", "official", "experts"] = "simple",
        leave: Sequence[int] = (0,),
        permutations: int = 2,
        max_views: int | None = None,
        candidates: int = 4,
        cap: int = CAP,
        rounds: int = 1,
        max_row_tokens: int = 8192,
        demonstration_loss: bool = False,
        shared_translation: bool = True,
        batch_size: int = 2,
        reward: Literal["solved", "cells"] = "solved",
        prompt_cells: int = 1500,
        constrained: bool = True,
        space: RecipeSpace | dict[str, Any] | None = None,
        fixed: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
    ) -> None:
        _one_of("serialisation", serialisation, ("compact", "official"))
        _one_of("vote", vote, ("simple", "official", "experts"))
        _one_of("reward", reward, ("solved", "cells"))
        _one_of("chat", chat, (True, False, "auto"))
        if (
            min(cap, rounds, max_row_tokens, batch_size, candidates) < 1
            or permutations < 0
            or not leave
            or min(leave) < 0
        ):
            raise ConfigError(
                f"cap {cap}, rounds {rounds}, max_row_tokens {max_row_tokens}, batch_size {batch_size}, "
                f"permutations {permutations}, candidates {candidates}, leave {list(leave)}",
                "give positive numbers; leave and permutations may be 0",
            )
        self.serialisation: Style = serialisation
        self.chat, self.vote, self.reward = chat, vote, reward
        self.leave, self.permutations, self.max_views = tuple(leave), permutations, max_views
        self.candidates, self.cap, self.rounds = candidates, cap, rounds
        self.follow_up = self._candidate_probes if vote == "experts" else None
        self.max_row_tokens, self.batch_size = max_row_tokens, batch_size
        self.demonstration_loss, self.shared_translation = demonstration_loss, shared_translation
        self.prompt_cells, self.seed = prompt_cells, seed
        self.constrained, self.space = constrained, RecipeSpace.of(space)
        self.fixed = {name: frozenset(groups) for name, groups in (fixed or {}).items()}
        for name, groups in self.fixed.items():
            for group in sorted(groups):
                _one_of(f"fixed.{name}", group, (*FLAGS, "colour"))
        self._codec: tuple[Any, Codec] | None = None
        self._made: tuple[Codec, Any, dict[Any, list[TrainView]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without tokenizer and views: `follow_up` goes to other processes with every batch."""
        return {**self.__dict__, "_codec": None, "_made": None}

    def codec(self, tokenizer: PreTrainedTokenizerBase) -> Codec:
        """The codec for this tokenizer; the last one used is kept."""
        if self._codec is None or self._codec[0] is not tokenizer:
            self._codec = tokenizer, Codec(tokenizer, self.serialisation, chat=self.chat)
        return self._codec[1]

    def create_self_edit_prompt(self, context: Any) -> str:
        """The request for a recipe, with the demonstrations; the tests are not shown."""
        pairs = context.context if isinstance(context, Task) else context
        shown: list[str] = []
        cells = 0
        for pair in pairs:
            cells += sum(len(grid) * len(grid[0]) for grid in pair)
            if shown and cells > self.prompt_cells:
                break
            shown.append("".join(encode_pair(pair)))
        request = PROMPT.format(separator="=", end=END, examples="\n\n".join(shown))
        return request if self.constrained else request + FORM

    def prompt_for(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> str:
        """The complete prompt, chat template included."""
        text = self.create_self_edit_prompt(task.context)
        contract = contract_of(tokenizer)
        return contract.user_turn(text) if contract.uses_chat(self.chat) else text

    def fits(self, task: Task, tokenizer: PreTrainedTokenizerBase, window: int) -> bool:
        """Whether the request for a recipe, and every test with room for its answer, are within `window`."""
        codec, request = self.codec(tokenizer), self.prompt_for(task, tokenizer)
        recipe = len(tokenizer(self.space.draw(0))["input_ids"]) + _MARGIN
        if len(tokenizer(request, verbose=False)["input_ids"]) + recipe > window:
            return False
        return all(len(codec.prompt(v[0])) + codec.budget(v[0]) <= window for v in self._views(task) if v)

    def sampler(self, generator: Generator, tokenizer: PreTrainedTokenizerBase) -> Generator:
        """The generator that self-edits are drawn from: constrained where `generator` can score texts."""
        return constrained(generator, tokenizer, self.space) if self.constrained else generator

    def training_sequences(
        self, task: Task, completion: str, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[TrainingSequence, ...]:
        """Leave-out tasks of the demonstrations under the recipe's augmentations, as token rows.

        Raises:
            InvalidEdit: the recipe is invalid, takes over 375 steps, or no row is short enough.
        """
        recipe = _parsed(completion)
        codec = self.codec(tokenizer)
        longest = min(
            self.max_row_tokens, getattr(tokenizer, "model_max_length", None) or self.max_row_tokens
        )
        views = self._training_views(task, recipe, codec, longest)
        if not views:
            raise InvalidEdit(
                f"task {task.id}: no training row is below {longest} tokens", "raise max_row_tokens"
            )
        try:
            check_steps(recipe, len(views), self.batch_size)
        except RecipeError as error:
            raise InvalidEdit(error.message, error.fix) from error
        loss: LossOn = "all" if recipe.strategy == "train_using_all_tokens" else "output"
        if loss == "output" and self.demonstration_loss:
            loss = "outputs"
        return tuple(codec.row(view, loss) for view in views)

    def _training_views(self, task: Task, recipe: ArcRecipe, codec: Codec, longest: int) -> list[TrainView]:
        """Edits of a task come one after the other and often augment alike: the last task's are kept."""
        if self._made is None or self._made[0] is not codec or self._made[1] != task.context:
            self._made = codec, task.context, {}
        made, augmented = self._made[2], (recipe.groups, recipe.permutes_colours)
        if augmented not in made:
            pairs, colour = [to_pair(pair) for pair in task.context], recipe.permutes_colours
            made[augmented] = training_views(
                pairs, augmenters(recipe.groups), colour=colour, cap=self.cap, rounds=self.rounds,
                seed=self.seed, shared=self.shared_translation,
                accept=lambda view: codec.length(view) < longest,
            )  # fmt: skip
        return made[augmented]

    def training_config(self, completion: str, base: TrainingConfig) -> TrainingConfig:
        """`base` with the learning rate and epochs of the self-edit. Raises `InvalidEdit`."""
        chosen = _parsed(completion)
        return replace(base, learning_rate=chosen.learning_rate, epochs=chosen.epochs)

    def reference_edits(self, task: Task) -> dict[str, str]:
        """Recipes that no policy wrote, by arm, with the largest learning rate and epochs of `space`.

        `no_augmentation` trains on the demonstrations as they are, `random` is drawn evenly from the space,
        and `oracle`, for synthetic tasks only, switches on every augmentation that preserves the rule. The
        arms of `fixed` follow.
        """
        rate, epochs = max(self.space.learning_rates), max(self.space.epochs)
        plain = ArcRecipe(False, False, False, False, "train_using_output_tokens", rate, epochs, colour=False)
        edits = {
            "no_augmentation": plain.to_json(),
            "random": self.space.draw(derive(self.seed, "random", task.id)),
        }
        on = rule_preserving(task)
        if on is not None:
            edits["oracle"] = _with(plain, on & {*self.space.groups, *(["colour"] * self.space.colour)})
        return edits | {name: _with(plain, groups) for name, groups in self.fixed.items()}

    def eval_prompts(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[EvalPrompt, ...]:
        """The views of every test input, greedy; the plain view's reference is the solution, if known."""
        codec = self.codec(tokenizer)
        eval_prompts = []
        for test, (views, (_, gold)) in enumerate(zip(self._views(task), task.target, strict=True)):
            for number, view in enumerate(views):
                reference = codec.answer(to_array(gold)) if gold is not None and number == 0 else ()
                sampling = Sampling(temperature=0.0, max_new_tokens=codec.budget(view), stop=(END,))
                name = f"{task.id}.t{test}v{number}"
                eval_prompts.append(EvalPrompt(name, codec.prompt(view), sampling, reference))
        return tuple(eval_prompts)

    def _views(self, task: Task) -> list[list[PredictionView]]:
        """The views of each test input, in order; made of the demonstrations and that input alone."""
        pairs: list[Pair] = [to_pair(pair) for pair in task.context]
        return [
            prediction_views(
                pairs, to_array(query), leave=self.leave, permutations=self.permutations, seed=self.seed
            )[: self.max_views]
            for query, _ in task.target
        ]

    def _candidate_probes(
        self, task: Task, answers: Sequence[Answer], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[EvalPrompt, ...]:
        """How likely is each candidate through each view? Candidates of a test in turn, views within."""
        codec, nothing = self.codec(tokenizer), Sampling(temperature=0.0, max_new_tokens=0)
        eval_prompts = []
        for test, (views, votes) in enumerate(self._votes(self._views(task), answers)):
            for c, grid in enumerate(candidates(votes)[: self.candidates]):
                for v, view in enumerate(views):
                    seen = named(named(view.inverse).inverse).apply(to_array(grid))
                    name = f"{task.id}.t{test}c{c}v{v}"
                    eval_prompts.append(EvalPrompt(name, codec.prompt(view), nothing, codec.answer(seen)))
        return tuple(eval_prompts)

    def _votes(
        self, tests: Sequence[list[PredictionView]], answers: Sequence[Answer]
    ) -> list[tuple[list[PredictionView], list[Vote]]]:
        """The views of each test, and the grids that they gave, brought back."""
        texts = (answer.text for answer in answers)
        return [(views, read_votes(views, islice(texts, len(views)), self.serialisation)) for views in tests]

    def score(self, task: Task, answers: Sequence[Answer]) -> Performance:
        """1.0 if every test is solved within two attempts, else 0.0.

        `correct` has one entry a test with a known solution. `details`: "tests" (a `Detail` as a dict for
        each), "grid_accuracy", "cell_accuracy", "agreement" and "valid" (means over tests).

        Raises:
            DataError: not one answer for every evaluation prompt.
        """
        views = self._views(task)
        asked = sum(map(len, views))
        if len(answers) < asked:
            raise DataError(f"task {task.id}: {len(answers)} answers to {asked} evaluation prompts")
        more = iter(answers[asked:])
        details: list[Detail] = []
        gold_likelihoods: list[float] = []
        taken = 0
        for (test_views, votes), (_, gold) in zip(self._votes(views, answers), task.target, strict=True):
            plain = answers[taken]
            taken += len(test_views)
            chosen = self._attempts(test_views, votes, more)
            details.append(Detail.of(len(test_views), votes, chosen, gold))
            if plain.log_likelihood is not None and plain.reference_tokens:
                gold_likelihoods.append(plain.log_likelihood / plain.reference_tokens)
        known = [d for d, (_, gold) in zip(details, task.target, strict=True) if gold is not None]
        correct = tuple(d.solved for d in known)
        return Performance(
            score=float(bool(correct) and all(correct)),
            n=len(correct),
            correct=correct,
            log_likelihood=fmean(gold_likelihoods) if gold_likelihoods else None,
            details={
                "tests": [detail.as_dict() for detail in details],
                "grid_accuracy": fmean(correct) if correct else 0.0,
                "cell_accuracy": fmean(d.cell_accuracy for d in known) if known else 0.0,
                "agreement": fmean(d.agreement for d in details),
                "valid": fmean(d.valid for d in details),
            },
        )

    def _attempts(
        self, views: Sequence[PredictionView], votes: Sequence[Vote], more: Iterator[Answer]
    ) -> Attempts | None:
        """Two attempts at a test; `more` are the answers about its candidates, if those were asked for."""
        if self.vote != "experts":
            return (official_attempts if self.vote == "official" else attempts)(votes)
        chosen = candidates(votes)[: self.candidates]
        return best_of_experts({grid: [next(more).log_likelihood or 0.0 for _ in views] for grid in chosen})

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Any) -> Performance:
        """The performance of `model` on `task`, one view at a time, by the same prompts as in a batch."""
        if not isinstance(task, Task):
            raise DataError(f"evaluate was given {type(task).__name__}", "give a seal.records.Task")
        from seal.domains.answering import answer_prompt

        answers = [answer_prompt(model, tokenizer, p) for p in self.eval_prompts(task, tokenizer)]
        if self.follow_up is not None:
            answers += [answer_prompt(model, tokenizer, p) for p in self.follow_up(task, answers, tokenizer)]
        return self.score(task, answers)

    def compute_reward(self, performance: Any, task: Any) -> float:
        """1.0 for a solved task, else 0.0; with `reward="cells"` the cell accuracy."""
        if self.reward == "cells" and isinstance(performance, Performance):
            return float(performance.details.get("cell_accuracy", performance.score))
        return float(performance.score if isinstance(performance, Performance) else performance)


def _with(plain: ArcRecipe, groups: frozenset[str]) -> str:
    """The self-edit that is `plain` with these augmentations on and no other."""
    on: dict[str, Any] = {group: group in groups for group in (*FLAGS, "colour")}
    return replace(plain, **on).to_json()


def _parsed(completion: str) -> ArcRecipe:
    try:
        return parse_recipe(without_thoughts(completion))
    except RecipeError as error:
        raise InvalidEdit(error.message, error.fix) from error


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}", f"use one of {', '.join(map(str, allowed))}")
