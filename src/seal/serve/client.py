"""Clients of the TTT server: `RemoteInnerLoop` (many jobs at once), `TTTClient` (one request at a time)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ConfigError, ServeError
from seal.extras import need
from seal.protocols import FollowUp
from seal.records import AdaptJob, AdaptOutcome
from seal.scratch import scratch_folder
from seal.serve import messages as m
from seal.serve.exchange import Exchange, job_error, read_reply
from seal.serve.jobs import job_to_wire, outcome_from_wire
from seal.serve.link import Link

if TYPE_CHECKING:
    from seal.models.load import LoadedModel


log = logging.getLogger("seal.serve")


class RemoteInnerLoop:
    """`InnerLoop` over the wire: the server's engine trains, together with other clients' jobs."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def slots(self) -> int:
        """Jobs under way at the server at once."""
        return self.link.window

    def close(self) -> None:
        """Every run has a connection of its own."""

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """See `InnerLoop.run`. Leaving early cancels what is under way; a server's adapter is asked once."""
        if follow_up is not None:
            raise ConfigError("a server cannot ask an adapter twice", "let this process adapt")
        messages = (
            (job, {"cmd": "adapt", "job": job_to_wire(job)}) if job is not None else None for job in jobs
        )
        for job, reply in Exchange(self.link, messages).replies():
            if "outcome" in reply:
                yield replace(outcome_from_wire(reply["outcome"]), job_id=job.id)
            else:
                yield AdaptOutcome(job.id, error=job_error(reply))


def remote_policy(link: Link) -> LoadedModel:
    """The policy that a server holds: its name, version and tokenizer; the weights stay there.

    Raises:
        ServeError: no reply, or an error reply.
    """
    from transformers import AutoTokenizer

    from seal.models.load import LoadedModel
    from seal.prompt import contract_of

    client = TTTClient(link)
    told, files = client.command("health"), client.command("tokenizer").get("files")
    try:
        with scratch_folder("tokenizer") as folder:
            for name, text in files.items():  # type: ignore[union-attr]
                (folder / Path(name).name).write_text(text, "utf-8")
            tokenizer = AutoTokenizer.from_pretrained(folder)
        model, policy = str(told["model"]), str(told["policy"])
    except Exception as error:  # transformers raises every kind of error on files that it cannot read
        raise ServeError(
            f"{link.endpoint} sends no tokenizer that can be read: {' '.join(str(error).split())[:200]}",
            "check that the server has the same version of seal",
        ) from error
    return LoadedModel(None, tokenizer, model, policy, contract_of(tokenizer))


class TTTClient:
    """One message, one reply, over a REQ socket, as SEAL's own clients do it."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def ask(self, message: dict[str, Any] | bytes) -> dict[str, Any]:
        """Send a message as it is and return the reply, an error reply included.

        Raises:
            ServeError: no reply within `silence_s`.
        """
        need("zmq", "a TTT server")
        import zmq

        with self.link.open(zmq.REQ) as socket:
            socket.send(message if isinstance(message, bytes) else m.encode(message))
            if not socket.poll(int(self.link.silence_s * 1000)):
                raise ServeError(
                    f"{self.link.endpoint} did not answer within {self.link.silence_s:g} s",
                    "check that the server runs: seal serve",
                )
            return read_reply(socket.recv(), self.link.endpoint)

    def command(self, cmd: str, **more: Any) -> dict[str, Any]:
        """A command of the versioned dialect: health, status, cancel (`target`), shutdown (`token`).

        Raises:
            ServeError: no reply, or an error reply.
        """
        reply = self.ask({"v": m.PROTOCOL, "id": uuid.uuid4().hex, "cmd": cmd, **more})
        if "error" in reply:
            raise ServeError(str(reply["error"]))
        return reply
