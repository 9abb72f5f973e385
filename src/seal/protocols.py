"""The interfaces of the two engines: adapting (`InnerLoop`) and writing (`Generator`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from seal.records import AdaptJob, AdaptOutcome, Answer, Completion, EvalPrompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What an adapter is asked next, in the light of its first answers.

    It may go to another process, so `ask` is a function (or a method of an object) that pickle can name, and
    what it needs is data.
    """

    ask: Callable[[Any, Sequence[Answer], PreTrainedTokenizerBase], tuple[EvalPrompt, ...]]
    """(what the job is about, its answers so far, tokenizer) -> prompts; their answers come behind those."""
    about: Mapping[str, Any]
    """What each job is about, by job id."""

    def prompts(
        self, job_id: str, answers: Sequence[Answer], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[EvalPrompt, ...]:
        """The next prompts of one job."""
        return self.ask(self.about[job_id], answers, tokenizer)

    def only(self, job_ids: Iterable[str]) -> FollowUp:
        """The part that these jobs need."""
        return FollowUp(self.ask, {name: self.about[name] for name in job_ids})


@runtime_checkable
class InnerLoop(Protocol):
    """Fits adapters and answers with them."""

    @property
    def slots(self) -> int:
        """Adapters that are trained at once; more jobs than that keep it busy."""
        ...

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """Yield one outcome a job, as they finish, in any order; a job that fails (`error`) stops no other.

        None among the jobs means that there is none now, as in a server's queue: they are asked again while
        others are at work, and it is the end once nothing is.

        Raises:
            ConfigError: `follow_up` is given to a loop whose adapters cannot be asked twice.
        """
        ...

    def close(self) -> None:
        """Free what the loop holds beside the model (processes, sockets); the next run brings it back."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Writes completions. The same prompt, sampling and seed give the same text on the same engine."""

    def generate(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """One completion a prompt, in order; `seeds` has one seed a prompt.

        Prompts are complete strings (chat template already applied). Raises `GenerationError`.
        """
        ...
