"""What servers were asked and what that cost, over all tries of a run, and the budget that ends it.

Tokens are those that a server counts in `usage`; of one that counts none, three characters are a token.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from seal.errors import BudgetSpent, RunError
from seal.whole_file import write_whole

log = logging.getLogger(__name__)

#: Name in a run folder.
FILE = "spending.json"
#: Seconds between two writings of the file.
_EVERY_S = 1.0
_CHARACTERS_A_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens, in the currency of the budget."""

    read: float = 0.0
    written: float = 0.0


@dataclass(slots=True)
class Spent:
    """At one server."""

    requests: int = 0
    read: int = 0
    """Tokens of prompts."""
    written: int = 0
    """Tokens of replies, thoughts included."""
    cost: float = 0.0

    def __str__(self) -> str:
        cost = f", cost {self.cost:.4g}" if self.cost else ""
        return f"{self.requests} requests, {self.read} tokens read, {self.written} written{cost}"


class Purse:
    """Several threads may pay from it. Requests that are under way when it is empty are still paid.

    Args:
        max_cost: what may be spent; None: anything.
        max_tokens: tokens that may be read and written; None: any number.
    """

    def __init__(self, max_cost: float | None = None, max_tokens: int | None = None) -> None:
        self.max_cost, self.max_tokens = max_cost, max_tokens
        self.spent: dict[str, Spent] = {}
        """By server."""
        self._file: Path | None = None
        self._lock, self._written = threading.Lock(), 0.0

    def keep_in(self, file: Path) -> None:
        """Go on from what `file` says, and keep it up to date.

        Raises:
            RunError: it is damaged.
        """
        if file.exists():
            try:
                known = json.loads(file.read_text("utf-8"))
                self.spent = {name: Spent(**values) for name, values in known.items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise RunError(
                    f"{file} is damaged: {error}", "restore it, or remove it to count anew"
                ) from None
        self._file = file

    def check(self) -> None:
        """Raise `BudgetSpent` when the budget is spent."""
        total = self.total()
        if self.max_cost is not None and total.cost >= self.max_cost:
            raise BudgetSpent(f"the budget of {self.max_cost:g} is spent: {total}", _fix("cost"))
        if self.max_tokens is not None and total.read + total.written >= self.max_tokens:
            raise BudgetSpent(f"the budget of {self.max_tokens} tokens is spent: {total}", _fix("tokens"))

    def pay(self, where: str, price: Price, read: int, written: int) -> None:
        """Enter one request."""
        with self._lock:
            spent = self.spent.setdefault(where, Spent())
            spent.requests += 1
            spent.read += read
            spent.written += written
            spent.cost += (read * price.read + written * price.written) / 1e6
            if time.monotonic() - self._written > _EVERY_S or not self._within():
                self._write()

    def total(self) -> Spent:
        """At all servers."""
        every = list(self.spent.values())
        return Spent(
            sum(s.requests for s in every),
            sum(s.read for s in every),
            sum(s.written for s in every),
            sum(s.cost for s in every),
        )

    def close(self) -> None:
        """Write what is not written yet, and say what it was."""
        with self._lock:
            self._write()
        for where, spent in self.spent.items():
            log.info("%s: %s", where, spent)

    def _within(self) -> bool:
        try:
            self.check()
        except BudgetSpent:
            return False
        return True

    def _write(self) -> None:
        if self._file is not None and self.spent:
            told = {name: asdict(spent) for name, spent in sorted(self.spent.items())}
            write_whole(self._file, json.dumps(told, indent=2) + "\n")
        self._written = time.monotonic()


def tokens(text: str) -> int:
    """About how many tokens a text is."""
    return -(-len(text) // _CHARACTERS_A_TOKEN)


def _fix(what: str) -> str:
    return f"raise it: seal resume RUN --max-{what} N"
