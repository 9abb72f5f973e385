"""A server is asked for JSON of exactly the kind that constrained writing spells here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from loopback_http import JSON, answering
from seal.arc.grammar import RecipeSpace
from seal.arc.recipe import parse_recipe
from seal.constrained import constrained, draw, schema
from seal.domains.study_plan import PlanSpace
from seal.models.openai_generator import OpenAIGenerator
from seal.records import Sampling

SPACES = [RecipeSpace(), RecipeSpace(groups=("basic",), colour=False), PlanSpace()]


@pytest.mark.parametrize("space", SPACES)
def test_everything_that_a_space_spells_is_of_its_schema(space: Any) -> None:
    validator = Draft202012Validator(schema(space))
    for seed in range(20):
        validator.validate(json.loads(draw(space, seed)))


def test_near_misses_are_not() -> None:
    validator = Draft202012Validator(schema(RecipeSpace()))
    good = json.loads(draw(RecipeSpace(), 1))
    for section, name, value in [
        ("data_generation", "use_basic_augmentations", "yes"),
        ("data_generation", "use_more", True),
        ("training", "learning_rate", 0.5),
        ("training", "num_train_epochs", 4),
        ("training", "strategy", "all"),
    ]:
        bad = {**good, section: {**good[section], name: value}}
        assert not validator.is_valid(bad), (section, name, value)
    lacks = {**good, "training": {k: v for k, v in good["training"].items() if k != "strategy"}}
    assert not validator.is_valid(lacks)


@pytest.fixture
def asked() -> Iterator[tuple[str, list[dict[str, Any]], dict[str, tuple[str, ...]]]]:
    """A server that answers with a recipe, what it was asked, and which forms it refuses."""
    seen: list[dict[str, Any]] = []
    mood: dict[str, tuple[str, ...]] = {"refuses": ()}

    def answer(path: str, _: Any, body: Any) -> tuple[int, str, str]:
        seen.append(body)
        form = body.get("response_format", {}).get("type")
        if form in mood["refuses"]:
            told = "{'loc': ('body', 'response_format', 'type'), 'msg': \"Input should be 'text'\"}"
            return 500, JSON, json.dumps({"error": {"message": f"1 validation error: {told}"}})
        text = draw(RecipeSpace(), 3)
        choice = {"text": text, "message": {"content": text}, "finish_reason": "stop"}
        return 200, JSON, json.dumps({"choices": [choice]})

    with answering(answer) as address:
        yield f"{address}/v1", seen, mood


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_server_gets_the_schema_and_one_that_refuses_it_is_asked_without(
    api: Any, asked: Any, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url, seen, mood = asked
    space = RecipeSpace()
    plain = OpenAIGenerator("m", url, api)
    writer = constrained(plain, tiny().tokenizer, space)
    (completion,) = writer.generate(["p"], Sampling(), [1])
    assert parse_recipe(completion.text).epochs in space.epochs
    form = seen[-1]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"] == schema(space)
    plain.generate(["p"], Sampling(), [1])
    assert "response_format" not in seen[-1]
    mood["refuses"] = ("json_schema",)
    for refuses_all in (False, True):
        mood["refuses"] += ("json_object",) * refuses_all
        again = constrained(OpenAIGenerator("m", url, api, concurrency=1), tiny().tokenizer, space)
        seen.clear()
        again.generate(["p", "p"], Sampling(), [1, 2])
        forms = [body.get("response_format") for body in seen]
        in_its_way = {"type": "json_object", "schema": schema(space)}
        known = [None, None] if refuses_all else [in_its_way]
        assert forms[1:] == [in_its_way, *known]
    assert caplog.text.count("takes no response_format: what it writes may have another form") == 1
