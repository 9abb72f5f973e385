"""One round on the real built-in model (`make test` runs this): it learns an invented passage, measurably."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from seal import SEALFramework
from seal.config import load_config
from seal.inner.loop import LocalGenerator
from seal.models.load import LoadedModel, load_model
from seal.records import EditResult, SelfEdit, Trial
from seal.run.folder import Run

PASSAGES = [
    {
        "title": "The Lanterns of Brask",
        "context": "The town of Brask lights its harbour with jars of glowing moss. The moss was found by "
        f"the diver Ilse Tamber in 1871. Every jar burns for eleven nights{end}",
        "questions": [
            {"question": "What lights the harbour of Brask?", "answer": "jars of glowing moss"},
            {"question": "Who found the moss of Brask?", "answer": "Ilse Tamber"},
            {"question": "For how many nights does a jar of Brask burn?", "answer": "eleven"},
        ],
        "split": split,
    }
    # two wordings: a passage that is held out is never trained on
    for split, end in (("train", "."), ("val", ", and then it is dark."))
]


@pytest.mark.timeout(240)
def test_one_round_with_the_built_in_model(smollm: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "passages.json").write_text(json.dumps(PASSAGES))
    overrides = {
        "data_config": {"dataset_name": "json", "path": str(tmp_path / "passages.json")},
        "tasks_per_iteration": 1,
        "samples_per_iteration": 2,
        "reward": "log_likelihood",
        "data_config.prompt_type": "rewrite",
        "data_config.options": {"chat": "auto"},
        "generation.explore": 0.0,
        "lora_r": 32,
        "lora_alpha": 64,
        "inner.epochs": 6,
        "inner.steps": 0,
        "sft.steps": 0,
        "sft.rank": 64,
        "sft.alpha": 128,
        "sft.batch_size": 10,
        "generation.max_new_tokens": 40,
        "evaluation.max_new_tokens": 12,
        "evaluation.arms": ["base", "passage"],
        "sft.epochs": 1,
        "device": "cpu",
        "output_dir": str(tmp_path / "run"),
    }
    config = load_config(preset="demo", overrides=overrides)
    with Run.create(config.output_dir, config) as run:
        summary = SEALFramework(config, run=run).run()
        trials = [run.recall(Trial, "trial", row.key) for row in run.journal.rows("trial")]
        edits = [run.recall(SelfEdit, "edit", row.key) for row in run.journal.rows("edit")]
        results = [run.recall(EditResult, "result", row.key) for row in run.journal.rows("result")]

    base = summary.arms[0]
    assert (base.n, base.mean) == (3, 0.0), "nobody can know a town that does not exist"
    assert len(trials) == 3
    for trial in trials:
        assert trial is not None
        assert trial.after is not None
        losses = trial.outcome.losses
        assert fmean(losses[-3:]) < 0.5 * fmean(losses[:3]), "the passage was learned"
        assert trial.after.log_likelihood - trial.before.log_likelihood > 0.3, "and answers became likelier"
    assert all(edit and "Passage" in edit.prompt and len(edit.completion.split()) > 3 for edit in edits)

    update = summary.updates[0]
    assert (update.updated, update.kept, update.of) == (True, 1, 2)
    best = max(results, key=lambda result: result.reward.value)
    assert [result.reward.kept for result in results] == [result is best for result in results]
    kept = next(edit for edit in edits if edit.id == best.edit_id)
    policy = load_model(str(tmp_path / "run" / update.checkpoint), "cpu")
    assert policy.version == update.policy != smollm.version
    old, new = (LocalGenerator(m).score([kept.prompt], [kept.completion])[0] for m in (smollm, policy))
    assert new > old + 0.5, "the policy writes such self-edits more readily than before"
