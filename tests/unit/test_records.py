"""Which tokens count, by hand."""

from __future__ import annotations

from seal.records import TrainingSequence


def test_every_token_but_the_first_counts_unless_spans_say_which() -> None:
    assert TrainingSequence((5, 6, 7, 8)).labelled() == [1, 2, 3]
    assert TrainingSequence((5, 6, 7, 8), ((2, 4),)).labelled() == [2, 3]
    assert TrainingSequence((5, 6, 7, 8), ((0, 2), (1, 9))).labelled() == [1, 2, 3]
