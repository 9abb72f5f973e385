"""Generated and mutated requests: a typed message or a typed error, in time that grows with the bytes."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable

from seal.records import AdaptJob, EvalPrompt, Question, Sampling, TrainingConfig, TrainingSequence
from seal.serve import jobs
from seal.serve import messages as m

QUESTION = {"title": "T", "context": "C", "question": "Q?", "answer": "A", "also": ["B"]}
JOB = AdaptJob(
    "j",
    (TrainingSequence((1, 2, 3), ((1, 3),)),),
    TrainingConfig(rank=4, targets=("all",)),
    (EvalPrompt("p", (1, 2), Sampling(0.0, max_new_tokens=4), (3,), Question("Q", "A", "T")),),
    7,
)
SEEDS = [
    json.dumps(message).encode()
    for message in (
        {"train_sequences": ['a\\"b', "ä"], "eval_questions": [QUESTION], "lora_rank": 4, "seed": 1},
        {"v": 1, "id": "x", "cmd": "adapt", "job": jobs.job_to_wire(JOB)},
        {"v": 1, "id": "x", "cmd": "ttt", "request": {"train_sequences": ["a"]}, "deadline_s": 2.5},
        {"v": 1, "id": "x", "cmd": "cancel", "target": "y"},
        {"cmd": "shutdown", "token": "t"},
    )
]
PARTS = [
    b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"null", b"true", b"-1", b"1e999", b"9" * 60, b"NaN",
    b"\\ud800", b"\xff", b'"a":1,', b'"\\"', b"[[[[[[[[[[[[[", b"\x00", b'"job":', b'"lora_rank":', b" " * 50,
]  # fmt: skip
LIMITS = m.Limits()


def mutated(rng: random.Random) -> bytes:
    raw = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 4)):
        at, end = rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)
        match rng.randrange(5):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << rng.randrange(8)
            case 1:
                raw[at:at] = rng.choice(PARTS) * rng.choice((1, 1, 3, 200))
            case 2:
                del raw[min(at, end) : max(at, end)]
            case 3:
                raw[at:at] = raw[min(at, end) : max(at, end)]
            case _:
                raw[at : at + 4] = rng.choice(PARTS)
    return bytes(raw)


def test_no_request_is_more_than_an_error(
    amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    ends, worst = Counter[str](), 0.0
    for _ in range(amount(50_000)):
        raw, began = mutated(rng), time.process_time()
        try:
            message = m.understand(m.parse(raw, LIMITS), LIMITS)
            if isinstance(message, m.Envelope) and message.job is not None:
                jobs.check_job(jobs.job_from_wire(message.job), LIMITS, vocabulary=99, window=64)
            ends["understood"] += 1
        except m.WireError as error:
            ends[error.code] += 1
        worst = max(worst, time.process_time() - began)
    told(**ends)
    assert worst < 2, "none has more than some ten thousand bytes"
