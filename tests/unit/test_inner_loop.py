"""The inner loop of this process, and the server's client, keep the contract; writing and scoring texts."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inner_contract import RECIPE, InnerLoopContract, fact, job, same_outcome
from seal.errors import GenerationError
from seal.graded import Graded
from seal.grading import Grader, LexicalGrader
from seal.inner.loop import LocalGenerator, LocalInnerLoop, stop_ids
from seal.inner.runtime import Runtime
from seal.inner.score import PrefixScorer
from seal.models.load import LoadedModel, load_model
from seal.models.lora import LoRAWrapper
from seal.prompt import contract_of
from seal.protocols import Generator, InnerLoop
from seal.records import AdaptJob, Sampling
from seal.serve.client import RemoteInnerLoop
from seal.serve.link import Link
from seal.serve.requests import Requests
from seal.serve.server import TTTServer
from seal.serve.settings import ServerSettings

# PEFT still asks transformers for this name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def fresh() -> LoadedModel:
    return load_model("tiny-random-llama", device="cpu")


class TestLocalInnerLoop(InnerLoopContract):
    def open_loop(self, grader: Grader, folder: Path) -> Any:
        return nullcontext(Graded(LocalInnerLoop(fresh(), slots=3, token_budget=64), grader))


class TestRemoteInnerLoop(InnerLoopContract):
    asks_twice = False

    @contextmanager
    def open_loop(self, grader: Grader, folder: Path) -> Iterator[InnerLoop]:
        loaded = fresh()
        settings = ServerSettings(port=0, adapters=folder)
        server = TTTServer(Graded(LocalInnerLoop(loaded, slots=3), grader), Requests(loaded), settings)
        ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        thread = threading.Thread(target=server.run, args=(ready.put,), daemon=True)
        thread.start()
        yield RemoteInnerLoop(Link(ready.get(timeout=20)))
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


def test_jobs_are_taken_when_there_is_room_and_outcomes_come_early() -> None:
    taken: list[str] = []

    def source() -> Iterator[AdaptJob]:
        for i in range(12):
            taken.append(str(i))
            yield job(str(i), i, replace(RECIPE, epochs=1))

    outcomes = Graded(LocalInnerLoop(fresh(), slots=2), LexicalGrader()).run(source())
    assert taken == []
    next(outcomes)
    assert len(taken) <= 4
    assert len(list(outcomes)) == 11


def test_baselines_share_the_prefill_of_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts in eight jobs of two runs: 16 adapted prompts and 2 bare ones are read, no more."""
    loop = LocalInnerLoop(fresh())
    read: list[tuple[tuple[int, ...], bool]] = []
    run = loop._decoder.run

    def counted(requests: Any) -> Any:
        read.extend((r.ids, r.adapter is None) for r in requests)
        return run(requests)

    monkeypatch.setattr(loop._decoder, "run", counted)
    eval_prompts = (fact("a")[1], fact("b")[1])
    jobs = [replace(job(str(i), i, replace(RECIPE, epochs=1)), eval_prompts=eval_prompts) for i in range(8)]
    graded = Graded(loop, LexicalGrader())
    assert len([*graded.run(jobs[:5]), *graded.run(jobs[5:])]) == 8
    assert sum(not bare for _, bare in read) == 16
    assert sorted(ids for ids, bare in read if bare) == sorted(p.ids for p in eval_prompts)


def test_an_outcome_equals_pefts_own_fit_and_generate(tiny_family: LoadedModel) -> None:
    """The whole way of one job in each family, against PEFT, transformers and nothing of the engine."""
    j = job("blue", n_rows=3)
    (outcome,) = LocalInnerLoop(tiny_family).run([j])
    with LoRAWrapper.from_config(tiny_family.model, j.training) as reference:
        losses = reference.fit(j.sequences, j.training, j.seed)
        for answer, eval_prompt in zip(outcome.adapted, j.eval_prompts, strict=True):
            ids = torch.tensor([eval_prompt.ids])
            out = reference.peft.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=3
            )[0, len(eval_prompt.ids) :]
            assert answer.text == tiny_family.tokenizer.decode(out, skip_special_tokens=True)
            whole = torch.tensor([eval_prompt.ids + eval_prompt.reference])
            with torch.no_grad():
                logits = reference.peft(whole).logits[0, len(eval_prompt.ids) - 1 : -1].log_softmax(-1)
            gold = logits.gather(1, torch.tensor(eval_prompt.reference)[:, None]).sum()
            assert answer.log_likelihood == pytest.approx(float(gold), abs=5e-2)
    assert outcome.losses[:3] == pytest.approx(losses[:3], abs=1e-4)
    assert outcome.losses == pytest.approx(losses, abs=2e-2)


def test_two_loops_may_use_one_model(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny()
    pair = [Graded(LocalInnerLoop(loaded, slots=1), LexicalGrader()) for _ in range(2)]
    runs = [loop.run([job("red"), job("blue")]) for loop in pair]
    turns = [next(run) for _ in range(2) for run in runs]
    for a, b in (turns[:2], turns[2:]):
        same_outcome(a, b)


def test_a_merged_policy_is_the_one_that_trains(tiny: Callable[..., LoadedModel]) -> None:
    """After the outer loop changed the weights in place a new loop gives what the changed model gives."""
    loaded, other = tiny("llama", "bfloat16"), tiny("llama", "bfloat16")
    list(LocalInnerLoop(loaded).run([job("red")]))  # the engine has seen the old weights
    for one in (loaded, other):
        wrapper = LoRAWrapper(one.model, rank=4, alpha=64)
        wrapper.reset(3)
        for _, b in wrapper.layers().values():
            b.data.normal_(generator=torch.Generator().manual_seed(b.shape[0])).mul_(0.05)
        wrapper.merge()
    (stale,), (new,) = (LocalInnerLoop(one).run([job("blue")]) for one in (loaded, other))
    (unmerged,) = LocalInnerLoop(tiny("llama", "bfloat16")).run([job("blue")])
    assert stale.losses == new.losses
    assert stale.adapted == new.adapted
    assert unmerged.losses != new.losses


def test_completions_are_repeatable_and_stop(tiny_family: LoadedModel) -> None:
    writer = LocalGenerator(tiny_family)
    assert isinstance(writer, Generator)
    warm = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=16)
    prompts = ["Once upon", "Once upon", "a time", "Zürich 東京 🙂"]
    written = writer.generate(prompts, warm, [1, 2, 1, 1])
    again = writer.generate(prompts[::-1], warm, [1, 1, 2, 1])[::-1]
    assert written == again
    assert written[0].text != written[1].text
    assert all(1 <= c.n_tokens <= 16 for c in written)
    (cut,) = writer.generate(["a time"], replace(warm, stop=(written[2].text[2:5],)), [1])
    assert cut.finish == "stop"
    assert written[2].text.startswith(cut.text)


def test_greedy_completions_equal_generate(tiny_family: LoadedModel) -> None:
    text = "The answer is"
    ids = torch.tensor([tiny_family.contract.ids(text)])
    assert ids[0].tolist() == tiny_family.tokenizer(text)["input_ids"]
    out = tiny_family.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=sorted(stop_ids(tiny_family)),
    )[0, ids.shape[1] :]
    (mine,) = LocalGenerator(tiny_family).generate([text], Sampling(temperature=0.0, max_new_tokens=20), [0])
    assert mine.text == tiny_family.tokenizer.decode(out, skip_special_tokens=True)


def test_a_start_token_is_added_once(tiny: Callable[..., LoadedModel]) -> None:
    tokenizer = tiny("gemma3").tokenizer
    assert contract_of(tokenizer).ids("ab") == (259, 97, 98)
    assert contract_of(tokenizer).ids("<|startoftext|>ab") == (259, 97, 98)
    assert tiny("llama").contract.ids("ab") == (97, 98)


def test_scores_equal_transformers(tiny_family: LoadedModel) -> None:
    prompts, endings = ["Two and two", "The sea is"], [" is four", " blue and wide"]
    scores = LocalGenerator(tiny_family).score(prompts, endings)
    for score, prompt, ending in zip(scores, prompts, endings, strict=True):
        before = tiny_family.tokenizer(prompt)["input_ids"]
        after = tiny_family.tokenizer(ending, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = tiny_family.model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(after)[:, None]).sum()
        assert score == pytest.approx(float(expected), rel=1e-5)


def test_a_prompt_too_long_is_a_generation_error(tiny: Callable[..., LoadedModel]) -> None:
    with pytest.raises(GenerationError, match="a prompt has 5000 tokens; the model reads 4096"):
        LocalGenerator(tiny()).generate(["x" * 5000], Sampling(max_new_tokens=1), [0])


def test_reading_shared_beginnings_once_changes_no_score(tiny_family: LoadedModel) -> None:
    """Prompts that grow from call to call, of several stems, long past Gemma's window of 64 tokens."""
    generator = LocalGenerator(tiny_family)
    score, stems = generator.scorer(), ["The sea at Vell is red. " * n for n in (1, 6, 12)]
    choices = [" yes,", " no,", "!"]
    for step, more in enumerate(("", " and so is", " the long wall of", " no other town. Wherever")):
        prompts = [stem + more + " it" * (step * n % 3) for n, stem in enumerate(stems)]
        asked = [(p, c) for p in prompts[: 3 - step % 2] for c in choices[: 3 - step % 2]]
        found = score([p for p, _ in asked], [c for _, c in asked])
        assert found == pytest.approx(generator.score(*zip(*asked, strict=True)), rel=1e-4)  # type: ignore[arg-type]


def test_more_prompts_than_rows_are_scored_in_groups(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny()
    scorer = PrefixScorer(Runtime.of(loaded.model), max_rows=2, token_budget=40)
    stems = [f"{word} is the colour of the sea at Vell" for word in ("Red", "Blue", "Green", "Black", "Grey")]
    generator = LocalGenerator(loaded)
    for more in ("", " today", " today, they say"):
        asked = [(stem + more, choice) for stem in stems for choice in (" yes", " no, never", "!")]
        ids = [(loaded.contract.ids(p), loaded.contract.ids(c)) for p, c in asked]
        found = scorer.score([p for p, _ in ids], [c for _, c in ids])
        assert found == pytest.approx(generator.score(*zip(*asked, strict=True)), rel=1e-4)  # type: ignore[arg-type]
    assert scorer.score([], []) == []
