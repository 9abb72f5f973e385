"""Policies of a run on a server that others control, brought there by a command of the user's."""

from __future__ import annotations

import logging
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import GenerationError
from seal.models.vllm_policy import VLLMPolicy, new_name, own

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

log = logging.getLogger(__name__)


class HookedServer:
    """`COMMAND ADAPTER NAME` makes the server answer to NAME with the adapter in the folder ADAPTER.

    It is called once for every trained policy, with a name that was never used, and what it brought before is
    its own to take away. The server must then list the name; its log-probabilities are compared where it
    tells them.

    Args:
        command: split as a shell would, and run without one.
        server: where it is brought.
    """

    def __init__(self, command: str, server: VLLMPolicy) -> None:
        self._command, self._server = shlex.split(command), server

    def first(self, policy: LoadedModel) -> str:
        """See `VLLMPolicy.first`; believed where log-probabilities are not told."""
        served = self._server.offered(self._server.base, policy)
        return self._server.base if served is None else self._server.believed(policy, served)

    def load(self, folder: Path, label: str, policy: LoadedModel) -> str:
        """Run the command; the name to ask for.

        Raises:
            GenerationError: it failed, or the server does not serve what it should.
        """
        server, name = self._server, new_name(label)
        before = server.offered(server.base, policy)
        self._run(str(folder.resolve()), name)
        server.require(name)
        served = None if before is None else server.offered(name, policy)
        if before is None or served is None:
            log.warning("%s tells no log-probabilities: %s was not compared", server.base_url, name)
        else:
            server.compare(name, before, served, own(policy))
        log.info("%s serves policy %s as %s", server.base_url, policy.version, name)
        return name

    def remove(self) -> None:
        """Nothing: what the command brought is its own to take away."""

    def _run(self, folder: str, name: str) -> None:
        try:
            status = subprocess.run([*self._command, folder, name], check=False).returncode
        except OSError as error:
            raise GenerationError(
                f"the deploy hook {self._command[0]} cannot be run: {error.strerror}", "correct --deploy-hook"
            ) from None
        if status != 0:
            raise GenerationError(
                f"the deploy hook {self._command[0]} ended with status {status} for {name}",
                "see its messages; seal resume RUN calls it again",
            )
