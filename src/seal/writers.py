"""Who writes the self-edits of a run: each policy itself, or a server that gets it, or one that does not."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import ConfigError
from seal.sections import GenerationConfig
from seal.spending import Price, Purse

if TYPE_CHECKING:
    from seal.models.load import LoadedModel
    from seal.models.openai_generator import OpenAIGenerator
    from seal.models.vllm_policy import Place
    from seal.models.vllm_server import OwnPolicy
    from seal.protocols import Generator

log = logging.getLogger(__name__)


class Writers:
    """Makes the generator of every policy of a run. A server of its own lasts from the first text to `close`.

    Args:
        settings: how self-edits are written.
        first: name of the run's first policy.
        rank: of the adapter of one M-step.
        purse: pays for requests; None: nobody counts.
        logs: folder for the output of a server of our own; None: standard error.
    """

    def __init__(
        self,
        settings: GenerationConfig,
        first: str,
        rank: int = 1,
        purse: Purse | None = None,
        logs: Path | None = None,
    ) -> None:
        self._settings, self._first, self._purse = settings, first, purse
        self._own: OwnPolicy | None = None
        if settings.engine == "vllm":
            from seal.models.vllm_server import OwnPolicy, VLLMServer

            file = None if logs is None else logs / "vllm.log"
            server = VLLMServer(settings.python, settings.engine_arguments, log=file)
            self._own = OwnPolicy(server, first, rank, settings.restart_after)

    def generator(self, policy: LoadedModel | None) -> Generator:
        """What writes for `policy`; None: for nobody, so that a server must. Raises `ConfigError`."""
        settings = self._settings
        if settings.base_url is None and self._own is None:
            return _local(policy)
        if settings.follows and policy is not None:
            from seal.models.stacked import adapter_of
            from seal.models.vllm_policy import FollowingGenerator

            adapter = adapter_of(policy.source)
            found = adapter if adapter.is_dir() else None
            return FollowingGenerator(self._place(), policy, found, lambda name: self._client(name, policy))
        client = self._client(settings.model or self._first, policy)
        if policy is not None:
            _say_apart(client.where)
        return client

    @property
    def url(self) -> str | None:
        """Where self-edits are written; None: in this process."""
        return self._own.url if self._own else self._settings.base_url

    def close(self) -> None:
        """End a server of our own."""
        if self._own is not None:
            self._own.close()

    def _place(self) -> Place:
        from seal.models.deploy_hook import HookedServer
        from seal.models.vllm_policy import VLLMPolicy

        if self._own is not None:
            return self._own
        settings = self._settings
        server = VLLMPolicy(settings.base_url or "", settings.model or self._first, settings.api_key_env)
        return HookedServer(settings.deploy_hook, server) if settings.deploy_hook else server

    def _client(self, name: str, policy: LoadedModel | None) -> OpenAIGenerator:
        from seal.models.openai_generator import OpenAIGenerator

        settings = self._settings
        return OpenAIGenerator(
            name,
            self.url or "",
            settings.api,
            "" if self._own else settings.api_key_env,
            concurrency=settings.concurrency,
            timeout=settings.timeout_s,
            attempts=settings.max_attempts,
            contract=policy.contract if policy else None,
            purse=self._purse,
            price=Price(*settings.price),
        )


def _local(policy: LoadedModel | None) -> Generator:
    from seal.inner.loop import LocalGenerator

    if policy is None:
        raise ConfigError("there is no model to write self-edits", "set generation.base_url")
    return LocalGenerator(policy)


@cache
def _say_apart(where: str) -> None:
    """Say it once, and not with every policy."""
    log.warning(
        "%s writes the self-edits of every round: no trained policy reaches it, so no arm follows the rounds",
        where,
    )
