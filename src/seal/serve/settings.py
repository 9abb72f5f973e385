"""How a TTT server is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from seal.errors import ConfigError
from seal.serve.messages import Limits
from seal.serve.security import Client, KeyPair, is_loopback


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server listens, what it accepts and how long it waits."""

    host: str = "127.0.0.1"
    port: int = 5555
    """0: any free port."""
    capacity: int = 256
    """Accepted requests without an outcome; one more is answered `Busy`."""
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    """Seeds of requests that bring none derive from it and their content."""
    heartbeat_s: float = 2.0
    """Seconds between progress beats."""
    grace_s: float = 60.0
    """Seconds that running jobs get to finish after a shutdown."""
    keys: KeyPair | None = None
    allowed: dict[str, Client] = field(default_factory=dict)
    shutdown_token: str = ""
    """Without CURVE: what a `shutdown` must bring; empty: nothing, since only this machine can ask."""
    allow_shutdown: bool = True
    adapters: Path | None = None
    """Folder in which clients may have adapters saved; None: they may not."""

    def check(self) -> None:
        """Raise `ConfigError` when the server would be open to strangers."""
        if not is_loopback(self.host) and not (self.keys and self.allowed):
            raise ConfigError(
                f"host {self.host!r} is reachable from other machines",
                "give --keys and --allow, or listen on 127.0.0.1",
            )
