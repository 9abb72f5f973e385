"""Seeds follow from the run's seed and names alone, and differ where any of them does."""

from __future__ import annotations

import hashlib

from seal.seeds import derive


def test_a_seed_is_the_hash_of_its_names() -> None:
    digest = hashlib.sha256(b"7\x1ftask\x1f3").digest()
    assert derive(7, "task", 3) == int.from_bytes(digest[:8], "big") >> 1
    assert derive(7, "task", 3) == derive(7, "task", "3") < 2**63


def test_order_run_and_borders_of_names_count() -> None:
    seeds = [derive(1, "a", "b"), derive(1, "b", "a"), derive(2, "a", "b"), derive(1, "ab"), derive(1)]
    assert len(set(seeds)) == len(seeds)
