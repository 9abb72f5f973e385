"""The warm start: rows made of whole synthetic tasks, and a checkpoint that knows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seal.cli import main
from seal.errors import ModelError
from seal.inner.loop import LocalInnerLoop
from seal.models.load import load_model
from seal.recipes.warm_start import RECIPE, WarmStart, warm_start_rows
from seal.records import AdaptJob, EvalPrompt, TrainingConfig


def test_every_task_gives_one_row_that_asks_for_one_pair_from_all_others(tiny: Callable[..., Any]) -> None:
    tokenizer = tiny("llama").tokenizer
    settings = WarmStart(tasks=12, families=("mirror", "recolour", "shift"), demonstrations=(2, 3))
    rows = list(warm_start_rows(settings, tokenizer))
    assert rows == list(warm_start_rows(settings, tokenizer))
    assert [tokenizer.decode(row.ids).count("=") for row in rows] == [3, 4] * 6
    assert [len(row.loss) for row in rows] == [2, 3] * 6  # every output but the first demonstration's
    assert max(len(row.ids) for row in rows) < 160


def test_tasks_whose_rows_are_too_long_are_left_out(tiny: Callable[..., Any]) -> None:
    settings = WarmStart(tasks=4, families=("tile", "mirror"), demonstrations=(4,))
    assert len(list(warm_start_rows(settings, tiny("llama").tokenizer))) == 2


def test_the_checkpoint_finds_its_rows_likelier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "warm"
    options = ["--model", "tiny-random-llama", "--device", "cpu", "--tasks", "40", "--learning-rate", "1e-2"]
    assert main(["arc", "warm-start", "--output-dir", str(folder), *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    likelihoods = []
    for name in ("tiny-random-llama", str(folder)):
        loaded = load_model(name, device="cpu")
        rows = list(warm_start_rows(WarmStart(tasks=6, seed=0), loaded.tokenizer))
        eval_prompts = tuple(
            EvalPrompt(str(i), row.ids[: row.loss[-1][0]], reference=row.ids[row.loss[-1][0] :])
            for i, row in enumerate(rows)
        )
        (outcome,) = LocalInnerLoop(loaded).run([AdaptJob("j", (), TrainingConfig(), eval_prompts, 0)])
        likelihoods.append(sum(a.log_likelihood or 0.0 for a in outcome.baseline))
    assert likelihoods[1] > 0.8 * likelihoods[0]  # less negative: nats, summed
    assert RECIPE.epochs == 1
    with pytest.raises(ModelError):
        load_model(str(tmp_path / "none"), device="cpu")
