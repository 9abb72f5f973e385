"""A vLLM server of our own: a child process on this machine, from an environment of its own if need be."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import ConfigError, GenerationError
from seal.models.vllm_policy import VLLMPolicy, new_name
from seal.supervisor import Supervised, free_port

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

log = logging.getLogger(__name__)

#: The ranks that vLLM makes room for.
RANKS = (8, 16, 32, 64, 128, 256, 512)
#: Seconds until it must answer: it reads the weights and may compile.
_START_S = 1800.0
_INSTALL = "install vLLM in an environment of its own, and name its Python (generation.python, --python)"
#: vLLM's own settings where the environment does not say.
_ENVIRONMENT = {
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True, slots=True)
class Served:
    """What a server serves."""

    model: str
    """As for `seal.models.load.load_model`."""
    name: str
    """What clients ask for."""
    rank: int = RANKS[0]
    """Largest of an adapter; one of `RANKS`."""
    dtype: str = "auto"


class VLLMServer:
    """At most one process, from `start` to `stop`; it ends with us, however we end.

    Args:
        python: interpreter that has vLLM; empty: this one.
        arguments: further ones of vLLM's, such as `--gpu-memory-utilization 0.4`.
        host, port: where it listens; port 0: a free one, the same for all starts.
        key: that clients must send; empty: none.
        log: file for its output; None: standard error.
    """

    def __init__(
        self,
        python: str = "",
        arguments: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "",
        log: Path | None = None,
    ) -> None:
        self._python, self._arguments = python or sys.executable, tuple(arguments)
        self._host, self._port, self._key, self._log = host, port or free_port(), key, log
        self._process: Supervised | None = None
        self.served: Served | None = None
        """What it serves now; None: it does not run."""

    @property
    def url(self) -> str:
        """For clients; ends in /v1."""
        return f"http://{self._shown()}:{self._port}/v1"

    def start(self, what: Served) -> bool:
        """Serve `what` and return when it answers; a server that serves something else is ended first.

        Returns:
            Whether it was started; False: it served that already.

        Raises:
            ConfigError: the interpreter has no vLLM.
            GenerationError: it ended, or did not answer in time.
        """
        if self.served == what and self.running():
            return False
        self.stop()
        require_vllm(self._python)
        began = time.monotonic()
        self._process = Supervised(self._command(what), self._surroundings(), self._log)
        try:
            self._wait(began + _START_S)
        except BaseException:
            self.stop()
            raise
        self.served = what
        log.info("vLLM serves %s as %s after %.0f s", what.model, what.name, time.monotonic() - began)
        return True

    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.status() is None

    def wait(self) -> int:
        """Until it ends by itself; its exit status."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process, self.served = self._process, None, None
        if process is not None:
            process.stop()

    def _command(self, what: Served) -> list[str]:
        from seal.models.load import resolve

        return [
            *(self._python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(resolve(what.model)), "--served-model-name", what.name),
            *("--host", self._host, "--port", str(self._port), "--dtype", what.dtype),
            *("--enable-lora", "--max-lora-rank", str(what.rank), "--max-loras", "1", "--max-cpu-loras", "1"),
            *self._arguments,
        ]

    def _surroundings(self) -> Mapping[str, str]:
        known = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        if self._key:  # not among the arguments, which everybody on the machine can read
            known["VLLM_API_KEY"] = self._key
        return {**_ENVIRONMENT, **known}

    def _wait(self, until: float) -> None:
        while not self._answers():
            assert self._process is not None
            status = self._process.status()
            if status is not None or time.monotonic() > until:
                what = "did not answer in time" if status is None else f"ended with status {status}"
                raise GenerationError(f"vLLM {what}{self._told()}", "see its messages")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._shown()}:{self._port}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _told(self) -> str:
        if self._log is None:
            return ""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        errors = [line for line in lines[-200:] if "Error" in line]
        return f": {(errors or lines or [''])[-1].strip()[-300:]} ({self._log})"

    def _shown(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"[{host}]" if ":" in host else host


class OwnPolicy:
    """A policy of the run on a vLLM server of ours, see `seal.models.vllm_policy.FollowingGenerator`.

    vLLM keeps memory of every adapter that was ever loaded, so it is started anew after some of them; and to
    make room for a larger rank. Above the largest it serves the checkpoint itself.

    Args:
        model: the run's first policy.
        rank: of the first round's adapter.
        restart_after: adapters loaded between two starts.
    """

    def __init__(self, server: VLLMServer, model: str, rank: int, restart_after: int) -> None:
        self._server, self._model, self._rank = server, model, room(rank)
        self._restart_after, self._loads = restart_after, 0
        self._client = VLLMPolicy(server.url, model)

    @property
    def url(self) -> str:
        """Of the server, whether it runs or not."""
        return self._server.url

    def first(self, policy: LoadedModel) -> str:
        """See `VLLMPolicy.first`."""
        self._start(Served(self._model, self._model, self._rank, _dtype(policy)))
        return self._client.first(policy)

    def load(self, folder: Path, label: str, policy: LoadedModel) -> str:
        """See `VLLMPolicy.load`."""
        self.remove()
        rank = adapter_rank(folder)
        if rank > RANKS[-1]:
            name = new_name(label)
            self._start(Served(policy.source, name, self._rank, _dtype(policy)))
            return VLLMPolicy(self.url, name).first(policy)
        self._rank = max(self._rank, room(rank))
        if self._loads >= self._restart_after:
            log.info("vLLM has loaded %d adapters and is started anew", self._loads)
            self._server.stop()
        self._start(Served(self._model, self._model, self._rank, _dtype(policy)))
        self._loads += 1
        return self._client.load(folder, label, policy)

    def remove(self) -> None:
        """Take the adapter off the server, which goes on."""
        self._client.remove()

    def close(self) -> None:
        """End the server."""
        self._server.stop()

    def _start(self, what: Served) -> None:
        if self._server.start(what):
            self._loads = 0


def require_vllm(python: str) -> None:
    """Raise `ConfigError` unless the interpreter `python` finds vLLM."""
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-c", look], capture_output=True, check=False).returncode == 0
    except OSError as error:
        raise ConfigError(f"{python} cannot be run: {error.strerror}", _INSTALL) from None
    if not found:
        raise ConfigError(f"{python} has no vLLM", _INSTALL)


def adapter_rank(folder: Path) -> int:
    """Rank of the LoRA adapter in `folder`."""
    return int(json.loads((folder / "adapter_config.json").read_text("utf-8"))["r"])


def room(rank: int) -> int:
    """The smallest rank of vLLM's that is enough; the largest where none is."""
    return next((known for known in RANKS if known >= rank), RANKS[-1])


def _dtype(policy: LoadedModel) -> str:
    return str(policy.model.dtype).removeprefix("torch.")
