"""The errors SEAL raises on purpose. Each class names the border where it arises.

SealError
├── ConfigError        a setting is unknown, missing or out of range
├── MissingExtra       an optional package is not installed
├── DataError          a data set or a task cannot be used as given
├── ModelError         a model or a checkpoint cannot be loaded or does not fit
├── GenerationError    the policy (or a remote server) could not write a completion
│   └── BudgetSpent    what servers may cost is used up; never counted as an answer's or an item's fault
├── AdaptError         one adaptation job failed (too long, not finite, out of memory)
├── GradingError       the grader could not give a verdict; never counted as "wrong"
├── RunError           a run folder or its journal cannot be used
└── ServeError         a request to the test-time-training server cannot be served
"""

from __future__ import annotations

import errno


class SealError(Exception):
    """Base class. `str(error)` is one line for people: what happened and what was given.

    Args:
        message: cause, with the value that was given.
        fix: what to do about it, one imperative sentence; may be empty.
    """

    border = "seal"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message

    def __reduce__(self) -> tuple[type[SealError], tuple[str, str]]:
        return type(self), (self.message, self.fix)


class ConfigError(SealError):
    """A setting is unknown, missing or out of range."""

    border = "config"


class MissingExtra(SealError):
    """An optional package is not installed; the fix is the command that brings it."""

    border = "installation"


class DataError(SealError):
    """A data set or a task cannot be used as given."""

    border = "data"


class ModelError(SealError):
    """A model or a checkpoint cannot be loaded, or does not fit the request."""

    border = "model"


class GenerationError(SealError):
    """The policy, or a remote server, could not write a completion."""

    border = "generation"


class BudgetSpent(GenerationError):
    """The run's budget for servers is used up."""


class AdaptError(SealError):
    """One adaptation job failed; other jobs are not affected."""

    border = "adapt"


class GradingError(SealError):
    """The grader could not give a verdict. An outage is never a wrong answer."""

    border = "grading"


class RunError(SealError):
    """A run folder or its journal cannot be used."""

    border = "run"


class ServeError(SealError):
    """A request to the test-time-training server cannot be served."""

    border = "serve"


#: What libraries say when an allocation fails that is not Python's own: torch, the loader of shared
#: libraries, C++.
_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "failed to map segment",
    "std::bad_alloc",
    "can't start new thread",
)


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it arose from, is that memory could not be had."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
