"""Recipes: tolerant reading, strict meaning, and constrained writing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from seal.arc.grammar import RecipeSpace
from seal.arc.recipe import ArcRecipe, RecipeError, check_steps, effectiveness, parse_recipe
from seal.constrained import ConstrainedWriter, write
from seal.records import Sampling

RECIPE = ArcRecipe(True, False, False, True, "train_using_output_tokens", 1e-4, 2, colour=False)


def changed(section: str, **values: Any) -> str:
    data = json.loads(RECIPE.to_json())
    data[section] |= values
    return json.dumps(data)


def test_a_recipe_is_read_back() -> None:
    assert parse_recipe(RECIPE.to_json()) == RECIPE
    assert RECIPE.groups == ("basic", "repeat")
    assert not RECIPE.permutes_colours


@pytest.mark.parametrize(
    "text",
    [
        "```json\n{}\n```",
        "Here is my choice: {} I hope it helps. {{not json",
        "\n\t{}\n",
        '{{"thought": 1}} {}',
    ],
)
def test_words_around_the_object_are_forgiven(text: str) -> None:
    assert parse_recipe(text.format(RECIPE.to_json())) == RECIPE


def test_trailing_commas_unknown_keys_and_duplicates_are_forgiven() -> None:
    assert parse_recipe(RECIPE.to_json().replace("}}", ",}}")) == RECIPE
    assert parse_recipe(changed("training", warmup=3)) == RECIPE
    twice = RECIPE.to_json().replace('"num_train_epochs": 2', '"num_train_epochs": 9, "num_train_epochs": 2')
    assert parse_recipe(twice) == RECIPE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON recipe"),
        ("[1, 2]", "no JSON recipe"),
        (RECIPE.to_json()[:-30], "no JSON recipe|lacks 'training'"),
        ("[" * 100_000, "no JSON recipe"),
        ('{"training": {}}', "lacks 'data_generation'"),
        ('{"data_generation": {}}', "lacks 'training'"),
        ('{"data_generation": [], "training": {}}', "data_generation is .*not an object"),
        (changed("data_generation", use_basic_augmentations="false"), "use_basic_augmentations is 'false'"),
        (changed("data_generation", use_colour_permutation=1), "use_colour_permutation is 1"),
        (changed("training", strategy="train_using_input_tokens"), "strategy is"),
        (changed("training", strategy=["x"]), "strategy is"),
        (changed("training", learning_rate="1e-4"), "learning_rate is '1e-4'"),
        (changed("training", learning_rate=0), "learning_rate is 0"),
        (changed("training", learning_rate=1), "learning_rate is 1"),
        (changed("training", learning_rate=math.nan), "learning_rate is nan"),
        (changed("training", learning_rate=True), "learning_rate is True"),
        (changed("training", num_train_epochs=-1), "num_train_epochs is -1"),
        (changed("training", num_train_epochs=2.5), "num_train_epochs is 2.5"),
        (changed("training", num_train_epochs=None), "num_train_epochs is None"),
        (changed("training", num_train_epochs=10**400), "num_train_epochs is 1000"),
        (changed("training", num_train_epochs=math.inf), "num_train_epochs is inf"),
    ],
)
def test_what_a_recipe_may_not_say_is_named(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse_recipe(text)


def test_colours_follow_the_official_rule_when_not_named() -> None:
    without = ArcRecipe(False, False, False, False, "train_using_all_tokens", 1e-3, 0)
    assert parse_recipe(without.to_json()) == without
    assert not without.permutes_colours
    assert ArcRecipe(False, True, False, False, "train_using_all_tokens", 1e-3, 0).permutes_colours


def test_375_steps_are_allowed_and_376_are_not() -> None:
    three = ArcRecipe(True, True, True, True, "train_using_all_tokens", 1e-3, 3)
    check_steps(three, 250)
    with pytest.raises(RecipeError, match="3 epochs of 251 rows are 376 steps"):
        check_steps(three, 251)
    check_steps(three, 501, batch_size=4)


def test_effect_of_an_augmentation_is_the_difference_it_made() -> None:
    on = ArcRecipe(True, False, False, False, "train_using_all_tokens", 1e-3, 1, colour=False)
    off = ArcRecipe(False, False, False, False, "train_using_all_tokens", 1e-3, 1, colour=False)
    effects = effectiveness([(on, 1.0), (on, 0.0), (off, 0.0)])
    assert (effects["basic"].on, effects["basic"].off) == (0.5, 0.0)
    assert (effects["size"].on, effects["size"].n_off) == (None, 3)


def fixed(likelihoods: dict[str, float]) -> Any:
    """A policy whose log-likelihood of a choice depends on the choice alone."""

    def score(prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        return [likelihoods.get(text.strip(" ,}"), 0.0) for text in continuations]

    return score


def test_the_space_spells_every_recipe_once() -> None:
    space = RecipeSpace(learning_rates=(1e-5, 1e-3), epochs=(1, 10), groups=("basic", "size"))
    recipes = list(space.recipes())
    assert len(recipes) == len(set(recipes)) == 2**3 * 2 * 2 * 2
    assert not any(recipe.chain or recipe.repeat for recipe in recipes)
    slots = space.slots()
    for recipe in recipes[:3]:
        text = recipe.to_json()
        assert text.startswith(slots[0].before)
    assert {parse_recipe(space.draw(seed)) for seed in range(400)} <= set(recipes)
    assert len({space.draw(seed) for seed in range(400)}) > 50


def test_written_recipes_are_the_texts_of_recipes() -> None:
    space = RecipeSpace()
    texts = write(["p"] * 20, list(range(20)), fixed({}), space)
    assert all(parse_recipe(text).to_json() == text for text in texts)
    assert len(set(texts)) > 10
    assert texts == write(["p"] * 20, list(range(20)), fixed({}), space)


def test_choices_follow_the_softmax_of_the_log_likelihoods() -> None:
    score = fixed({"true": math.log(3.0)})
    recipes = [parse_recipe(t) for t in write(["p"] * 2000, list(range(2000)), score, RecipeSpace())]
    for flag in ("basic", "size", "chain", "repeat", "colour"):
        assert sum(getattr(r, flag) for r in recipes) / 2000 == pytest.approx(0.75, abs=0.04)
    rates = Counter(recipe.learning_rate for recipe in recipes)
    assert all(count / 2000 == pytest.approx(1 / 3, abs=0.04) for count in rates.values())
    # At temperature 1/2 the odds are squared.
    cold = [
        parse_recipe(t) for t in write(["p"] * 2000, list(range(2000)), score, RecipeSpace(), temperature=0.5)
    ]
    assert sum(r.basic for r in cold) / 2000 == pytest.approx(0.9, abs=0.03)


def test_temperature_0_takes_the_likeliest() -> None:
    likelihoods = {"false": 1.0, "1e-05": 0.5, "3": 2.0, '"train_using_output_tokens"': 0.1}
    (text,) = write(["p"], [7], fixed(likelihoods), RecipeSpace(), temperature=0)
    expected = ArcRecipe(False, False, False, False, "train_using_output_tokens", 1e-5, 3, colour=False)
    assert parse_recipe(text) == expected


def test_equal_beginnings_are_scored_once() -> None:
    asked: list[int] = []

    def score(prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        asked.append(len(prompts))
        assert len(set(zip(prompts, continuations, strict=True))) == len(prompts)
        return [0.0] * len(prompts)

    write(["a"] * 50 + ["b"] * 50, list(range(100)), score, RecipeSpace())
    assert asked[:3] == [4, 8, 16]
    assert len(asked) == 8


def test_the_writer_is_a_generator(tiny: Any) -> None:
    from seal.protocols import Generator

    tokenizer = tiny("llama").tokenizer
    writer = ConstrainedWriter(lambda: fixed({"true": 5.0}), tokenizer, RecipeSpace())
    assert isinstance(writer, Generator)
    (written,) = writer.generate(["p"], Sampling(temperature=0.0), [1])
    assert parse_recipe(written.text).basic
    assert written.finish == "stop"
    assert written.n_tokens == len(written.text)  # a byte-level tokenizer
