"""ReST-EM: the filter by hand computation, the M-step against hand computation and the LoRA reference."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch

from double_precision import DoublePrecision, tiny_double
from seal.errors import ConfigError, DataError, ModelError
from seal.models.builtin import build
from seal.models.load import LoadedModel, load_model
from seal.models.lora import LoRAWrapper, row_loss
from seal.records import Reward, SelfEdit, TrainingConfig, TrainingSequence
from seal.restem import PAPER_SFT, ReSTEMOptimizer, completion_sequences, save_merged, train_on_sequences
from seal.seeds import derive
from seal.selection import Pair, select, top_k

PAIRS = [
    ("Write about Vell:\n", "- Vell lies in the east.\n- It has a tower."),
    ("Write about Orm:\n", "- Orm is a fish."),
    ("Write about salt:\n", "- Salt is rare in Vell and dear in Orm, so they trade."),
]


def scored(*values: float, tasks: str = "") -> list[tuple[SelfEdit, Reward]]:
    tasks = tasks or "a" * len(values)
    return [
        (SelfEdit(f"e{n}", task, f"prompt {task}", f"text {n}", n, "v0"), Reward(value))
        for n, (value, task) in enumerate(zip(values, tasks, strict=True))
    ]


def load(family: str = "llama") -> LoadedModel:
    return load_model(f"tiny-random-{family}", "cpu", "float32")


def test_positive_keeps_what_is_above_the_threshold() -> None:
    chosen = select(scored(0.2, 0.0, -0.1, 1.0, math.nan))
    assert [d.reward.kept for d in chosen.decisions] == [True, False, False, True, False]
    assert [d.reward.why for d in chosen.decisions] == [
        "0.2 is above 0",
        "0 is not above 0",
        "-0.1 is not above 0",
        "1 is above 0",
        "not measured",
    ]
    assert chosen.pairs == [Pair("prompt a", "text 0"), Pair("prompt a", "text 3")]
    assert [e.id for e in select(scored(0.2, 0.0, 1.0), threshold=0.2).kept] == ["e2"]


def test_best_of_k_is_a_task_s_top_k_and_counts_ties() -> None:
    edits = scored(0.4, 0.8, 0.8, 0.1, 0.3, 0.5, 0.5, 0.9, tasks="aaabbccc")
    chosen = select(edits, keep="best_of_k")
    assert [e.id for e in chosen.kept] == ["e1", "e4", "e7"]
    assert chosen.tied_tasks == ("a",)
    assert chosen.decisions[2].reward.why == "0.8 ties with an earlier one that was kept"
    assert chosen.decisions[0].reward.why == "0.4 is below the best 1 of 3"
    two = select(edits, keep="best_of_k", k=2)
    assert [e.id for e in two.kept] == ["e1", "e2", "e3", "e4", "e5", "e7"]
    assert two.tied_tasks == ("c",)


def test_best_of_k_may_ask_for_more_than_the_baseline() -> None:
    chosen = select(scored(0.4, 0.6, 0.2, 0.2, tasks="aabb"), keep="best_of_k", floors={"a": 0.5, "b": 0.2})
    assert [e.id for e in chosen.kept] == ["e1"]
    assert chosen.tied_tasks == ()
    assert chosen.decisions[2].reward.why == "0.2 is not above the baseline 0.2"


def test_best_of_k_leaves_out_what_was_not_measured() -> None:
    chosen = select(scored(math.nan, -1.0, math.nan), keep="best_of_k", k=2)
    assert [e.id for e in chosen.kept] == ["e1"]
    assert chosen.decisions[0].reward.why == "not measured"
    with pytest.raises(ConfigError, match="keep is 'most'"):
        select(scored(1.0), keep="most")  # type: ignore[arg-type]


def test_top_k_is_stable() -> None:
    assert top_k([1, 3, 3, 2], 1) == ([1], True)
    assert top_k([1, 3, 3, 2], 2) == ([1, 2], False)
    assert top_k([1.0], 3) == ([0], False)
    assert top_k([], 1) == ([], False)


def test_official_ties(shared: Path) -> None:
    """In 17 of the 50 articles of the official second round, order alone decided."""
    run = json.loads((shared / "data/official/rank_iter1.json").read_text())
    edits = [
        (SelfEdit(f"{n}/{m}", str(n), "", c["text"], 0, ""), Reward(c["stats"]["adapter_mean"]))
        for n, article in enumerate(run["articles"])
        for m, c in enumerate(article["completions"])
    ]
    chosen = select(edits, keep="best_of_k")
    assert len(chosen.kept) == 50
    assert len(chosen.tied_tasks) == 17


def test_rows_mask_the_prompt_and_end_with_the_end_token() -> None:
    tokenizer = build("tiny-random-qwen2")[1]
    prompt, completion = "Say:\n", "yes"
    (row,) = completion_sequences(tokenizer, [(prompt, completion)])
    assert row.ids == (*prompt.encode(), *completion.encode(), tokenizer.eos_token_id)
    assert [row.ids[i] for i in row.labelled()] == [*completion.encode(), tokenizer.eos_token_id]
    (again,) = completion_sequences(tokenizer, [(prompt, completion + tokenizer.eos_token)])
    assert again == row


@pytest.mark.parametrize("name", ["tiny-random-qwen2", "tiny-random-gemma2"])
def test_of_a_constrained_completion_only_the_choices_are_learned(name: str) -> None:
    """What lies between them was given, and so was the end."""
    tokenizer = build(name)[1]
    text = '{"a": true, "b": 0.1}'
    choices = tuple((text.index(word), text.index(word) + len(word)) for word in (" true,", " 0.1}"))
    (row,) = completion_sequences(tokenizer, [Pair("Say:\n", text, False, choices)])
    (whole,) = completion_sequences(tokenizer, [("Say:\n", text)])
    assert row.ids == whole.ids
    assert bytes(row.ids[i] for i in row.labelled()) == b" true, 0.1}"


def test_a_completion_that_fills_the_window_has_no_end_to_learn() -> None:
    tokenizer = build("tiny-random-llama")[1]
    (row,) = completion_sequences(tokenizer, [("Say:", "yes")], limit=7)
    assert len(row.ids) == 7
    assert tokenizer.eos_token_id not in row.ids
    (row,) = completion_sequences(tokenizer, [("Say:", "yes")], limit=8)
    assert row.ids[-1] == tokenizer.eos_token_id


def test_a_start_token_is_never_doubled() -> None:
    tokenizer = build("tiny-random-gemma2")[1]
    plain, begun = completion_sequences(tokenizer, [("Say:", "yes"), (f"{tokenizer.bos_token}Say:", "yes")])
    assert plain == begun
    assert plain.ids.count(tokenizer.bos_token_id) == 1


def test_pairs_that_cannot_be_trained_on_say_why() -> None:
    tokenizer = build("tiny-random-llama")[1]
    with pytest.raises(DataError, match=r"completion 2 have 11 tokens and the model's window is 10"):
        completion_sequences(tokenizer, [("a", "b"), ("prompt", "reply")], limit=10)
    with pytest.raises(DataError, match="completion 1 of the SFT data is empty"):
        completion_sequences(tokenizer, [("a", " \n")])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_first_loss_is_the_masked_mean_by_hand(family: str, tmp_path: Path) -> None:
    loaded = load(family)
    tokenizer = loaded.tokenizer
    nll, n_tokens = 0.0, 0
    for prompt, completion in PAIRS:
        start = tokenizer(prompt)["input_ids"]
        ids = [*start, *completion.encode(), tokenizer.eos_token_id]
        with torch.no_grad():
            scores = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nll -= sum(scores[i - 1, ids[i]].item() for i in range(len(start), len(ids)))
        n_tokens += len(ids) - len(start)
    recipe = TrainingConfig(rank=4, alpha=8, epochs=1, batch_size=3)
    for micro_batch in (1, 3):
        result = ReSTEMOptimizer(recipe, micro_batch=micro_batch).update(loaded, PAIRS, tmp_path / "next", 0)
        assert result.losses == (pytest.approx(nll / n_tokens, abs=2e-5),)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_trl_gives_what_the_reference_gives(schedule: str) -> None:
    """Both start from the same factors and see the same full batch; only the code differs."""
    loaded = tiny_double("llama")
    rows = completion_sequences(loaded.tokenizer, PAIRS)
    recipe = TrainingConfig(
        rank=4,
        alpha=8,
        epochs=5,
        batch_size=1,
        accumulation=3,
        schedule=schedule,  # type: ignore[arg-type]
        warmup_ratio=0.4,
        weight_decay=0.01,
        max_grad_norm=0.5,
    )
    with DoublePrecision():
        factors, losses = train_on_sequences(loaded, rows, recipe, seed=7)
        with LoRAWrapper.from_config(loaded.model, recipe) as reference:
            expected = reference.fit(rows, recipe, seed=derive(7, "sft"))
            theirs = reference.factors()
    eps = torch.finfo(torch.float32).eps  # TRL takes the loss in fp32, whatever the model's type
    assert losses == pytest.approx(expected, rel=eps)
    ours, reference_s = (torch.cat([x.flatten() for n in theirs for x in f[n]]) for f in (factors, theirs))
    assert (ours - reference_s).norm() <= 10 * eps * reference_s.norm()


def test_update_leaves_the_old_policy_alone_and_saves_the_new_one(tmp_path: Path) -> None:
    loaded = load("qwen3")
    state = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    config, generation = loaded.model.config.to_dict(), loaded.model.generation_config.to_dict()
    torch_state, python_state = torch.random.get_rng_state(), random.getstate()
    recipe = TrainingConfig(rank=4, alpha=8, learning_rate=1e-2, epochs=8, batch_size=3)
    seen: list[tuple[int, int]] = []
    result = ReSTEMOptimizer(recipe).update(
        loaded, PAIRS, tmp_path / "next", seed=1, progress=lambda step, steps: seen.append((step, steps))
    )
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    assert loaded.model.config.to_dict() == config
    assert loaded.model.generation_config.to_dict() == generation
    assert "forward" not in vars(loaded.model)
    assert not loaded.model.training
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert seen == [(step, 8) for step in range(1, 9)]

    assert (result.updated, result.n, result.folder) == (True, 3, str(tmp_path / "next"))
    following = load_model(result.folder, "cpu", "float32")
    assert following.version == result.version != loaded.version
    rows = completion_sequences(loaded.tokenizer, PAIRS)
    before, after = (sum(nll(policy, row) for row in rows) for policy in (loaded, following))
    assert after < before - 10
    assert result.losses[-1] < result.losses[0]


def nll(policy: LoadedModel, row: TrainingSequence) -> float:
    with torch.no_grad():
        return row_loss(policy.model, row).item()


def test_update_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    recipe = TrainingConfig(rank=4, alpha=8, dropout=0.1, epochs=2, batch_size=1)
    runs = [
        ReSTEMOptimizer(recipe).update(load(), PAIRS, tmp_path / f"{n}", seed=seed)
        for n, seed in enumerate((3, 3, 4))
    ]
    assert runs[0].version == runs[1].version
    assert runs[0].losses == runs[1].losses
    assert runs[0].version != runs[2].version


def test_nothing_kept_means_no_update(tmp_path: Path) -> None:
    loaded = load()
    result = ReSTEMOptimizer(PAPER_SFT).update(loaded, [], tmp_path / "next")
    assert (result.updated, result.version, result.folder, result.n) == (False, loaded.version, "", 0)
    assert "no self-edit was kept" in result.why
    assert not (tmp_path / "next").exists()


def test_a_bf16_policy_stays_bf16(tmp_path: Path) -> None:
    loaded = load_model("tiny-random-llama", "cpu", "bfloat16")
    recipe = TrainingConfig(rank=4, alpha=8, learning_rate=1e-2, epochs=2, batch_size=3)
    rows = completion_sequences(loaded.tokenizer, PAIRS)
    factors, _ = train_on_sequences(loaded, rows, recipe, seed=0)
    assert {a.dtype for a, _ in factors.values()} == {torch.float32}
    save_merged(loaded, factors, recipe, tmp_path / "next")
    following = load_model(str(tmp_path / "next"), "cpu", "bfloat16").model
    a, b = factors["model.layers.0.mlp.up_proj"]
    old = loaded.model.get_submodule("model.layers.0.mlp.up_proj").weight
    new = following.get_submodule("model.layers.0.mlp.up_proj").weight
    assert torch.equal(new, (old.float() + 2.0 * b @ a).to(torch.bfloat16))


def test_a_loss_that_is_not_finite_stops_the_update(tmp_path: Path) -> None:
    recipe = TrainingConfig(rank=4, learning_rate=1e30, max_grad_norm=0.0, epochs=4, batch_size=3)
    with pytest.raises(ModelError, match="the training loss became"):
        ReSTEMOptimizer(recipe).update(load(), PAIRS, tmp_path / "next")
    assert not (tmp_path / "next").exists()


def test_a_batch_must_be_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    loaded = load()
    rows = completion_sequences(loaded.tokenizer, PAIRS)
    with pytest.raises(ConfigError, match="a batch of 10 self-edits cannot be shared by 3 processes"):
        train_on_sequences(loaded, rows, PAPER_SFT, seed=0)
