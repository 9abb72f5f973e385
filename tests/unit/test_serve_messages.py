"""The wire: what is accepted, and which typed error everything else gets."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal.records import AdaptJob, EvalPrompt, Question, Sampling, TrainingConfig, TrainingSequence
from seal.serve import jobs
from seal.serve import messages as m

QUESTION = {"title": "T", "context": "C", "question": "Q?", "answer": "A"}
OFFICIAL = {
    "train_sequences": ["a", "b"],
    "eval_questions": [QUESTION],
    "lora_rank": 32,
    "lora_alpha": 64,
    "lora_dropout": 0,
    "finetune_epochs": 10,
    "finetune_lr": 1e-3,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "end_mask_substring": "",
    "skip_training": False,
}


DEFAULT = m.Limits()


def read(message: Any, limits: m.Limits = DEFAULT) -> m.Incoming:
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    return m.understand(m.parse(raw, limits), limits)


def error_of(message: Any, limits: m.Limits = DEFAULT) -> m.WireError:
    with pytest.raises(m.WireError) as caught:
        read(message, limits)
    return caught.value


def test_the_official_defaults_are_the_papers() -> None:
    request = read({"train_sequences": ["a"], "eval_questions": []})
    assert isinstance(request, m.TTTRequest)
    assert request.training() == TrainingConfig(
        rank=32, alpha=64.0, dropout=0.0, learning_rate=1e-3, epochs=10, batch_size=1, accumulation=1
    )
    assert read(OFFICIAL) == m.TTTRequest.model_validate(OFFICIAL)


@pytest.mark.parametrize(
    ("change", "baseline_only"),
    [
        ({}, False),
        ({"skip_training": True}, True),
        ({"train_sequences": []}, True),
        ({"finetune_epochs": 0}, True),
    ],
)
def test_what_trains_nothing(change: dict[str, Any], baseline_only: bool) -> None:
    request = read({**OFFICIAL, **change})
    assert isinstance(request, m.TTTRequest)
    assert request.baseline_only is baseline_only


def test_the_digest_is_of_the_content_alone() -> None:
    first, same, other = (
        read({**OFFICIAL, **change}) for change in ({"seed": 1}, {"seed": 2, "key": "k"}, {"lora_rank": 8})
    )
    assert isinstance(first, m.TTTRequest)
    assert isinstance(same, m.TTTRequest)
    assert isinstance(other, m.TTTRequest)
    assert first.digest() == same.digest() != other.digest()


@pytest.mark.parametrize(
    ("message", "code", "part"),
    [
        (b"", "bad_json", "not JSON"),
        (b"{", "bad_json", "not JSON"),
        (b"\xff\xfe", "bad_json", "UTF-8"),
        (b"[1]", "bad_request", "list"),
        (b"{}", "bad_request", "train_sequences"),
        (b'{"train_sequences": ["a"], "lora_rank": 1, "lora_rank": 2}', "bad_request", "twice"),
        (b'{"train_sequences": [], "finetune_lr": NaN}', "bad_request", "NaN is not"),
        (b'{"train_sequences": [], "finetune_lr": 1e999}', "bad_request", "finetune_lr"),
        (b'{"train_sequences": [], "lora_rank": ' + b"9" * 5000 + b"}", "bad_json", "not JSON"),
        (b'{"train_sequences": ["\\ud800"]}', "bad_request", "surrogate"),
        (b'{"train_sequences": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "limit", "deeper"),
        ({"train_sequences": "text"}, "bad_request", "train_sequences"),
        ({"train_sequences": [1]}, "bad_request", "train_sequences.0"),
        ({"train_sequences": [], "lora_rnk": 3}, "bad_request", "lora_rank"),
        ({"train_sequences": [], "lora_rank": "3"}, "bad_request", "lora_rank"),
        ({"train_sequences": [], "lora_rank": True}, "bad_request", "lora_rank"),
        ({"train_sequences": [], "lora_rank": 0}, "bad_request", "lora_rank"),
        ({"train_sequences": [], "lora_rank": 257}, "limit", "257"),
        (b'{"train_sequences": [], "lora_rank": 1' + b"0" * 400 + b"}", "bad_request", "lora_rank"),
        (b'{"train_sequences": [], "lora_alpha": 1' + b"0" * 400 + b"}", "bad_request", "lora_alpha"),
        ({"train_sequences": [], **{f"k{i}": 1 for i in range(200)}}, "limit", "201 keys"),
        ({"train_sequences": [], "finetune_epochs": 101}, "limit", "101"),
        ({"train_sequences": [], "lora_dropout": 1.0}, "bad_request", "lora_dropout"),
        ({"eval_questions": [{"question": "Q"}]}, "bad_request", "eval_questions.0.answer"),
        ({"eval_questions": [{"question": "Q", "answer": " "}]}, "bad_request", "empty"),
        ({"cmd": "reboot"}, "bad_request", "cmd"),
        ({"v": 2, "id": "x", "cmd": "health"}, "bad_request", "version"),
        ({"v": True, "id": "x", "cmd": "health"}, "bad_request", "version"),
        ({"v": 1, "cmd": "health"}, "bad_request", "id"),
        ({"v": 1, "id": "", "cmd": "health"}, "bad_request", "id"),
        ({"v": 1, "id": "x", "cmd": "ttt"}, "bad_request", "request"),
        ({"v": 1, "id": "x", "cmd": "cancel"}, "bad_request", "target"),
        ({"v": 1, "id": "x", "cmd": "health", "deadline_s": -1}, "bad_request", "deadline_s"),
    ],
)
def test_everything_else_gets_a_typed_error(message: Any, code: str, part: str) -> None:
    error = error_of(message)
    assert error.code == code
    assert part in str(error)
    wire = error.wire()["error"]
    assert wire.startswith(m.CODES[code] + ": ")
    assert "\n" not in wire
    assert len(wire) < 400


def test_sizes_over_the_limits() -> None:
    limits = m.Limits(bytes=300, sequences=2, questions=1)
    assert error_of({"train_sequences": ["x" * 400]}, limits).code == "limit"
    assert error_of({"train_sequences": ["a", "b", "c"]}, limits).code == "limit"
    assert error_of({"eval_questions": [QUESTION] * 2}, limits).code == "limit"
    assert isinstance(read({"train_sequences": ["a", "b"]}, limits), m.TTTRequest)


def test_brackets_in_strings_are_not_depth() -> None:
    text = '[[[{{{"\\' * 50
    request = read({"train_sequences": [text]})
    assert isinstance(request, m.TTTRequest)
    assert request.train_sequences == [text]


def _adapt(sequences: str = "", prompts: str = "", training: str = "") -> bytes:
    job = f'"id":"j","seed":1,"training":{{{training}}},"eval_prompts":[{prompts}],"sequences":[{sequences}]'
    return f'{{"v":1,"id":"x","cmd":"adapt","job":{{{job}}}}}'.encode()


#: Shapes of a message of about `n` bytes that once took quadratic time, or many times its size.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "an open string of quotes": lambda n: b'"' + b'\\"' * (n // 2),
    "backslashes": lambda n: b'{"train_sequences":["' + b"\\" * n,
    "one string": lambda n: b'{"train_sequences":["' + b"a" * n + b'"]}',
    "flat brackets": lambda n: b'{"train_sequences":[' + b"[]," * (n // 3) + b"[]]}",
    "closing brackets": lambda n: b"]" * n,
    "open brackets": lambda n: b"[" * n,
    "keys, the last twice": lambda n: (
        b"{%s}" % b",".join(b'"%d":1' % min(i, n // 12) for i in range(n // 11))
    ),
    "a long key": lambda n: b'{"train_sequences":[],"' + b"a" * n + b'":1}',
    "wrong sequences": lambda n: b'{"train_sequences":[' + b"1," * (n // 2) + b"1]}",
    "wrong questions": lambda n: b'{"eval_questions":[' + b"{}," * (n // 3) + b"{}]}",
    "wrong rows": lambda n: _adapt("1," * (n // 2) + "1"),
    "wrong token ids": lambda n: _adapt('{"ids":[%s""]}' % ('"",' * (n // 3))),
    "wrong spans": lambda n: _adapt('{"ids":[1],"loss":[%s1]}' % ("1," * (n // 2))),
    "wrong prompts": lambda n: _adapt(prompts="{}," * (n // 3) + "{}"),
    "wrong targets": lambda n: _adapt(training='"targets":[%s1]' % ("1," * (n // 2))),
}


@pytest.mark.parametrize("shape", HOSTILE)
def test_no_message_costs_more_than_its_size(shape: str) -> None:
    def cost(raw: bytes) -> None:
        with suppress(m.WireError):
            message = read(raw)
            if isinstance(message, m.Envelope) and message.job is not None:
                jobs.job_from_wire(message.job)

    raw = HOSTILE[shape](2**20)
    began = time.process_time()
    cost(raw)
    assert time.process_time() - began < 10  # ten times what it takes; quadratic would be hours
    raw = HOSTILE[shape](2**17)
    tracemalloc.start()
    try:
        cost(raw)
        assert tracemalloc.get_traced_memory()[1] < 120 * len(raw)
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_typed_error(raw: bytes) -> None:
    with suppress(m.WireError):
        read(raw)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*OFFICIAL, "seed", "key", "v", "id", "cmd", "job"]), _json, max_size=6)
)
def test_no_json_raises_anything_but_a_typed_error(message: dict[str, Any]) -> None:
    with suppress(m.WireError):
        read(json.dumps(message).encode())


def _job(**changes: Any) -> AdaptJob:
    eval_prompt = EvalPrompt("p", (1, 2), Sampling(0.0, max_new_tokens=4), (3,), Question("Q", "A", "T"))
    parts: dict[str, Any] = {
        "id": "j",
        "sequences": (TrainingSequence((1, 2, 3), ((1, 3),)), TrainingSequence((4, 5))),
        "training": TrainingConfig(rank=4, targets=("all",)),
        "eval_prompts": (eval_prompt,),
        "seed": 7,
    }
    return AdaptJob(**{**parts, **changes})


def test_a_job_survives_the_wire() -> None:
    job = _job()
    wire = json.loads(m.encode(jobs.job_to_wire(job)))
    assert jobs.job_from_wire(wire) == job
    assert (
        jobs.job_from_wire(
            {name: wire[name] for name in ("id", "sequences", "training", "eval_prompts", "seed")}
        )
        == job
    )


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (("training", "rnk"), 3, "training.rnk"),
        (("training", "rank"), "3", "rank"),
        (("training", "learning_rate"), float("nan"), "finite"),
        (("eval_prompts", 0, "sampling", "temprature"), 1.0, "sampling.temprature"),
        (("seed",), None, "seed"),
    ],
)
def test_a_wrong_job_is_refused(path: tuple[Any, ...], value: Any, part: str) -> None:
    wire = json.loads(m.encode(jobs.job_to_wire(_job())))
    inner = wire
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(m.WireError, match=part):
        jobs.job_from_wire(wire)


_SHORT = Sampling(max_new_tokens=5)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (_job(sequences=(TrainingSequence((1, 99)),)), "bad_request"),
        (_job(sequences=(TrainingSequence((1, -1)),)), "bad_request"),
        (_job(sequences=(TrainingSequence((1,) * 65),)), "limit"),
        (_job(sequences=(TrainingSequence((1,) * 60),) * 20), "limit"),
        (_job(training=TrainingConfig(rank=300)), "limit"),
        (_job(training=TrainingConfig(epochs=300)), "limit"),
        (_job(sequences=(TrainingSequence((1, 2), ((0, 3),)),)), "bad_request"),
        (_job(sequences=(TrainingSequence((1, 2), ((1, 3),)),)), "bad_request"),
        (_job(sequences=(TrainingSequence((1, 2), ((0, 2), (1, 2))),)), "bad_request"),
        (_job(eval_prompts=(EvalPrompt("p", ()),)), "bad_request"),
        (_job(eval_prompts=(EvalPrompt("p", (1,), Sampling(top_p=0.0, max_new_tokens=4)),)), "bad_request"),
        (_job(eval_prompts=(EvalPrompt("p", (1,), Sampling(max_new_tokens=0)),)), "bad_request"),
        (_job(eval_prompts=(EvalPrompt("p", (1,), Sampling(max_new_tokens=5000)),)), "limit"),
        (_job(eval_prompts=(EvalPrompt("p", (1,) * 60, Sampling(max_new_tokens=5)),)), "limit"),
        (_job(eval_prompts=(EvalPrompt("p", (1,), _SHORT, others=((1,) * 64,)),)), "limit"),
        (_job(eval_prompts=(EvalPrompt("p", (1,), _SHORT, others=((99,),)),)), "bad_request"),
        (
            _job(
                eval_prompts=(EvalPrompt("p", (1,), Sampling(max_new_tokens=5), question=Question("Q", "")),)
            ),
            "bad_request",
        ),
    ],
)
def test_a_job_that_would_harm_its_neighbours_is_refused(job: AdaptJob, code: str) -> None:
    limits = m.Limits(tokens=1000)
    jobs.check_job(_job(), limits, vocabulary=99, window=64)
    with pytest.raises(m.WireError) as caught:
        jobs.check_job(job, limits, vocabulary=99, window=64)
    assert caught.value.code == code
