"""Grids as tokens: identity, one token a cell, and loss where it belongs, with real tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seal.arc.grid import Array, Pair, to_array, to_grid
from seal.arc.serialise import Codec, Style, encode, parse
from seal.arc.views import PredictionView, TrainView
from seal.errors import DataError

GRIDS = st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(0, 9))
)
PAIR = Pair(to_array([[1, 2, 3], [4, 5, 6]]), to_array([[7, 8]]))
VIEW = TrainView((PAIR, PAIR), Pair(to_array([[9, 0]]), to_array([[0], [9]])))
STYLES: tuple[Style, ...] = ("compact", "official")


@pytest.mark.parametrize("style", STYLES)
@given(grid=GRIDS)
def test_text_of_a_grid_is_read_back(style: Style, grid: Array) -> None:
    assert parse(encode(grid, style) + "#", style) == to_grid(grid)
    assert parse(encode(grid.tolist(), style), style) == to_grid(grid)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("text", ["", "#", "12\n3", "a", "[[1 2]\n [3]]", "[[12 3]]", "1" * 31, "-1", "²"])
def test_what_is_no_grid_is_none(style: Style, text: str) -> None:
    if style == "official" and text == "1" * 31:
        text = " ".join(text)
    assert parse(text, style) is None


@pytest.fixture(params=["llama", "qwen2", "gemma2"])
def tokenizer(request: pytest.FixtureRequest, tiny: Callable[..., Any]) -> Any:
    return tiny(request.param).tokenizer


@pytest.mark.parametrize("style", STYLES)
def test_tokens_decode_to_the_text(tokenizer: Any, style: Style) -> None:
    codec = Codec(tokenizer, style)
    for grid in (*PAIR, to_array([[5]])):
        assert tokenizer.decode(codec.grid(grid)) == encode(grid.tolist(), style)
        answer = tokenizer.decode(codec.answer(grid))
        assert codec.parse(answer) == to_grid(grid)


def test_compact_is_one_token_a_cell_and_one_a_line_break(tokenizer: Any) -> None:
    codec = Codec(tokenizer, "compact")
    assert len(codec.grid(to_array([[0] * 30] * 30))) == 30 * 30 + 29
    assert len(codec.answer(PAIR.input)) == 6 + 1 + 1


@pytest.mark.parametrize("style", STYLES)
def test_a_row_is_its_prompt_and_answer_and_the_loss_covers_the_answer(tokenizer: Any, style: Style) -> None:
    codec = Codec(tokenizer, style)
    row = codec.row(VIEW)
    prompt = codec.prompt(PredictionView(VIEW.demonstrations, VIEW.query.input))
    answer = codec.answer(VIEW.query.output)
    assert row.ids == (*prompt, *answer)
    assert row.labelled() == list(range(len(prompt), len(row.ids)))
    assert codec.length(VIEW) == len(row.ids)
    assert codec.row(VIEW, "all").labelled() == list(range(1, len(row.ids)))


def test_loss_on_all_outputs_leaves_out_the_first_and_every_input(tokenizer: Any) -> None:
    codec = Codec(tokenizer, "compact")
    row = codec.row(VIEW, "outputs")
    counted = tokenizer.decode([row.ids[i] for i in row.labelled()])
    assert counted == "78#0\n9#"


def test_a_chat_template_frames_the_question(tiny: Callable[..., Any]) -> None:
    tokenizer = tiny("qwen2").tokenizer
    view = PredictionView((PAIR,), PAIR.input)
    text = tokenizer.decode(Codec(tokenizer).prompt(view))
    body = "123\n456=78#123\n456="
    message = [{"role": "user", "content": body}]
    assert text == tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(Codec(tokenizer, chat=False).prompt(view)) == body


def test_a_start_token_stands_where_the_tokenizer_puts_one(tiny: Callable[..., Any]) -> None:
    tokenizer = tiny("gemma2").tokenizer
    prompt = Codec(tokenizer).prompt(PredictionView((), PAIR.input))
    assert list(prompt) == tokenizer("123\n456=")["input_ids"]


def test_a_tokenizer_without_digits_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    with pytest.raises(DataError, match="no single token for '0'"):
        Codec(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), "compact")


@pytest.mark.parametrize(
    ("shapes", "query", "cells"),
    [
        ([((3, 3), (3, 3)), ((5, 4), (5, 4))], (6, 2), (6, 2)),  # as large as the input
        ([((3, 3), (6, 3)), ((2, 4), (4, 4))], (5, 5), (10, 5)),  # grown by a factor
        ([((3, 3), (1, 1)), ((2, 4), (1, 1))], (9, 9), (1, 1)),  # one size
    ],
)
def test_the_budget_suffices_for_the_answer(
    tiny: Callable[..., Any], shapes: Any, query: tuple[int, int], cells: tuple[int, int]
) -> None:
    codec = Codec(tiny("llama").tokenizer)
    pairs = tuple(Pair(np.zeros(a, np.int8), np.zeros(b, np.int8)) for a, b in shapes)
    budget = codec.budget(PredictionView(pairs, np.zeros(query, np.int8)))
    needed = len(codec.answer(np.zeros(cells, np.int8)))
    assert needed <= budget <= needed + 4
    assert codec.budget(PredictionView((), np.zeros(query, np.int8))) >= 30 * 31
