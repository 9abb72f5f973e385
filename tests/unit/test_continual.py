"""Continual self-edits: merges equal PEFT's, the model is put back, matrices and tables add up."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seal import setup
from seal.errors import AdaptError, ConfigError, DataError, RunError
from seal.estep import EStep
from seal.inner.loop import LocalInnerLoop
from seal.models.lora import LoRAWrapper
from seal.models.merge import merge, restored
from seal.recipes import pipeline
from seal.recipes.continual import Chain, Chains, _read_factors, continual
from seal.recipes.continual_report import heat_map, matrices, summary, table
from seal.records import AdaptJob, TrainingConfig, TrainingSequence
from seal.report.history import read_history
from seal.run.codec import decode
from seal.run.journal import Journal


class Lab:
    """`seal continual` on six letters; `fails_at` interrupts when the E-step is built that often."""

    def __init__(self, folder: Path, tiny: Any) -> None:
        # the answers are letters: a byte model that has seen "Answer: b" a few times says b
        records = [
            {
                "title": "T",
                "context": f"Topic: T\nwhat {c}?\nAnswer: {c}{c}\n",
                "questions": [{"question": f"what {c}?", "answer": f"{c}{c}"}],
            }
            for c in "abcdef"
        ]
        self.data, self.tiny, self.folder = folder / "data.json", tiny, folder / "out"
        self.data.write_text(json.dumps(records))
        self.built = 0

    def __call__(
        self,
        name: str = "continual",
        *,
        methods: tuple[str, ...] = ("official",),
        loaded: Any = None,
        fails_at: int = 0,
        learning_rate: float = 0.02,
        **chains: Any,
    ) -> dict[str, Any]:
        training = TrainingConfig(rank=4, alpha=8.0, epochs=3, learning_rate=learning_rate)
        out, loaded = self.folder / f"{name}.json", loaded or self.tiny()
        config = pipeline.settings(
            "tiny",
            str(self.data),
            out,
            **pipeline.inner_settings(replace(training, learning_rate=min(learning_rate, 1.0))),
            generation__max_new_tokens=4,
            inner__workers=1,
            seed=0,
        )
        grader = setup.grader(config, loaded)
        domain = setup.make_domain(config, grader)
        with pipeline.open_run(config, pipeline.Step("continual", str(out))) as run:

            def estep_of(now: Any) -> EStep:
                self.built += 1
                if self.built == fails_at:
                    raise KeyboardInterrupt
                estep = setup.estep(config, run, domain, grader, now)
                estep.evaluator.training = training
                return estep

            wanted = Chains(**{"edits": 3, "sequences": 2, "replay": 2} | chains)
            return continual(run, loaded, estep_of, wanted, methods, out)


@pytest.fixture
def lab(tmp_path: Path, tiny: Any) -> Lab:
    return Lab(tmp_path, tiny)


def test_the_result_has_the_official_shape_and_the_model_is_put_back(
    lab: Lab, tiny: Any, shared: Path
) -> None:
    loaded = tiny()
    before = [p.detach().clone() for p in loaded.model.parameters()]
    result = lab(methods=("official", "replay", "gate"), loaded=loaded)
    assert all(bool((a == b).all()) for a, b in zip(before, loaded.model.parameters(), strict=True))
    official = json.loads((shared / "data/official/continual_run0.json").read_text())
    assert set(official) <= set(result)
    assert json.loads((lab.folder / "continual.json").read_text()) == result
    for data in (result, *result["methods"].values()):
        for matrix in (data["mean_over_sequences"], data["std_over_sequences"]):
            assert [len(row) for row in matrix] == [3] * 4
            assert all(matrix[i][j] == 0.0 for i in range(1, 4) for j in range(i, 3))
    rows0 = [d["mean_over_sequences"][0] for d in result["methods"].values()]
    assert rows0[0] == rows0[1] == rows0[2]
    text = table(result)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == ["official", "replay", "gate"]
    picture = heat_map(result, lab.folder / "continual.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    history = read_history(lab.folder / "continual.run")
    assert len(history.edits) == 3 * 2 * 3  # methods, sequences, edits
    assert history.baselines  # answers of every model on the way, for reports and other graders


def test_finished_chains_are_not_run_again(lab: Lab) -> None:
    whole = lab("whole")
    of_a_run, lab.built = lab.built, 0
    with pytest.raises(KeyboardInterrupt):
        lab(fails_at=10)  # in the second sequence
    lab.built = 0
    resumed = lab()
    assert resumed == whole
    assert lab.built == of_a_run / 2
    both = lab(methods=("official", "replay"))
    assert both["methods"]["official"] == whole["methods"]["official"]
    with pytest.raises(RunError, match="chains 'chains' stands on line"):
        lab(edits=2)


def test_an_open_gate_is_the_official_procedure_and_a_shut_one_keeps_only_the_first_edit(lab: Lab) -> None:
    official = lab("a")["methods"]["official"]
    opened = lab("b", methods=("gate",), tolerance=1e9)["methods"]["gate"]
    assert opened["mean_over_sequences"] == official["mean_over_sequences"]
    assert opened["scales"] == [[1.0] * 3] * 2
    shut = lab("c", methods=("gate",), tolerance=-1e9)["methods"]["gate"]
    assert shut["scales"] == [[1.0, 0.0, 0.0]] * 2
    rows = shut["mean_over_sequences"]
    assert rows[1][0] == rows[2][0] == rows[3][0]


def test_replay_trains_on_earlier_edits_rows(lab: Lab) -> None:
    lab(methods=("replay",), sequences=1)
    (row,) = (r for r in Journal.read(lab.folder / "continual.run/journal.jsonl") if r.kind == "chain")
    chain = decode(Chain, row.data)
    own = [edit.own for edit in chain.edits]
    assert [edit.sequences - edit.own for edit in chain.edits] == [0, min(2, own[0]), 2]


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
            "after_edit": 0.7,
            "retention": 0.6,
            "gain_after_edit": 0.5,
            "gain_retained": 0.4,
            "forgetting": 0.1,
            "after_edit_beyond": 0.15,
            "retention_beyond": 0.2,
        }
    )
    assert parts["retention_beyond"]["interval"] is None, "two sequences are too few"
    third, base = [[0.1, 0.1], [0.2], [0.2, 0.2]], [[0.1, 0.1], [0.2], [0.1, 0.1]]
    low, high = summary([*chains, third], [*first, base])["retention_beyond"]["interval"]
    assert -1 <= low < 0.5 / 3 < high <= 1
    shown = table({"methods": {"a": {"summary": summary(first, first)}, "b": {"summary": parts}}})
    assert shown.splitlines()[2].endswith("|  |  |")
    assert shown.splitlines()[3].endswith("| +15.0 [unknown] | +20.0 [unknown] |")


def test_bad_settings_and_failed_edits_are_loud(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="unknown method"):
        lab("a", methods=("magic",))
    with pytest.raises(DataError, match="6 passages for 7 edits"):
        lab("b", edits=7)
    with pytest.raises(AdaptError, match=r"\.official\.s0\.k0: "):
        lab("c", learning_rate=1e30)


def test_kl_holds_the_model_to_itself_on_earlier_edits_and_weight_0_is_the_official_procedure(
    lab: Lab,
) -> None:
    official = lab("a", sequences=1)["methods"]["official"]
    loose = lab("b", methods=("kl",), sequences=1, kl=0.0)["methods"]["kl"]
    assert loose["mean_over_sequences"] == official["mean_over_sequences"]
    lab("c", methods=("kl", "replay+gate+kl"), sequences=1, kl=50.0)
    edits = {name: _losses_kept(lab, name) for name in ("a", "c")}
    assert edits["c"] < edits["a"]


def _losses_kept(lab: Lab, name: str) -> float:
    """Mean negative log-likelihood of the gold answers of the first two passages after the last edit."""
    rows = Journal.read(lab.folder / f"{name}.run/journal.jsonl")
    answered = [r.data for r in rows if r.kind == "baseline" and r.data["iteration"] == 3]
    first = answered[:2]
    return -statistics.fmean(a["log_likelihood"] for b in first for a in b["answers"])


def test_invented_worlds_are_passages_and_other_settings_of_a_step_are_open(tmp_path: Path) -> None:
    open_ones = {"data_config.max_samples": 5, "data_config.options.ask": "test"}
    config = pipeline.settings("tiny", "invented", tmp_path / "a.json", open_ones)
    worlds = setup.load_tasks(config, "train")
    assert [task.id for task in worlds] == [f"invented-train-s0-f6-0000{i}" for i in range(5)]
    with pytest.raises(ConfigError, match="--set seed: not open here"):
        pipeline.settings("tiny", "invented", tmp_path / "a.json", {"seed": 3}, seed=0)
