"""What a Ray cluster is made of, node by node, and where nodes differ from this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seal.cluster.session import Session
from seal.cluster.slot import PACKAGES, About, about, code_digest
from seal.errors import ConfigError

#: Seconds that a node has to start a process and answer.
_ANSWER_S = 120.0


@dataclass(frozen=True, slots=True)
class Member:
    """A node that is part of the cluster."""

    host: str
    cpus: float
    gpus: float
    about: About | None
    """What it says of itself; None where it does not answer."""
    why: str = ""


def members(address: str) -> Iterator[Member]:
    """Every node of the cluster at `address`.

    Raises:
        ConfigError: there is none.
    """
    session = Session(address, None, "seal-doctor-")
    try:
        ray = session.ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [
            ray.remote(about)
            .options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote()
            for node in nodes
        ]
        for node, question in zip(nodes, asked, strict=True):
            has = node["Resources"]
            found, why = None, ""
            try:
                found = ray.get(question, timeout=_ANSWER_S)
            except ray.exceptions.RayTaskError as error:
                why = f"{type(error.cause).__name__}: {error.cause}"
            except ray.exceptions.RayError as error:
                why = type(error).__name__
            yield Member(node["NodeManagerHostname"], has.get("CPU", 0), has.get("GPU", 0), found, why)
    finally:
        session.close()


def differences(found: About) -> list[str]:
    """What a node has otherwise than this machine."""
    import platform

    from seal.run.environment import versions

    here: dict[str, str | None] = {"python": platform.python_version(), **versions(PACKAGES)}
    other = [f"{name} {v} (here {here[name]})" for name, v in found.versions if here.get(name) != v]
    return other + (["other code of seal"] if found.code != code_digest() else [])


def require_address(given: str, environment: str | None) -> str:
    """Which cluster is meant. Raises `ConfigError` where none is named."""
    address = given if given != "auto" else environment
    if not address:
        raise ConfigError("no cluster is named", "write --cluster host:port, or set RAY_ADDRESS")
    return address
