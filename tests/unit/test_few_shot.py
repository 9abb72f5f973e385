"""The few-shot domain: sequences, prompts and scores by hand computation, then through the real engine."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seal.arc.augment import named
from seal.arc.grammar import RecipeSpace
from seal.arc.grid import to_array
from seal.arc.recipe import ArcRecipe, parse_recipe
from seal.arc.serialise import encode
from seal.arc.synthetic import synthetic_tasks
from seal.arc.tasks import find_task, to_task
from seal.constrained import ConstrainedWriter
from seal.data.halves import Halves
from seal.data.load_report import LoadReport
from seal.domains.base import InvalidEdit
from seal.domains.few_shot import PAPER_LORA, FewShotLearning
from seal.errors import ConfigError, DataError
from seal.inner.loop import LocalGenerator, LocalInnerLoop
from seal.models.builtin import build
from seal.protocols import FollowUp
from seal.records import AdaptJob, Answer, EvalPrompt, Sampling, Task, TrainingConfig

TASK = find_task("6150a2bd")  # two demonstrations, one test; the rule is a half turn
EDIT = ArcRecipe(False, False, False, False, "train_using_output_tokens", 1e-3, 2, colour=False)


@pytest.fixture(scope="module")
def tokenizer(tiny: Callable[..., Any]) -> Any:
    return tiny("llama").tokenizer


def answers(domain: FewShotLearning, task: Task, tokenizer: Any, texts: list[str]) -> list[Answer]:
    eval_prompts = domain.eval_prompts(task, tokenizer)
    assert len(texts) == len(eval_prompts)
    return [Answer(eval_prompt.id, text) for eval_prompt, text in zip(eval_prompts, texts, strict=True)]


def right_texts(domain: FewShotLearning, task: Task) -> list[str]:
    """What a perfect model says to each view."""
    texts = []
    for views, (_, gold) in zip(domain._views(task), task.target, strict=True):
        for view in views:
            seen = named(named(view.inverse).inverse).apply(to_array(gold))
            texts.append(encode(seen.tolist()) + "#")
    return texts


def test_the_prompt_shows_the_demonstrations_and_no_test(tiny: Callable[..., Any]) -> None:
    domain = FewShotLearning()
    text = domain.create_self_edit_prompt(TASK.context)
    assert "338\n370\n500=005\n073\n833#" in text
    assert encode(TASK.target[0][0]) not in text
    assert encode(TASK.target[0][1]) not in text
    chat = tiny("qwen2").tokenizer
    message = [{"role": "user", "content": text}]
    framed = chat.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert domain.prompt_for(TASK, chat) == framed
    assert FewShotLearning(chat=False).prompt_for(TASK, chat) == text
    assert "Form:" not in text
    assert "Form:" in FewShotLearning(constrained=False).create_self_edit_prompt(TASK.context)


def test_a_long_task_is_shown_in_part() -> None:
    short = FewShotLearning(prompt_cells=20).create_self_edit_prompt(TASK.context)
    assert "338\n370\n500=" in short
    assert "552\n100\n000=" not in short


def test_rows_without_augmentation_are_the_leave_out_tasks(tokenizer: Any) -> None:
    rows = FewShotLearning().training_sequences(TASK, EDIT.to_json(), tokenizer)
    texts = [tokenizer.decode(row.ids) for row in rows]
    first, second = "338\n370\n500=005\n073\n833#", "552\n100\n000=000\n001\n255#"
    assert texts == [second + first, first + second, first, second]
    answer = "005\n073\n833#"
    assert tokenizer.decode([rows[0].ids[i] for i in rows[0].labelled()]) == answer
    everything = replace(EDIT, strategy="train_using_all_tokens")
    whole = FewShotLearning().training_sequences(TASK, everything.to_json(), tokenizer)
    assert whole[0].labelled() == list(range(1, len(whole[0].ids)))


def test_more_rounds_give_more_recoloured_rows_up_to_the_cap(tokenizer: Any) -> None:
    recoloured = replace(EDIT, colour=True, epochs=1).to_json()
    counts = [
        len(FewShotLearning(**options).training_sequences(TASK, recoloured, tokenizer))
        for options in ({}, {"rounds": 10}, {"rounds": 10, "cap": 12})
    ]
    assert counts[0] == 8  # two leave-1 and two leave-2 tasks, each with a recoloured copy
    assert counts[1] > 30
    assert counts[2] == 12


def test_demonstration_loss_counts_every_output_but_the_first(tokenizer: Any) -> None:
    task = synthetic_tasks(1, families=["mirror"])[0].task
    row = FewShotLearning(demonstration_loss=True).training_sequences(task, EDIT.to_json(), tokenizer)[0]
    assert tokenizer.decode([row.ids[i] for i in row.labelled()]).count("#") == 2


@pytest.mark.parametrize("task", ["6150a2bd", "44f52bb0"])
def test_no_row_and_no_prompt_shows_a_test_output(task: str, tokenizer: Any) -> None:
    """A test output of colours that occur nowhere else must not occur in any row or prompt."""
    known = find_task(task)
    marked = replace(known, target=tuple((given, ((1, 9, 9, 1), (9, 1, 1, 9))) for given, _ in known.target))
    domain = FewShotLearning(leave=(0, 1))
    everything = replace(EDIT, basic=True, size=True, chain=True, repeat=True, epochs=1)
    shown = [
        tokenizer.decode(row.ids)
        for row in domain.training_sequences(marked, everything.to_json(), tokenizer)
    ]
    shown += [tokenizer.decode(eval_prompt.ids) for eval_prompt in domain.eval_prompts(marked, tokenizer)]
    for name in ("", "Transpose()", "Flip(0)", "Flip(1)", "Rotate(90)", "Rotate(180)", "Rotate(270)"):
        secret = encode(named(name).apply(to_array(marked.target[0][1])).tolist())
        assert not any(secret in text for text in shown)
    unmarked = domain.eval_prompts(known, tokenizer)
    assert [p.ids for p in unmarked] == [p.ids for p in domain.eval_prompts(marked, tokenizer)]
    assert [p.sampling for p in unmarked] == [p.sampling for p in domain.eval_prompts(marked, tokenizer)]


def test_the_recipe_takes_rate_and_epochs_from_the_edit_and_the_rest_from_the_base() -> None:
    chosen = FewShotLearning().training_config(EDIT.to_json(), PAPER_LORA)
    assert chosen == replace(PAPER_LORA, learning_rate=1e-3, epochs=2)
    assert (PAPER_LORA.rank, PAPER_LORA.alpha, PAPER_LORA.batch_size) == (128, 16, 2)


@pytest.mark.parametrize(
    ("completion", "says"),
    [
        ("I would rotate it.", "no JSON recipe"),
        (EDIT.to_json().replace("0.001", "-1"), "learning_rate is -1"),
        (replace(EDIT, epochs=188).to_json(), "188 epochs of 4 rows are 376 steps"),
    ],
)
def test_invalid_edits_say_why(completion: str, says: str, tokenizer: Any) -> None:
    with pytest.raises(InvalidEdit, match=says):
        FewShotLearning().training_sequences(TASK, completion, tokenizer)


def test_187_epochs_of_4_rows_are_allowed_and_too_long_rows_are_left_out(tokenizer: Any) -> None:
    assert (
        len(FewShotLearning().training_sequences(TASK, replace(EDIT, epochs=187).to_json(), tokenizer)) == 4
    )
    length = len("338\n370\n500=005\n073\n833#")
    short = FewShotLearning(max_row_tokens=length + 1)
    assert [len(r.ids) for r in short.training_sequences(TASK, EDIT.to_json(), tokenizer)] == [length] * 2
    with pytest.raises(InvalidEdit, match=f"no training row is below {length} tokens"):
        FewShotLearning(max_row_tokens=length).training_sequences(TASK, EDIT.to_json(), tokenizer)


def test_probes_are_greedy_views_with_room_for_the_answer(tokenizer: Any) -> None:
    eval_prompts = FewShotLearning().eval_prompts(TASK, tokenizer)
    assert (
        len({p.ids for p in eval_prompts}) == len(eval_prompts) == 7
    )  # plain, five transforms, one other order
    assert tokenizer.decode(eval_prompts[0].reference) == "004\n086\n536#"
    assert not any(p.reference for p in eval_prompts[1:])
    for eval_prompt in eval_prompts:
        assert eval_prompt.sampling.temperature == 0
        assert eval_prompt.sampling.stop == ("#",)
        assert eval_prompt.sampling.max_new_tokens >= len("004\n086\n536#")
    assert len(FewShotLearning(max_views=3).eval_prompts(TASK, tokenizer)) == 3


def test_a_perfect_model_scores_1(tokenizer: Any) -> None:
    domain = FewShotLearning()
    done = domain.score(TASK, answers(domain, TASK, tokenizer, right_texts(domain, TASK)))
    assert (done.score, done.n, done.correct) == (1.0, 1, (True,))
    assert done.details["agreement"] == done.details["cell_accuracy"] == done.details["valid"] == 1
    assert done.details["tests"][0]["attempts"] == [[list(row) for row in TASK.target[0][1]]] * 2
    assert domain.compute_reward(done, TASK) == 1.0


def test_the_second_attempt_counts_and_cells_are_the_better_attempt_s(tokenizer: Any) -> None:
    domain = FewShotLearning()
    texts = right_texts(domain, TASK)
    wrong = "004\n086\n530#"
    texts[0] = wrong  # the plain view errs by one cell
    texts[-1] = wrong  # so does the reordered one
    done = domain.score(TASK, answers(domain, TASK, tokenizer, [*texts[:1], *["?"] * 5, texts[-1]]))
    assert done.score == 0
    assert done.details["cell_accuracy"] == pytest.approx(8 / 9)
    assert done.details["valid"] == pytest.approx(2 / 7)
    assert FewShotLearning(reward="cells").compute_reward(done, TASK) == pytest.approx(8 / 9)
    second = domain.score(TASK, answers(domain, TASK, tokenizer, [texts[0], texts[1], *["?"] * 4, wrong]))
    assert second.score == 1
    assert second.details["tests"][0]["attempts"][0] != [list(row) for row in TASK.target[0][1]]


def test_every_test_must_be_solved(tokenizer: Any) -> None:
    task, domain = find_task("44f52bb0"), FewShotLearning()
    views = [len(v) for v in domain._views(task)]
    texts = right_texts(domain, task)
    half = domain.score(task, answers(domain, task, tokenizer, [*texts[: views[0]], *["0#"] * views[1]]))
    assert (half.score, half.correct, half.details["grid_accuracy"]) == (0.0, (True, False), 0.5)
    assert domain.score(task, answers(domain, task, tokenizer, texts)).score == 1


def test_official_and_counted_votes_can_differ(tokenizer: Any) -> None:
    one = {"train": [{"input": [[1]], "output": [[1]]}] * 2, "test": [{"input": [[2]], "output": [[5]]}]}
    task = to_task("same", one)
    counted = FewShotLearning(permutations=0, leave=(0,))
    eval_prompts = counted.eval_prompts(task, tokenizer)
    assert len(eval_prompts) == 1  # every transform of 1x1 grids is the plain view
    for vote in ("simple", "official"):
        domain = FewShotLearning(permutations=0, vote=vote)  # type: ignore[arg-type]
        assert domain.score(task, [Answer(eval_prompts[0].id, "5#")]).score == 1


def test_an_unsolved_test_gives_attempts_and_no_score(tokenizer: Any) -> None:
    domain = FewShotLearning()
    texts = right_texts(domain, TASK)
    unsolved = replace(TASK, target=((TASK.target[0][0], None),))
    done = domain.score(unsolved, answers(domain, unsolved, tokenizer, texts))
    assert (done.score, done.n) == (0.0, 0)
    assert done.details["tests"][0]["attempts"][0] == [list(row) for row in TASK.target[0][1]]
    assert not any(p.reference for p in domain.eval_prompts(unsolved, tokenizer))


def test_a_missing_answer_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="0 answers to 7 evaluation prompts"):
        FewShotLearning().score(TASK, [])


@pytest.mark.parametrize(
    "options",
    [
        {"serialisation": "x"},
        {"vote": "x"},
        {"cap": 0},
        {"leave": ()},
        {"space": {"rates": [1]}},
        {"space": {"epochs": []}},
        {"space": {"learning_rates": [2.0]}},
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FewShotLearning(**options)


def test_reference_recipes_of_synthetic_and_real_tasks() -> None:
    domain = FewShotLearning(
        space={"groups": ["basic", "size"], "learning_rates": [1e-4, 1e-3], "epochs": [1, 2]}
    )
    swap, mirror = (made.task for made in synthetic_tasks(2, families=["colour_swap", "mirror"]))
    edits = {name: parse_recipe(text) for name, text in domain.reference_edits(swap).items()}
    assert edits["no_augmentation"] == EDIT
    assert edits["oracle"] == replace(EDIT, basic=True, size=True)
    assert edits["random"] in set(domain.space.recipes())
    assert parse_recipe(domain.reference_edits(mirror)["oracle"]) == replace(EDIT, size=True, colour=True)
    assert set(domain.reference_edits(TASK)) == {"no_augmentation", "random"}
    draws = {domain.reference_edits(replace(TASK, id=str(i)))["random"] for i in range(20)}
    assert len(draws) > 5


def test_fixed_recipes_are_arms_of_their_own() -> None:
    space = {"learning_rates": [1e-3], "epochs": [2]}
    edits = FewShotLearning(
        space=space, fixed={"geometry": ["basic"], "both": ["size", "colour"]}
    ).reference_edits(TASK)
    assert list(edits) == ["no_augmentation", "random", "geometry", "both"]
    assert parse_recipe(edits["geometry"]) == replace(EDIT, basic=True)
    assert parse_recipe(edits["both"]) == replace(EDIT, size=True, colour=True)
    with pytest.raises(ConfigError, match=r"fixed\.all is 'turns'"):
        FewShotLearning(fixed={"all": ["turns"]})


def test_the_space_may_be_a_mapping() -> None:
    domain = FewShotLearning(space={"learning_rates": [1e-3], "epochs": [1, 2]})
    assert domain.space == RecipeSpace(learning_rates=(1e-3,), epochs=(1, 2))


def test_constrained_edits_come_from_the_policy_s_own_likelihoods(tiny: Callable[..., Any]) -> None:
    loaded = tiny("llama")
    generator = LocalGenerator(loaded)
    domain = FewShotLearning()
    sampler = domain.sampler(generator, loaded.tokenizer)
    assert isinstance(sampler, ConstrainedWriter)
    prompt = domain.prompt_for(TASK, loaded.tokenizer)
    texts = [c.text for c in sampler.generate([prompt] * 4, Sampling(), [1, 2, 3, 4])]
    assert all(parse_recipe(text).to_json() == text for text in texts)
    assert texts == [c.text for c in sampler.generate([prompt] * 4, Sampling(), [1, 2, 3, 4])]
    assert FewShotLearning(constrained=False).sampler(generator, loaded.tokenizer) is generator
    (greedy,) = (c.text for c in sampler.generate([prompt], Sampling(temperature=0.0), [1]))
    start = prompt + '{"data_generation": {"use_basic_augmentations":'
    on, off = generator.score([start] * 2, [" true,", " false,"])
    assert parse_recipe(greedy).basic == (on > off)


@pytest.fixture(scope="module")
def small() -> tuple[FewShotLearning, Task]:
    task = synthetic_tasks(1, families=["colour_swap"], sizes=(2, 2), demonstrations=2, palette=2)[0].task
    return FewShotLearning(permutations=0, max_views=2), task


def test_the_engine_learns_the_rows_and_scores_the_answers(
    tiny: Callable[..., Any], small: tuple[FewShotLearning, Task]
) -> None:
    """Two recipes in one pass: training lowers the loss, no epochs give the baseline."""
    domain, task = small
    loaded = tiny("llama")
    base = TrainingConfig(rank=8, alpha=16.0, batch_size=2, schedule="cosine", warmup_ratio=0.1)
    edit = replace(EDIT, learning_rate=1e-2, epochs=30).to_json()
    eval_prompts = domain.eval_prompts(task, loaded.tokenizer)
    jobs = [
        AdaptJob(
            name,
            domain.training_sequences(task, text, loaded.tokenizer),
            domain.training_config(text, base),
            eval_prompts,
            1,
        )
        for name, text in (("trained", edit), ("untrained", replace(EDIT, epochs=0).to_json()))
    ]
    outcomes = {o.job_id: o for o in LocalInnerLoop(loaded).run(jobs)}
    trained = outcomes["trained"]
    assert trained.error is None
    assert trained.losses[-1] < 0.7 * trained.losses[0]
    assert outcomes["untrained"].adapted == outcomes["untrained"].baseline == trained.baseline
    before, after = domain.score(task, trained.baseline), domain.score(task, trained.adapted)
    assert after.details["valid"] > before.details["valid"]  # it has at least learned what a grid looks like
    assert before.log_likelihood != after.log_likelihood


def test_what_goes_to_other_processes_with_every_batch_is_small(small: tuple[FewShotLearning, Task]) -> None:
    """The domain without its tokenizer, which every worker has."""
    tokenizer = build("tiny-random-llama")[1]
    domain = FewShotLearning(vote="experts")
    domain.training_sequences(small[1], EDIT.to_json(), tokenizer)
    sent = pickle.dumps(domain.follow_up)
    assert len(sent) < 3000 < len(pickle.dumps(tokenizer))
    answers = [Answer(p.id, "0") for p in domain.eval_prompts(small[1], tokenizer)]
    assert pickle.loads(sent)(small[1], answers, tokenizer) == domain.follow_up(small[1], answers, tokenizer)  # type: ignore[misc]


def test_experts_weigh_every_candidate_through_every_view(
    tiny: Callable[..., Any], small: tuple[FewShotLearning, Task]
) -> None:
    """Against the tiny model's own log-probabilities, view by view, of an adapter and of the bare base."""
    loaded, task = tiny("llama"), small[1]
    domain = FewShotLearning(permutations=0, max_views=2, vote="experts", candidates=3)
    eval_prompts = domain.eval_prompts(task, loaded.tokenizer)
    plain, turned = domain._views(task)[0]
    said = {"00\n01#": plain, "10\n00#": turned}  # each view for its own grid; neither is the solution
    texts = iter(said)
    first = [Answer(eval_prompt.id, next(texts)) for eval_prompt in eval_prompts]
    follow = domain.follow_up
    assert follow is not None
    more = follow(task, first, loaded.tokenizer)
    grids = [
        named(view.inverse).apply(np.array([[int(c) for c in row] for row in text[:-1].split("\n")]))
        for text, view in said.items()
    ]
    likelihoods = []
    for grid in grids:
        for view, eval_prompt in zip((plain, turned), eval_prompts, strict=True):
            seen = named(named(view.inverse).inverse).apply(grid.astype(np.int8))
            ids = [*eval_prompt.ids, *loaded.tokenizer(encode(seen.tolist()) + "#")["input_ids"]]
            with torch.no_grad():
                logp = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            likelihoods.append(sum(float(logp[i - 1, ids[i]]) for i in range(len(eval_prompt.ids), len(ids))))
    job = AdaptJob("j", (), TrainingConfig(), eval_prompts, 0)
    (outcome,) = LocalInnerLoop(loaded).run([job], FollowUp(lambda *_: more, {"j": task}))
    second = outcome.baseline[len(eval_prompts) :]
    assert [a.log_likelihood for a in second] == pytest.approx(likelihoods, abs=1e-3)
    done = domain.score(task, [*first, *second])
    means = [sum(likelihoods[:2]) / 2, sum(likelihoods[2:]) / 2]
    best = grids[int(means[1] > means[0])]
    assert done.details["tests"][0]["attempts"][0] == best.tolist()


def test_evaluating_one_model_agrees_with_the_engine(
    tiny: Callable[..., Any], small: tuple[FewShotLearning, Task]
) -> None:
    domain, task = small
    loaded = tiny("qwen2")
    eval_prompts: tuple[EvalPrompt, ...] = domain.eval_prompts(task, loaded.tokenizer)
    job = AdaptJob("j", (), TrainingConfig(), eval_prompts, 0)
    (outcome,) = LocalInnerLoop(loaded).run([job])
    batched = domain.score(task, outcome.baseline)
    alone = domain.evaluate(loaded.model, loaded.tokenizer, task)
    assert alone.details == batched.details
    assert np.isclose(alone.log_likelihood or 0, batched.log_likelihood or 1, atol=1e-4)
    experts = FewShotLearning(permutations=0, max_views=2, vote="experts", candidates=2)
    edit = replace(EDIT, learning_rate=1e-2, epochs=20).to_json()
    rows = experts.training_sequences(task, edit, loaded.tokenizer)
    job = AdaptJob("j", rows, TrainingConfig(rank=4, learning_rate=1e-2, epochs=20), eval_prompts, 0)
    follow = experts.follow_up
    assert follow is not None
    (outcome,) = LocalInnerLoop(loaded).run([job], FollowUp(follow, {"j": task}))
    assert experts.score(task, outcome.baseline) == experts.evaluate(loaded.model, loaded.tokenizer, task)
    ((views, votes),) = experts._votes(experts._views(task), outcome.adapted)
    assert len(outcome.adapted) == len(views) * (1 + len({vote.grid for vote in votes}))
    with pytest.raises(DataError, match="evaluate was given"):
        domain.evaluate(loaded.model, loaded.tokenizer, "task")


@pytest.mark.parametrize(("window", "left"), [(4096, 3), (1024, 2), (300, 0)])
def test_tasks_that_the_window_is_too_short_for_are_left_out_and_counted(window: int, left: int) -> None:
    domain, tokenizer = FewShotLearning(), build("tiny-random-gpt2")[1]

    def task(name: str, side: int) -> Task:
        grid = [[1] * side for _ in range(side)]
        return Task(name, ((grid, grid), (grid, grid)), ((grid, grid),))

    tasks = (task("a", 2), task("b", 3), task("c", 20))
    data = Halves(tasks, (), (LoadReport("train", 3, 3),))
    if not left:
        with pytest.raises(DataError, match="all 3 tasks to train on are left out"):
            data.keep(lambda t: domain.fits(t, tokenizer, window), "too_long", "shorten")
        return
    kept = data.keep(lambda t: domain.fits(t, tokenizer, window), "too_long", "shorten")
    assert len(kept.train) == left
    assert kept.reports[0].count("too_long") == 3 - left
    for t in kept.train:
        longest = max(len(p.ids) + p.sampling.max_new_tokens for p in domain.eval_prompts(t, tokenizer))
        assert longest <= window
