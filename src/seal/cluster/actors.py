"""Ray's actors as `seal.cluster.member` wants them: calls are streams that nobody waits for."""

from __future__ import annotations

from typing import Any

from seal.cluster.member import Gone
from seal.errors import SealError


class RayActor:
    """See `seal.cluster.member.Actor`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def call(self, method: str, *arguments: Any) -> RayCall:
        """See `Actor`."""
        import ray

        options: dict[str, Any] = {"num_returns": "streaming"}
        if method == "ping":
            options["concurrency_group"] = "ping"  # it is answered while a batch is at work
        try:
            return RayCall(getattr(self._handle, method).options(**options).remote(*arguments))
        except ray.exceptions.RayError as error:
            raise gone(error) from None

    def kill(self) -> None:
        """See `Actor`."""
        import ray

        ray.kill(self._handle)


class RayCall:
    """See `seal.cluster.member.Call`."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.done = stream, False
        self._error: Gone | None = None

    def take(self) -> list[Any]:
        """See `Call`."""
        import ray

        if self._error is not None:
            raise self._error
        said: list[Any] = []
        try:
            while not self.done and ray.wait([self._stream], timeout=0)[0]:
                said.append(ray.get(next(self._stream)))
        except StopIteration:
            self.done = True
        except ray.exceptions.RayError as error:
            self._error = gone(error)
            if not said:  # what it said before it ended counts first
                raise self._error from None
        return said


def gone(error: Exception) -> Gone:
    """What an error of Ray says about the actor.

    A node that goes away first makes its actors unavailable; a process that ends by itself is dead at once.
    """
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        known = isinstance(cause, SealError)
        return Gone(str(cause) if known else f"{type(cause).__name__}: {cause}", for_good=known)
    lost = isinstance(error, ray.exceptions.ActorUnavailableError) or getattr(error, "preempted", False)
    return Gone(one_reason(error), innocent=lost or "its node has died" in str(error))


def one_reason(error: Exception) -> str:
    """The line that says why, of the many that Ray writes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("The actor is dead", "The actor never"))]
    line = (told or lines or [type(error).__name__])[0]
    return line.partition(" Some common causes")[0][:300]
