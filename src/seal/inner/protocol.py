"""The small doors of the two engines: adapting (`InnerLoop`) and writing (`Generator`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from seal.records import AdaptJob, AdaptOutcome, Answer, Completion, EvalPrompt, Sampling

#: (job id, answers so far) -> prompts to ask the same adapter next; their answers come behind those.
FollowUp = Callable[[str, Sequence[Answer]], tuple[EvalPrompt, ...]]


@runtime_checkable
class InnerLoop(Protocol):
    """Fits adapters and measures them. Outcomes come as they finish, in any order, one for every job."""

    def run(self, jobs: Iterable[AdaptJob], follow_up: FollowUp | None = None) -> Iterator[AdaptOutcome]:
        """Yield one outcome a job; a failed job yields an outcome with `error` set and stops no other.

        Raises:
            ConfigError: `follow_up` is given to an engine that cannot ask an adapter twice.
        """
        ...


@runtime_checkable
class OpenInnerLoop(Protocol):
    """An engine that jobs can join while it works, as a server's queue brings them."""

    def run(self, jobs: Iterable[AdaptJob | None]) -> Iterator[AdaptOutcome]:
        """As `InnerLoop.run`. None among the jobs means that there is none now: they are asked again while
        others are in training, and it is the end once nothing is.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Writes completions. The same prompt, sampling and seed give the same text on the same engine."""

    def generate(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """One completion a prompt, in order; `seeds` has one seed a prompt.

        Prompts are complete strings (chat template already applied). Raises `GenerationError`.
        """
        ...
