"""The inner loop and the generator of this process: train many adapters, answer with all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import torch

from seal.errors import AdaptError, GenerationError, SealError
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.adapter_files import save_adapter
from seal.inner.base_answers import BaseAnswers
from seal.inner.decode import Decoder, Request, TokenCompletion
from seal.inner.family_check import check_family
from seal.inner.fit import Trained
from seal.inner.runtime import Runtime
from seal.inner.score import PrefixScorer
from seal.models.load import LoadedModel
from seal.protocols import FollowUp
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Answer,
    Completion,
    EvalPrompt,
    JobError,
    Sampling,
    Timings,
)
from seal.seeds import derive

_NOTHING = Sampling(temperature=0.0, max_new_tokens=0)
"""Of a prompt whose reference is all that counts."""


def default_slots(device: torch.device) -> int:
    """Adapters trained at once, where the config says `auto`."""
    return 8 if device.type == "cpu" else 32


def default_token_budget(device: torch.device) -> int:
    """Tokens of one forward and backward pass, where the config says `auto`."""
    return 512 if device.type == "cpu" else 8192


def _decoder(loaded: LoadedModel, runtime: Runtime) -> Decoder:
    on_cpu = runtime.device.type == "cpu"
    return Decoder(
        runtime,
        loaded.contract.decode,
        stop_ids(loaded),
        max_rows=64 if on_cpu else 256,
        token_budget=2048 if on_cpu else 16384,
    )


def _prefix_scorer(runtime: Runtime) -> PrefixScorer:
    on_cpu = runtime.device.type == "cpu"
    return PrefixScorer(runtime, max_rows=64 if on_cpu else 256, token_budget=2048 if on_cpu else 16384)


def stop_ids(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end a completion."""
    return loaded.contract.stops


@dataclass(frozen=True, slots=True)
class _Ask:
    """Evaluation prompts for one adapter (None: the bare base)."""

    job: AdaptJob
    adapter: Adapter | None
    eval_prompts: tuple[EvalPrompt, ...]


class LocalInnerLoop:
    """`InnerLoop` in this process. It grades nothing; `seal.graded.Graded` does.

    Args:
        loaded: the policy. Its weights are never written.
        slots: adapters trained at once; None chooses by device.
        token_budget: tokens of one training pass; None chooses by device.
        recompute: compute layers again in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        slots: int | None = None,
        token_budget: int | None = None,
        recompute: bool = False,
    ) -> None:
        self.loaded = loaded
        check_family(loaded)
        self.runtime = Runtime.of(loaded.model)
        self.runtime.recompute = recompute
        self.slots = slots or default_slots(self.runtime.device)
        self.token_budget = token_budget or default_token_budget(self.runtime.device)
        self._decoder = _decoder(loaded, self.runtime)
        self._answering_s = 0.0

    def close(self) -> None:
        """Nothing is held beside the model."""

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """Train and answer `jobs`; outcomes come as adapters finish, `slots` at a time.

        The base answers a prompt once in a run. While the jobs have none to offer (None) an empty slot costs
        little and answering holds up all training: finished adapters then wait for others to be answered
        with only as long as answering took last time.
        """
        base = BaseAnswers()
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
                yield from self._answer(ready, follow_up, base)
                ready = []
        yield from self._answer(ready, follow_up, base)

    def _answer(
        self, ready: Sequence[Trained], follow_up: FollowUp | None, base: BaseAnswers
    ) -> Iterator[AdaptOutcome]:
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
        answered = self._ask(asks, base)
        if follow_up is not None:
            known, tokenizer = zip(asks, answered, strict=True), self.loaded.tokenizer
            more = [replace(a, eval_prompts=follow_up.prompts(a.job.id, x, tokenizer)) for a, x in known]
            again = self._ask(more, base)
            answered = [first + second for first, second in zip(answered, again, strict=True)]
        by_ask = {(id(a.job), a.adapter is None): x for a, x in zip(asks, answered, strict=True)}
        self._answering_s = time.perf_counter() - started
        seconds = self._answering_s / max(1, len(good))
        for trained in good:
            baseline = by_ask.get((id(trained.job), True), ())
            adapted = by_ask.get((id(trained.job), False), baseline)
            yield _outcome(trained, baseline, adapted, seconds)

    def _ask(self, asks: Sequence[_Ask], base: BaseAnswers) -> list[tuple[Answer, ...]]:
        """Answers to every ask's prompts; what the base has not answered yet is added to `base`."""
        bare = {p: base.get(p) for ask in asks if ask.adapter is None for p in ask.eval_prompts}
        missing = [p for p, known in bare.items() if known is None]
        asked: list[tuple[EvalPrompt, Adapter | None, int]] = [(p, None, 0) for p in missing]
        asked += [(p, a.adapter, a.job.seed) for a in asks if a.adapter is not None for p in a.eval_prompts]
        rivals = [Request(p.ids, a, _NOTHING, 0, reference=other) for p, a, _ in asked for other in p.others]
        completions = self._decoder.run([*(_request(*a) for a in asked), *rivals])
        compared = iter(completions[len(asked) :])
        answers = iter(
            [
                _as_answer(p, c, list(islice(compared, len(p.others))))
                for (p, *_), c in zip(asked, completions, strict=False)
            ]
        )
        fresh = dict(zip(missing, answers, strict=False))
        base.add(fresh)
        known = {p: a for p, a in {**bare, **fresh}.items() if a is not None}
        return [
            tuple(known[p] if ask.adapter is None else next(answers) for p in ask.eval_prompts)
            for ask in asks
        ]


def _as_answer(prompt: EvalPrompt, c: TokenCompletion, rivals: Sequence[TokenCompletion]) -> Answer:
    likely = [rival.log_likelihood or 0.0 for rival in rivals]
    margin = prompt.margin(c.log_likelihood, likely)
    return Answer(
        prompt.id, c.text, len(c.ids), c.finish, c.log_likelihood, len(prompt.reference), margin=margin
    )


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
        check_family(loaded)
        self.loaded = loaded
        self._decoder = _decoder(loaded, Runtime.of(loaded.model))

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One completion a prompt; samples of the same prompt share its prefill. Raises `GenerationError`.

        `progress(done, total)` is called when completions have ended.
        """
        requests = [
            Request(self.loaded.contract.ids(prompt), None, sampling, seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        watch = None if progress is None else _on_ended(progress, len(requests))
        return [Completion(w.text, len(w.ids), w.finish) for w in self._run(requests, watch)]

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
        contract = self.loaded.contract
        return [
            Request(
                contract.ids(prompt),
                None,
                _NOTHING,
                reference=contract.text_ids(text),
            )
            for prompt, text in zip(prompts, continuations, strict=True)
        ]

    def _run(
        self, requests: list[Request], watch: Callable[[Sequence[TokenCompletion]], None] | None = None
    ) -> list[TokenCompletion]:
        with _as_generation_errors():
            return self._decoder.run(requests, watch)


def _on_ended(
    progress: Callable[[int, int], None], total: int
) -> Callable[[Sequence[TokenCompletion]], None]:
    """Tells `progress` whenever more completions have ended."""
    last = 0

    def look(results: Sequence[TokenCompletion]) -> None:
        nonlocal last
        done = sum(bool(w.text) or w.finish == "stop" for w in results)
        if done > last:
            last = done
            progress(done, total)

    return look


@contextmanager
def _as_generation_errors() -> Iterator[None]:
    try:
        yield
    except AdaptError as error:
        raise GenerationError(error.message, error.fix) from error
