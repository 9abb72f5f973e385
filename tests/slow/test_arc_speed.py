"""Preparing every training task costs little more than putting its numbers into tuples."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from seal.arc.grammar import RecipeSpace
from seal.arc.recipe import parse_recipe
from seal.arc.tasks import load_arc
from seal.domains.few_shot import FewShotLearning

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

pytestmark = pytest.mark.slow


def test_all_400_training_tasks_are_prepared_at_the_speed_of_lists(smollm: LoadedModel) -> None:
    """Augmented with every flag on, serialised and tokenised with the built-in model's tokenizer."""
    domain = FewShotLearning()
    drawn = parse_recipe(RecipeSpace().draw(0))
    everything = replace(
        drawn, basic=True, size=True, chain=True, repeat=True, colour=True, epochs=1
    ).to_json()
    start = time.process_time()
    tasks = load_arc("arc-agi-1/training")
    rows = tokens = 0
    for task in tasks:
        made = domain.training_sequences(task, everything, smollm.tokenizer)
        rows += len(made)
        tokens += sum(len(row.ids) for row in made)
    seconds = time.process_time() - start
    assert (len(tasks), rows > 80_000, tokens > 80_000_000) == (400, True, True)
    start = time.process_time()
    for _ in range(rows // 10):
        tuple(token for token in range(tokens // rows))
    plain = 10 * (time.process_time() - start)
    print(f"{rows} rows, {tokens} tokens in {seconds:.1f} s; counted into tuples in {plain:.1f} s")
    assert seconds < 15 * plain
    assert len(smollm.tokenizer.encode("0")) == 1
