"""`seal doctor --cluster`: the members of a Ray cluster, and which of them could not take part in a run."""

from __future__ import annotations

import os
from collections.abc import Iterator

from seal.cluster.census import Member, differences, members, require_address


def report(address: str) -> bool:
    """Print a line or two a node; whether all of them can work. Raises `ConfigError`."""
    found = list(members(require_address(address, os.environ.get("RAY_ADDRESS"))))
    for member in found:
        for line in lines(member):
            print(line, flush=True)
    fit = sum(fits(member) for member in found)
    cpus, gpus = sum(m.cpus for m in found), sum(m.gpus for m in found)
    print(f"\n{fit} of {len(found)} nodes can work: {cpus:g} CPUs and {gpus:g} GPUs in all")
    return fit == len(found)


def fits(member: Member) -> bool:
    """Whether a run would take its results."""
    return member.about is not None and not any("code of seal" in d for d in differences(member.about))


def lines(member: Member) -> Iterator[str]:
    """What there is to say of a node, and how to mend what is wrong."""
    about = member.about
    if about is None:
        yield f"MISSING  {member.host:<22} does not answer: {member.why}"
        yield f"{'':>33}→ install seal there in the environment that Ray was started from"
        return
    names = ", ".join(about.gpus) or about.processor
    mark = "ok     " if fits(member) else "MISSING"
    yield (
        f"{mark}  {member.host:<22} {member.cpus:g} CPUs, {member.gpus:g} GPUs"
        f" ({names}), {about.memory_free / 1e9:.1f} GB free"
    )
    if other := differences(about):
        yield f"{'':>9}{'':<22} differs: {'; '.join(other)}"
    if not fits(member):
        yield f"{'':>33}→ install the same seal there"
