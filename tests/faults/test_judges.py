"""Judges and generators that hang, trickle, refuse, babble or point elsewhere: nothing of it is a verdict."""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest

from raw_server import raw_server
from seal.errors import GenerationError
from seal.grading import JudgeGrader
from seal.models.openai_generator import OpenAIGenerator
from seal.records import Question, Sampling, Verdict

ASKED = (Question("Who?", "Ada"), "Ada")


def reply(body: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    raw = body.encode()
    about = f"content-type: {kind}\r\ncontent-length: {len(raw)}\r\nconnection: close"
    return f"HTTP/1.1 {status}\r\n{about}\r\n\r\n".encode() + raw


def said(text: object) -> str:
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


EXCUSES = [
    "No, I could not evaluate this: upstream timed out", "No answer.", "Yes? I cannot tell.", "yes and no",
    "I'm sorry, I can't help with that.", "no response from the model", "Error 502", "", " ", "null", "yesno",
    "No. The service is overloaded.", "Yes\n\nNo", "{\"verdict\": \"yes\"}", "Nein", "true", "1",
]  # fmt: skip
BODIES = ["", "<html>yes</html>", "[]", "null", "7", '"yes"', "{}", '{"choices": []}', '{"choices": [{}]}',
          '{"choices": [{"message": null}]}', '{"error": "yes"}', '{"choices": [', "data: yes\n\n",
          '{"a":' * 5000, said(None), said(7), said(["yes"]), said({"text": "yes"})]  # fmt: skip


def hang(rng: random.Random) -> bytes:
    time.sleep(0.6)
    return b""


FAULTS: dict[str, Callable[[random.Random], bytes]] = {
    "hang": hang,
    "429": lambda rng: reply('{"error": "slow down"}', "429 Too Many Requests"),
    "500": lambda rng: reply(said("yes"), f"{rng.choice((500, 502, 503, 504))} Error"),
    "refused": lambda rng: reply(said("yes"), f"{rng.choice((400, 404, 413, 422))} Error"),
    "excuse": lambda rng: reply(said(rng.choice(EXCUSES))),
    "no completion": lambda rng: reply(rng.choice(BODIES)),
    "redirect": lambda rng: reply("", f"{rng.choice((301, 302, 307, 308))} Moved\r\nlocation: http://127.0.0.1:9"),
    "cut off": lambda rng: reply(said("yes"))[: rng.randrange(1, 150)],
    "no HTTP": lambda rng: rng.randbytes(200),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_is_a_verdict_or_a_completion(
    fault: str, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    ends = Counter[str]()

    def send(connection: socket.socket) -> None:
        connection.sendall(FAULTS[fault](rng))

    timeout = 0.3 if fault == "hang" else 20.0
    with raw_server(send) as url:
        judge = JudgeGrader(url, "j", timeout=timeout, attempts=1, backoff=0)
        writer = OpenAIGenerator("m", url, timeout=timeout, attempts=1, backoff=0)
        for _ in range(amount(100)):
            (grade,) = judge.grade([ASKED])
            ends[f"judge_{grade.verdict}"] += 1
            assert grade.note
            if fault != "excuse":  # to a generator an excuse is a text like any other
                with pytest.raises(GenerationError):
                    writer.generate(["Say:"], Sampling(max_new_tokens=4), [1])
                ends["generator_error"] += 1
    told(**ends)
    assert not {f"judge_{v}" for v in (Verdict.CORRECT, Verdict.WRONG)} & set(ends)
