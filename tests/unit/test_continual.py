"""Continual self-edits: merges equal PEFT's, the model is put back, matrices and tables add up."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seal.errors import AdaptError, ConfigError, DataError
from seal.graded import Graded
from seal.grading import LexicalGrader
from seal.inner.loop import LocalGenerator, LocalInnerLoop
from seal.models.lora import LoRAWrapper
from seal.models.merge import merge, restored
from seal.recipes.continual import ContinualSettings, Factories, _read_factors, continual
from seal.recipes.continual_report import heat_map, matrices, summary, table
from seal.records import AdaptJob, Sampling, TrainingConfig, TrainingSequence

TOOLS = Factories(
    lambda loaded: Graded(LocalInnerLoop(loaded), LexicalGrader()),
    LocalGenerator,
    lambda task: f"{task.context}:",
)


@pytest.fixture
def settings(tmp_path: Path) -> ContinualSettings:
    # the answers are letters: a byte model that has seen "Answer: b" a few times says b
    letters = "abcdef"
    records = [
        {
            "title": "T",
            "context": f"Topic: T\nwhat {c}?\nAnswer: {c}{c}\n",
            "questions": [{"question": f"what {c}?", "answer": f"{c}{c}"}],
        }
        for c in letters
    ]
    data = tmp_path / "data.json"
    data.write_text(json.dumps(records))
    return ContinualSettings(
        str(data),
        tmp_path / "out" / "continual.json",
        edits=3,
        sequences=2,
        training=TrainingConfig(rank=4, alpha=8.0, epochs=3, learning_rate=0.02),
        sampling=Sampling(max_new_tokens=4),
        replay=2,
    )


def test_the_result_has_the_official_shape_and_the_model_is_put_back(
    settings: ContinualSettings, tiny: Any, shared: Path
) -> None:
    loaded = tiny()
    before = [p.detach().clone() for p in loaded.model.parameters()]
    result = continual(replace(settings, methods=("official", "replay", "gate")), loaded, TOOLS)
    assert all(bool((a == b).all()) for a, b in zip(before, loaded.model.parameters(), strict=True))
    official = json.loads((shared / "data/official/continual_run0.json").read_text())
    assert set(official) <= set(result)
    assert json.loads(settings.out.read_text()) == result
    for data in (result, *result["methods"].values()):
        for matrix in (data["mean_over_sequences"], data["std_over_sequences"]):
            assert [len(row) for row in matrix] == [3] * 4
            assert all(matrix[i][j] == 0.0 for i in range(1, 4) for j in range(i, 3))
    rows0 = [d["mean_over_sequences"][0] for d in result["methods"].values()]
    assert rows0[0] == rows0[1] == rows0[2]
    text = table(result)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == ["official", "replay", "gate"]
    picture = heat_map(result, settings.out.with_suffix(".png"))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_finished_chains_are_not_run_again(settings: ContinualSettings, tiny: Any) -> None:
    calls: list[int] = []

    def inner_of(loaded: Any) -> Graded:
        calls.append(1)
        if len(calls) == 10:  # in the second sequence
            raise KeyboardInterrupt
        return Graded(LocalInnerLoop(loaded), LexicalGrader())

    whole = continual(replace(settings, out=settings.out.with_name("whole.json")), tiny(), TOOLS)
    with pytest.raises(KeyboardInterrupt):
        continual(settings, tiny(), replace(TOOLS, inner_of=inner_of))
    resumed = continual(settings, tiny(), replace(TOOLS, inner_of=inner_of))
    assert resumed == whole
    # a chain of 3 edits: 4 evaluations and 3 trainings, the first chain and the half one, then the second
    assert len(calls) == 10 + 7
    both = continual(replace(settings, methods=("official", "replay")), tiny(), TOOLS)
    assert both["methods"]["official"] == whole["methods"]["official"]


def test_an_open_gate_is_the_official_procedure_and_a_shut_one_keeps_only_the_first_edit(
    settings: ContinualSettings, tiny: Any
) -> None:
    def run(name: str, **changes: Any) -> Any:
        out = settings.out.with_name(name)
        return continual(replace(settings, out=out, **changes), tiny(), TOOLS)["methods"]

    official = run("a.json")["official"]
    opened = run("b.json", methods=("gate",), tolerance=1e9)["gate"]
    assert opened["mean_over_sequences"] == official["mean_over_sequences"]
    assert opened["scales"] == [[1.0] * 3] * 2
    shut = run("c.json", methods=("gate",), tolerance=-1e9)["gate"]
    assert shut["scales"] == [[1.0, 0.0, 0.0]] * 2
    rows = shut["mean_over_sequences"]
    assert rows[1][0] == rows[2][0] == rows[3][0]


def test_replay_trains_on_earlier_edits_rows(settings: ContinualSettings, tiny: Any) -> None:
    settings = replace(settings, methods=("replay",), sequences=1)
    continual(settings, tiny(), TOOLS)
    lines = settings.out.with_name("continual.json.journal.jsonl").read_text().splitlines()
    (chain,) = [row["data"] for row in map(json.loads, lines) if row["kind"] == "chain"]
    extra = [edit["rows"] - edit["own_rows"] for edit in chain["edits"]]
    own = [edit["own_rows"] for edit in chain["edits"]]
    assert extra == [0, min(2, own[0]), 2]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging_equals_pefts_merge(family: str, tiny: Any, tmp_path: Path) -> None:
    import torch

    loaded = tiny(family)
    recipe = TrainingConfig(rank=4, alpha=8.0, epochs=2, learning_rate=0.01)
    job = AdaptJob("a", (TrainingSequence((5, 6, 7, 8)),), recipe, (), 1, str(tmp_path / "adapter"))
    (outcome,) = LocalInnerLoop(loaded).run([job])
    assert outcome.error is None
    factors = _read_factors(loaded, tmp_path / "adapter")
    wrapper = LoRAWrapper.from_config(tiny(family).model, recipe)
    wrapper.load(tmp_path / "adapter")
    merged = dict(wrapper.merge().named_parameters())
    untouched = dict(tiny(family).model.named_parameters())
    with restored(loaded.model, factors):
        merge(loaded.model, factors, 2.0)
        changed = 0
        for name, weight in loaded.model.named_parameters():
            assert torch.allclose(weight, merged[name], atol=1e-6), name
            changed += int(not torch.equal(weight, untouched[name]))
        assert changed == len(factors)
    assert all(torch.equal(w, untouched[n]) for n, w in loaded.model.named_parameters())


def test_matrices_and_summary_by_hand() -> None:
    chains = [[[0.2, 0.4], [0.8], [0.5, 1.0]], [[0.0, 0.2], [0.4], [0.3, 0.6]]]
    mean, std = matrices(chains)
    assert mean == [pytest.approx([0.1, 0.3]), pytest.approx([0.6, 0.0]), pytest.approx([0.4, 0.8])]
    assert std[1] == pytest.approx([statistics.stdev([0.8, 0.4]), 0.0])
    first = [[[0.2, 0.4], [0.8], [0.5, 0.8]], [[0.0, 0.2], [0.4], [0.1, 0.2]]]
    parts = summary(chains, first)
    assert {name: part["mean"] for name, part in parts.items()} == pytest.approx(
        {
            "unedited": 0.2,
            "learned": 0.7,
            "retained": 0.6,
            "gained": 0.5,
            "kept": 0.4,
            "forgotten": 0.1,
            "learned_more": 0.15,
            "retained_more": 0.2,
        }
    )
    assert parts["retained_more"]["interval"] is None, "two sequences are too few"
    third, base = [[0.1, 0.1], [0.2], [0.2, 0.2]], [[0.1, 0.1], [0.2], [0.1, 0.1]]
    low, high = summary([*chains, third], [*first, base])["retained_more"]["interval"]
    assert -1 <= low < 0.5 / 3 < high <= 1
    shown = table({"methods": {"a": {"summary": summary(first, first)}, "b": {"summary": parts}}})
    assert shown.splitlines()[2].endswith("|  |  |")
    assert shown.splitlines()[3].endswith("| +15.0 [unknown] | +20.0 [unknown] |")


def test_bad_settings_and_failed_edits_are_loud(settings: ContinualSettings, tiny: Any) -> None:
    with pytest.raises(ConfigError, match="unknown method"):
        continual(replace(settings, methods=("magic",)), tiny(), TOOLS)
    with pytest.raises(DataError, match="6 passages for 7 edits"):
        continual(replace(settings, edits=7), tiny(), TOOLS)
    huge = replace(settings.training, learning_rate=1e30)
    with pytest.raises(AdaptError, match="official, sequence 0, edit 0"):
        continual(replace(settings, training=huge), tiny(), TOOLS)
