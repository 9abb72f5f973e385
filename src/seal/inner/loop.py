"""The inner loop and the generator of this process: train many adapters, answer with all, grade."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from seal.errors import AdaptError, GenerationError, SealError
from seal.inner.adapt import Trained, train
from seal.inner.adapter import Adapter
from seal.inner.adapter_files import save_adapter
from seal.inner.decode import Decoder, Request, TokenCompletion
from seal.inner.protocol import FollowUp
from seal.inner.runtime import Runtime
from seal.inner.score import PrefixScorer
from seal.models.load import LoadedModel
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Answer,
    Completion,
    EvalPrompt,
    JobError,
    Question,
    Sampling,
    Timings,
    Verdict,
)
from seal.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seal.grading import Grader


#: Baseline answers kept for later jobs of the same policy; the oldest go first.
BASELINES_KEPT = 10_000


def default_slots(device: torch.device) -> int:
    """Adapters trained at once, where the config says `auto`."""
    return 8 if device.type == "cpu" else 32


def default_token_budget(device: torch.device) -> int:
    """Tokens of one forward and backward pass, where the config says `auto`."""
    return 512 if device.type == "cpu" else 8192


def _decoder(loaded: LoadedModel, runtime: Runtime) -> Decoder:
    tokenizer = loaded.tokenizer
    on_cpu = runtime.device.type == "cpu"
    return Decoder(
        runtime,
        lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True),
        stop_ids(loaded),
        max_rows=64 if on_cpu else 256,
        token_budget=2048 if on_cpu else 16384,
    )


def _prefix_scorer(runtime: Runtime) -> PrefixScorer:
    on_cpu = runtime.device.type == "cpu"
    return PrefixScorer(runtime, max_rows=64 if on_cpu else 256, token_budget=2048 if on_cpu else 16384)


def stop_ids(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end a completion: the tokenizer's end of text and the model's own list."""
    own = getattr(loaded.model.generation_config, "eos_token_id", None)
    ids = own if isinstance(own, list) else [own]
    return frozenset(i for i in (*ids, loaded.tokenizer.eos_token_id) if i is not None)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """Tokens of a complete prompt, with a start token where the text does not bring its own."""
    bos = tokenizer.bos_token
    special = not (bos and prompt.startswith(str(bos)))
    return tuple(tokenizer(prompt, add_special_tokens=special)["input_ids"])


@dataclass(frozen=True, slots=True)
class _Ask:
    """Evaluation prompts for one adapter (None: the bare base)."""

    job: AdaptJob
    adapter: Adapter | None
    eval_prompts: tuple[EvalPrompt, ...]


class LocalInnerLoop:
    """`InnerLoop` in this process.

    Baselines are computed once per (evaluation prompt, model) and kept for the life of this object.

    Args:
        loaded: the policy. Its weights are never written.
        grader: grades answers to evaluation prompts that carry a question; None leaves verdicts empty.
        slots: adapters trained at once; None chooses by device.
        token_budget: tokens of one training pass; None chooses by device.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        grader: Grader | None,
        *,
        slots: int | None = None,
        token_budget: int | None = None,
    ) -> None:
        self.loaded, self.grader = loaded, grader
        self.runtime = Runtime.of(loaded.model)
        self.slots = slots or default_slots(self.runtime.device)
        self.token_budget = token_budget or default_token_budget(self.runtime.device)
        self._decoder = _decoder(loaded, self.runtime)
        self._baselines: dict[EvalPrompt, Answer] = {}
        self._answering_s = 0.0

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """Train and answer `jobs`; outcomes come as adapters finish, `slots` at a time.

        While the jobs have none to offer (see `OpenInnerLoop`) an empty slot costs little and answering holds
        up all training: finished adapters then wait for company only as long as answering took last time.
        """
        ready: list[Trained] = []
        since = 0.0
        for trained in train(self.runtime, jobs, self.slots, self.token_budget):
            if trained is not None and trained.error is not None:
                yield _failed(trained, trained.error)
                continue
            if trained is not None:
                since = since if ready else time.monotonic()
                ready.append(trained)
            waited = time.monotonic() - since
            if len(ready) >= self.slots or (trained is None and waited >= self._answering_s):
                yield from self._answer(ready, follow_up)
                ready = []
        yield from self._answer(ready, follow_up)

    def _answer(self, ready: Sequence[Trained], follow_up: FollowUp | None) -> Iterator[AdaptOutcome]:
        """Answer the prompts of trained jobs, with and without their adapters, in shared batches."""
        if not ready:
            return
        started = time.perf_counter()
        good: list[Trained] = []
        for trained in ready:
            try:
                for eval_prompt in trained.job.eval_prompts:
                    self._decoder.check(_request(eval_prompt, trained.adapter, 0))
                if trained.adapter is not None and trained.job.save_to:
                    save_adapter(trained.adapter, self.loaded, trained.job.save_to)
            except SealError as error:
                yield _failed(trained, error)
            else:
                good.append(trained)
        asks = [_Ask(t.job, None, t.job.eval_prompts) for t in good if _needs_baseline(t)]
        asks += [_Ask(t.job, t.adapter, t.job.eval_prompts) for t in good if t.adapter is not None]
        answered = self._ask(asks)
        if follow_up is not None:
            more = [follow_up(ask.job.id, known) for ask, known in zip(asks, answered, strict=True)]
            again = self._ask([replace(ask, eval_prompts=p) for ask, p in zip(asks, more, strict=True)])
            answered = [first + second for first, second in zip(answered, again, strict=True)]
        by_ask = {(id(a.job), a.adapter is None): x for a, x in zip(asks, answered, strict=True)}
        self._answering_s = time.perf_counter() - started
        seconds = self._answering_s / max(1, len(good))
        for trained in good:
            baseline = by_ask.get((id(trained.job), True), ())
            adapted = by_ask.get((id(trained.job), False), baseline)
            yield _outcome(trained, baseline, adapted, seconds)

    def _ask(self, asks: Sequence[_Ask]) -> list[tuple[Answer, ...]]:
        """Answers to every ask's prompts; the base's are computed once per prompt and kept."""
        kept = dict(self._baselines)
        bare = {p: None for ask in asks if ask.adapter is None for p in ask.eval_prompts}
        missing = [p for p in bare if p not in kept]
        asked: list[tuple[EvalPrompt, Adapter | None, int]] = [(p, None, 0) for p in missing]
        asked += [(p, a.adapter, a.job.seed) for a in asks if a.adapter is not None for p in a.eval_prompts]
        written = self._decoder.run([_request(*a) for a in asked])
        answers = iter(self._graded([p for p, *_ in asked], written))
        fresh = dict(zip(missing, answers, strict=False))
        self._remember(fresh)
        return [
            tuple(replace(fresh.get(p) or kept[p], prompt_id=p.id) for p in ask.eval_prompts)
            if ask.adapter is None
            else tuple(next(answers) for _ in ask.eval_prompts)
            for ask in asks
        ]

    def grade(self, job: AdaptJob, outcome: AdaptOutcome) -> AdaptOutcome:
        """What a loop without a grader gave for `job`, graded; the base's answers once per prompt."""
        if outcome.error is not None:
            return outcome
        base = job.eval_prompts if outcome.baseline else ()
        fresh = [(p, a) for p, a in zip(base, outcome.baseline, strict=True) if p not in self._baselines]
        adapted = list(zip(job.eval_prompts, outcome.adapted, strict=True)) if outcome.losses else []
        asked = [*fresh, *adapted]
        answers = self._with_verdicts([p for p, _ in asked], [a for _, a in asked])
        known = dict(zip([p for p, _ in fresh], answers, strict=False))
        self._remember(known)
        baseline = tuple(replace(known.get(p) or self._baselines[p], prompt_id=p.id) for p in base)
        return replace(
            outcome, baseline=baseline, adapted=tuple(answers[len(fresh) :]) if adapted else baseline
        )

    def _remember(self, answers: dict[EvalPrompt, Answer]) -> None:
        """Keep the base's answers; an outage is no answer."""
        self._baselines |= {p: a for p, a in answers.items() if a.verdict is not Verdict.ERROR}
        while len(self._baselines) > BASELINES_KEPT:
            self._baselines.pop(next(iter(self._baselines)))

    def _graded(self, eval_prompts: Sequence[EvalPrompt], written: Sequence[TokenCompletion]) -> list[Answer]:
        answers = [
            Answer(p.id, w.text, len(w.ids), w.finish, w.log_likelihood, len(p.reference))
            for p, w in zip(eval_prompts, written, strict=True)
        ]
        return self._with_verdicts(eval_prompts, answers)

    def _with_verdicts(self, eval_prompts: Sequence[EvalPrompt], answers: list[Answer]) -> list[Answer]:
        graded = [i for i, p in enumerate(eval_prompts) if p.question is not None]
        if self.grader is None or not graded:
            return answers
        items = [(q, answers[i].text) for i in graded if (q := eval_prompts[i].question) is not None]
        verdicts = dict(zip(graded, self._verdicts(items), strict=True))
        return [
            replace(a, verdict=verdicts[i][0], note=verdicts[i][1]) if i in verdicts else a
            for i, a in enumerate(answers)
        ]

    def _verdicts(self, items: Sequence[tuple[Question, str]]) -> list[tuple[Verdict, str]]:
        """Verdict and note of every item; one that the grader refuses costs no other its verdict."""
        assert self.grader is not None
        try:
            return [(grade.verdict, grade.note) for grade in self.grader.grade(items)]
        except SealError as error:
            if len(items) == 1:
                return [(Verdict.ERROR, str(error))]
            return [verdict for item in items for verdict in self._verdicts([item])]


def _needs_baseline(trained: Trained) -> bool:
    return trained.job.baseline or trained.adapter is None


def _request(eval_prompt: EvalPrompt, adapter: Adapter | None, seed: int) -> Request:
    """Draws depend on the job's seed (0: a baseline, which belongs to no job) and the prompt's name."""
    return Request(
        eval_prompt.ids,
        adapter,
        eval_prompt.sampling,
        derive(seed, "answer", eval_prompt.id),
        reference=eval_prompt.reference,
    )


def _failed(trained: Trained, error: SealError) -> AdaptOutcome:
    return AdaptOutcome(trained.job.id, losses=trained.losses, error=JobError(error.border, str(error)))


def _outcome(
    trained: Trained, baseline: tuple[Answer, ...], adapted: tuple[Answer, ...], seconds: float
) -> AdaptOutcome:
    timings = Timings(trained.seconds, seconds, trained.tokens, sum(a.n_tokens for a in adapted))
    saved = trained.job.save_to if trained.adapter is not None else ""
    return AdaptOutcome(trained.job.id, baseline, adapted, trained.losses, saved, timings)


class LocalGenerator:
    """`Generator` on the same engine, and log-likelihoods of given continuations."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._decoder = _decoder(loaded, Runtime.of(loaded.model))

    def generate(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """One completion a prompt; samples of the same prompt share its prefill. Raises `GenerationError`."""
        requests = [
            Request(prompt_ids(self.loaded.tokenizer, prompt), None, sampling, seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [Completion(w.text, len(w.ids), w.finish) for w in self._run(requests)]

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Summed log-likelihood (nats) of each continuation after its prompt. Raises `GenerationError`."""
        written = self._run(self._references(prompts, continuations))
        return [w.log_likelihood or 0.0 for w in written]

    def scorer(self) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
        """`score` for short continuations of prompts that grow from call to call.

        What a prompt shares with others, or with one of the last call, is read once. The weights must not
        change while it is in use, and its memory is freed with it.
        """
        prefixes = _prefix_scorer(Runtime.of(self.loaded.model))

        def score(prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
            requests = self._references(prompts, continuations)
            with _as_generation_errors():
                for request in requests:
                    self._decoder.check(request)
                return prefixes.score([r.ids for r in requests], [r.reference for r in requests])

        return score

    def _references(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Request]:
        tokenizer = self.loaded.tokenizer
        return [
            Request(
                prompt_ids(tokenizer, prompt),
                None,
                Sampling(temperature=0.0, max_new_tokens=0),
                reference=tuple(tokenizer(text, add_special_tokens=False)["input_ids"]),
            )
            for prompt, text in zip(prompts, continuations, strict=True)
        ]

    def _run(self, requests: list[Request]) -> list[TokenCompletion]:
        with _as_generation_errors():
            return self._decoder.run(requests)


@contextmanager
def _as_generation_errors() -> Iterator[None]:
    try:
        yield
    except AdaptError as error:
        raise GenerationError(error.message, error.fix) from error
