"""Who may talk to the server. Loopback is open to this machine; anything else needs CURVE and an allow-list.

The allow-list is a text file, one client a line: its public key (Z85, 40 characters), then `admin` for a
client that may shut the server down; a `#` between spaces starts a comment (keys may hold one themselves).
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from seal.errors import ConfigError
from seal.extras import need


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, Z85-encoded."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


@dataclass(frozen=True, slots=True)
class Client:
    """One line of the allow-list."""

    public: str
    admin: bool


def is_loopback(host: str) -> bool:
    """Whether `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def make_keys(folder: Path, name: str) -> Path:
    """Write `name.key` (public) and `name.key_secret` (mode 600) into `folder`; returns the secret's path.

    Raises:
        ConfigError: the files exist or cannot be written.
    """
    need("zmq", "making keys")
    import zmq

    public, secret = (part.decode() for part in zmq.curve_keypair())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text, mode in (
            (folder / f"{name}.key", f"{public}\n", 0o644),
            (folder / f"{name}.key_secret", f"{public}\n{secret}\n", 0o600),
        ):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
                file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} exists already", "choose another name") from None
    except OSError as error:
        raise ConfigError(f"keys cannot be written to {folder}: {error.strerror}") from None
    return folder / f"{name}.key_secret"


def read_keys(path: Path) -> KeyPair:
    """The pair that `make_keys` wrote.

    Raises:
        ConfigError: the file is missing, readable by others, or holds no key pair.
    """
    lines = _lines(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others", f"run: chmod 600 {path}")
    if len(lines) != 2 or any(len(line) != 40 for line in lines):
        raise ConfigError(f"{path} holds no key pair", "make one with: seal serve --make-keys FOLDER")
    return KeyPair(*lines)


def read_public(path: Path) -> str:
    """The public key in `name.key`. Raises `ConfigError`."""
    lines = _lines(path)
    if not lines or len(lines[0]) != 40:
        raise ConfigError(f"{path} holds no public key", "name the server's .key file")
    return lines[0]


def read_allowed(path: Path) -> dict[str, Client]:
    """The allow-list by public key. Raises `ConfigError` with the line."""
    clients = {}
    for number, line in enumerate(_lines(path, keep=True), 1):
        words = line.split()
        words = words[: words.index("#")] if "#" in words else words
        if not words:
            continue
        if len(words[0]) != 40 or words[1:] not in ([], ["admin"]):
            raise ConfigError(f"{path}, line {number}: not '<public key> [admin]'")
        clients[words[0]] = Client(words[0], len(words) == 2)
    if not clients:
        raise ConfigError(f"{path} allows nobody", "add the public key of a client")
    return clients


def _lines(path: Path, keep: bool = False) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return [line.strip() for line in lines if keep or line.strip()]


class AllowList:
    """What pyzmq's authenticator asks; it hands over the key already Z85-encoded."""

    def __init__(self, allowed: dict[str, Client]) -> None:
        self._allowed = allowed

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether this public key may connect."""
        return key.decode() in self._allowed
