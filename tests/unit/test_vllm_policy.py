"""A policy on a vLLM server is believed only when it is really there. The server is a stand-in for vLLM's
interface, whose log-probabilities come from a real model with the adapter that it says it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_vllm import FakeVLLM, World, drawn, make_world
from loopback_http import answering
from seal.errors import GenerationError, ModelError
from seal.models.load import load_model
from seal.models.lora import LoRAWrapper
from seal.models.merge import merge
from seal.models.stacked import adapter_of, save_stacked
from seal.models.vllm_policy import FollowingGenerator, VLLMPolicy, own
from seal.records import Sampling, TrainingConfig
from seal.restem import ReSTEMOptimizer
from seal.selection import Pair


@pytest.fixture
def server() -> Iterator[FakeVLLM]:
    made = FakeVLLM()

    with answering(lambda path, _, body: made.answer(path, body)) as address:
        made.url = f"{address}/v1"
        yield made


@pytest.fixture
def world(server: FakeVLLM, tiny: Any, tmp_path: Path) -> World:
    return make_world(server, tiny, tmp_path)


def test_a_policy_is_served_under_a_new_name_and_removed(world: World) -> None:
    served = VLLMPolicy(world.server.url, "base")
    name = served.load(world.adapter, "run-1-abc", world.policy)
    assert name.startswith("run-1-abc-")
    assert name in world.server.names
    again = served.load(world.adapter, "run-1-abc", world.policy)
    assert again != name, "a name is never used twice"
    assert name not in world.server.names
    served.remove()
    served.remove()
    assert set(world.server.names) == {"base", "old"}


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("404", r"did not load .*: 404 Not Found .*VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        ("unlisted", "does not list it"),
        ("ignores", "still serves the base model"),
        ("stale", "serves other weights"),
    ],
)
def test_what_is_not_really_served_is_refused_and_removed(world: World, mode: str, told: str) -> None:
    world.server.mode = mode
    served = VLLMPolicy(world.server.url, "base")
    with pytest.raises(GenerationError, match=told):
        served.load(world.adapter, "run-1-abc", world.policy)
    assert served.name == ""
    removed = [body["lora_name"] for path, body in world.server.asked if path.endswith("unload_lora_adapter")]
    assert len(removed) == (mode != "404")


def test_a_server_that_is_gone_is_one_line_and_costs_no_removal(world: World) -> None:
    served = VLLMPolicy("http://127.0.0.1:9/v1", "base", timeout=5)
    with pytest.raises(GenerationError, match="does not answer"):
        served.load(world.adapter, "x", world.policy)
    served.name = "x"
    served.remove()


def test_no_message_holds_the_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_KEY", "very-secret")
    monkeypatch.setattr(world.server, "_load", lambda name, path: (401, "bad key very-secret"))
    with pytest.raises(GenerationError) as caught:
        VLLMPolicy(world.server.url, "base", "VLLM_KEY").load(world.adapter, "x", world.policy)
    assert "very-secret" not in str(caught.value)


def test_a_generator_asks_for_the_policy_under_its_name_and_for_the_base_before_any_round(
    world: World, tmp_path: Path
) -> None:
    class Writer:
        def __init__(self, name: str) -> None:
            self.name = name

        def generate(self, prompts: Any, sampling: Any, seeds: Any, progress: Any = None) -> Any:
            return [self.name for _ in prompts]

    made: Any = Writer
    server = VLLMPolicy(world.server.url, "base")
    trained = FollowingGenerator(server, world.policy, world.adapter, made)
    (name,) = trained.generate(["a"], Sampling(), [1])
    assert str(name).startswith(f"seal-a2-{world.policy.version}-")
    trained.close()
    assert str(name) not in world.server.names
    assert trained.generate(["a"], Sampling(), [1]) != [name], "a name is never used twice"
    trained.close()
    first = FollowingGenerator(server, world.server.names["base"], None, made)
    assert first.generate(["a", "b"], Sampling(), [1, 2]) == ["base", "base"]
    with pytest.raises(GenerationError, match="serves another model as base"):
        FollowingGenerator(server, world.policy, None, made).generate(["a"], Sampling(), [1])


def test_the_m_step_saves_what_all_rounds_changed_beside_its_checkpoints(tiny: Any, tmp_path: Path) -> None:
    training = TrainingConfig(rank=4, alpha=8.0, batch_size=1, epochs=2, learning_rate=1e-2)
    optimizer = ReSTEMOptimizer(training, adapters=True)
    policy = tiny()
    for n in (1, 2):
        optimizer.update(policy, [Pair("Write:\n", f"- fact {n}")], tmp_path / f"policy-{n}", seed=n)
        policy = load_model(str(tmp_path / f"policy-{n}"), "cpu")
    with LoRAWrapper(tiny().model, rank=8, alpha=8) as adapter:
        adapter.load(adapter_of(tmp_path / "policy-2"))
        adapted = replace(tiny(), model=adapter.merge())
    assert own(adapted) == pytest.approx(own(policy), abs=1e-4)
    assert own(tiny()) != pytest.approx(own(policy), abs=1e-2)


def test_rounds_on_top_of_each_other_are_one_adapter_of_the_first_policy(tiny: Any, tmp_path: Path) -> None:
    """Against the weights after both merges; the adapter is read by PEFT's reader."""
    base, twice = tiny(), tiny()
    rounds = [drawn(base, 3), drawn(base, 4)]
    for factors in rounds:
        merge(twice.model, factors, 2.0)
    assert save_stacked(base.model, rounds[0], 2.0, tmp_path / "one") == 4
    assert save_stacked(base.model, rounds[1], 2.0, tmp_path / "two", tmp_path / "one") == 8
    at_once = tiny()
    with LoRAWrapper(at_once.model, rank=8, alpha=8) as adapter:
        adapter.load(tmp_path / "two")
        adapter.merge()
    assert own(at_once) == pytest.approx(own(twice), abs=1e-4)
    assert own(base) != pytest.approx(own(twice), abs=1e-2)
    fewer = dict(list(rounds[1].items())[:1])
    with pytest.raises(ModelError, match="adapts other layers"):
        save_stacked(base.model, fewer, 2.0, tmp_path / "no", tmp_path / "one")
