"""The TTT server under load: many clients beside one, what else it must answer meanwhile, and its memory.

Two servers of the same model run side by side as processes of their own. One gets the requests one after
another, the other the same requests from several clients; they take turns block by block, so that a busy
neighbour slows both. Writes `benchmarks/results/serve_load.json` and a section of `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Spread
from benchmarks.report import write_section
from benchmarks.workload import passages
from seal.self_edit import sequence_texts
from seal.serve.client import TTTClient
from seal.serve.link import Link
from seal.serve.messages import EvalQuestion, TTTRequest

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- serve-load: written by python -m benchmarks.serve_load -->", "<!-- /serve-load -->"
TINY = "tiny-random-llama"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured; `main` sets these from the command line."""

    model: str = "smollm2-135m-instruct"
    dtype: str = "auto"
    threads: int = os.cpu_count() or 1
    requests: int = 64
    clients: int = 8
    blocks: int = 4
    """Turns of each server."""
    epochs: int = 10
    checked: int = 8
    """Requests that are also run in this process, and compared."""
    memory_requests: int = 500


QUICK = Settings(TINY, "float32", 1, requests=16, blocks=2, epochs=2, checked=16, memory_requests=60)


def job_mix(n: int, epochs: int) -> tuple[str, list[TTTRequest]]:
    """Where they come from, and `n` requests of the paper's inner loop: passages with their self-edits."""

    def made() -> Iterator[TTTRequest]:
        number = 0
        while True:
            for task, completion in passages(number)[1]:
                yield TTTRequest(
                    train_sequences=sequence_texts(completion, task.title, task.context, True),
                    eval_questions=[
                        EvalQuestion(title=task.title, question=q.question, answer=q.answer)
                        for q in task.target
                    ],
                    finetune_epochs=epochs,
                )
            number += 1

    picked = [request.model_copy(update={"seed": i}) for i, request in enumerate(islice(made(), n))]
    return passages()[0], picked


class Served:
    """A server in a process of its own."""

    def __init__(self, client: TTTClient, process: psutil.Process) -> None:
        self.client, self.process = client, process

    def ask(self, request: TTTRequest | dict[str, Any] | bytes) -> dict[str, Any]:
        """One request, on a connection of its own."""
        return self.client.ask(
            request.model_dump(mode="json") if isinstance(request, TTTRequest) else request
        )

    def mib(self) -> float:
        """Resident memory in MiB."""
        return float(self.process.memory_info().rss) / 2**20


@contextmanager
def serving(model: str, dtype: str, threads: int, *options: str) -> Iterator[Served]:
    """`seal serve` on a free port, ended by its own shutdown."""
    with tempfile.TemporaryDirectory(prefix="seal-load-") as folder:
        endpoint, log = Path(folder) / "server.json", Path(folder) / "log"
        command = [sys.executable, "-m", "seal", "serve", "--model", model, "--dtype", dtype, "--port", "0"]
        command += ["--endpoint-file", str(endpoint), "--log-level", "WARNING", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=ROOT)
        try:
            until = time.monotonic() + 120
            while not endpoint.is_file():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the server did not come up:\n{log.read_text()}")
                time.sleep(0.05)
            link = Link(json.loads(endpoint.read_text("utf-8"))["endpoint"], silence_s=3600)
            yield Served(TTTClient(link), psutil.Process(process.pid))
            TTTClient(link).command("shutdown")
            process.wait(120)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(30)


class Prober:
    """Sends what must be refused, again and again, while the server trains."""

    def __init__(self, served: Served) -> None:
        over = {"train_sequences": ["a"], "eval_questions": [], "lora_rank": 10**6}
        self.messages: dict[str, bytes] = {
            "BadJSON": b"{not json",
            "LimitExceeded": json.dumps(over).encode(),
            "BadRequest": b'{"train_sequences": [1]}',
        }
        self.seconds: list[float] = []
        self._served, self._stop = served, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            for kind, message in self.messages.items():
                began = time.perf_counter()
                reply = self._served.ask(message)
                self.seconds.append(time.perf_counter() - began)
                assert reply["error"].startswith(kind), reply

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(60)


def throughput(
    settings: Settings, requests: Sequence[TTTRequest], say: Callable[[str], None]
) -> dict[str, Any]:
    """Requests an hour of one client and of several, block by block, and what they were answered."""
    place = (settings.model, settings.dtype, settings.threads)
    size = -(-len(requests) // settings.blocks)
    blocks = [requests[i : i + size] for i in range(0, len(requests), size)]
    rates: dict[int, list[float]] = {1: [], settings.clients: []}
    replies: dict[int, dict[int, Any]] = {1: {}, settings.clients: {}}
    refused: list[float] = []
    with serving(*place) as alone, serving(*place) as shared:
        servers = {1: alone, settings.clients: shared}
        memory = [shared.mib()]
        for turn, block in enumerate(blocks):
            for clients in sorted(servers, reverse=bool(turn % 2)):
                began = time.perf_counter()
                with Prober(servers[clients]) as prober, ThreadPoolExecutor(clients) as pool:
                    answers = list(pool.map(servers[clients].ask, block))
                rates[clients].append(3600 * len(block) / (time.perf_counter() - began))
                refused += prober.seconds
                replies[clients] |= {r.seed or 0: a for r, a in zip(block, answers, strict=True)}
            memory.append(shared.mib())
            alone_rate, shared_rate = (rates[clients][-1] for clients in (1, settings.clients))
            say(f"  block {turn + 1}: {alone_rate:.0f} requests/h alone, {shared_rate:.0f} shared")
    failed = [a for found in replies.values() for a in found.values() if "error" in a]
    assert not failed, failed[0]
    several = rates[settings.clients]
    return {
        "alone": asdict(Spread.of(rates[1])),
        "shared": asdict(Spread.of(several)),
        "ratio": asdict(Spread.of([a / b for a, b in zip(several, rates[1], strict=True)])),
        "refusals": len(refused),
        "refused_ms": asdict(Spread.of([1000 * s for s in refused])),
        "rss_mib": memory,
        "replies": replies,
    }


def in_process(settings: Settings, requests: Sequence[TTTRequest]) -> dict[int, Any]:
    """The same requests without a server."""
    import torch

    from seal.graded import Graded
    from seal.grading import LexicalGrader
    from seal.inner.loop import LocalInnerLoop
    from seal.models.load import load_model
    from seal.serve.requests import Requests

    torch.set_num_threads(settings.threads)
    loaded = load_model(settings.model, "auto", settings.dtype)
    loop, maker = Graded(LocalInnerLoop(loaded), LexicalGrader()), Requests(loaded)
    jobs = [maker.job(request, str(request.seed), request.seed or 0) for request in requests]
    return {int(outcome.job_id): maker.reply(outcome) for outcome in loop.run(jobs)}


def equal_share(some: dict[int, Any], others: dict[int, Any]) -> dict[str, int]:
    """How many replies are the same to the letter, and how many carry the same verdicts."""
    both = [(some[seed], others[seed]) for seed in some if seed in others]
    verdicts = ("baseline_correct", "adapter_correct")
    return {
        "compared": len(both),
        "equal": sum(a == b for a, b in both),
        "same_verdicts": sum(all(a[v] == b[v] for v in verdicts) for a, b in both),
        "answers": sum(len(a["adapter_texts"]) + len(a["baseline_texts"]) for a, _ in both),
        "equal_answers": sum(
            x == y
            for a, b in both
            for name in ("adapter_texts", "baseline_texts")
            for x, y in zip(a[name], b[name], strict=True)
        ),
    }


def front(settings: Settings) -> dict[str, Any]:
    """What a full queue answers and what 500 requests leave in memory; the tiny model, so that it ends."""
    _, requests = job_mix(max(settings.memory_requests, 40), 1)
    small = [r.model_copy(update={"lora_rank": 4, "eval_questions": r.eval_questions[:2]}) for r in requests]
    slow = [r.model_copy(update={"finetune_epochs": 20, "seed": 10**6 + i}) for i, r in enumerate(small[:30])]
    with serving(TINY, "float32", settings.threads, "--capacity", "16") as served:
        with ThreadPoolExecutor(30) as pool:
            replies = list(pool.map(served.ask, slow))
        busy = sum(reply.get("code") == "busy" for reply in replies)
        with ThreadPoolExecutor(settings.clients) as pool:
            warm = len(small) // 3
            list(pool.map(served.ask, small[:warm]))
            before = served.mib()
            list(pool.map(served.ask, small[warm:]))
            after = served.mib()
        trained = int(served.client.command("status")["trained"])
    return {
        "sent_at_once": len(slow),
        "capacity": 16,
        "busy": busy,
        "trained": trained,
        "memory_requests": len(small),
        "rss_mib": [before, after],
    }


def run(settings: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """All measures."""
    source, requests = job_mix(settings.requests, settings.epochs)
    say(f"{len(requests)} requests of {source}, {settings.epochs} epochs")
    found = throughput(settings, requests, say)
    replies = found.pop("replies")
    local = in_process(settings, requests[: settings.checked])
    result = {
        "settings": asdict(settings),
        "source": source,
        "throughput": found,
        "shared_and_alone": equal_share(replies[settings.clients], replies[1]),
        "shared_and_in_process": equal_share(local, replies[settings.clients]),
    }
    say("a full queue, and memory")
    return {**result, "front": front(settings)}


def markdown(result: dict[str, Any]) -> str:
    """The section of the page."""
    s, t, f = result["settings"], result["throughput"], result["front"]
    alone, local = result["shared_and_alone"], result["shared_and_in_process"]
    ratio, refused = t["ratio"], t["refused_ms"]
    missed = "" if ratio["median"] >= 2 else " (missed)"
    late = "" if refused["high"] <= 100 else " (missed)"
    grown = f["rss_mib"][1] - f["rss_mib"][0]
    rows = [
        ("requests an hour, one after another", f"{t['alone']['median']:.0f}", ""),
        (f"requests an hour, {s['clients']} clients", f"{t['shared']['median']:.0f}", ""),
        (
            "times as many (range over blocks)",
            f"**{ratio['median']:.2f} ×** ({ratio['low']:.2f}–{ratio['high']:.2f})",
            f"≥ 2 ×{missed}",
        ),
        ("replies equal to those of one client", _equal(alone), "all"),
        ("replies equal to those in process", _equal(local), "all"),
        (
            f"reply to a malformed or over-limit request while training ({t['refusals']} of them)",
            f"{refused['median']:.1f} ms, at most {refused['high']:.0f} ms",
            f"≤ 100 ms{late}",
        ),
        (
            f"`busy` replies to {f['sent_at_once']} requests at once, room for {f['capacity']} (tiny model)",
            str(f["busy"]),
            f"{f['sent_at_once'] - f['capacity']}",
        ),
        (
            f"memory over {f['memory_requests']} requests, after a third and at the end (tiny model)",
            f"{f['rss_mib'][0]:.0f} and {f['rss_mib'][1]:.0f} MiB ({grown:+.1f})",
            "flat",
        ),
    ]
    head = (
        f"{s['requests']} requests ({result['source']}; rank 32, {s['epochs']} epochs, batch 1) to "
        f"{s['model']}, {s['threads']} thread(s), in {s['blocks']} blocks of alternating order."
    )
    lines = [head, "", "| measure | measured | goal |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _equal(found: dict[str, int]) -> str:
    return (
        f"{found['equal']} of {found['compared']} ({found['same_verdicts']} with the same verdicts; "
        f"{found['equal_answers']} of {found['answers']} answers to the letter)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, a minute, nothing is kept")
    parser.add_argument("--model")
    parser.add_argument("--dtype", help="float32 or bfloat16")
    for name in ("threads", "requests", "clients", "blocks", "epochs", "checked", "memory-requests"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--out", type=Path, help="folder of the JSON; the section is written there too")
    options = vars(parser.parse_args(arguments))
    quick, out = options.pop("quick"), options.pop("out")
    changes = {name: value for name, value in options.items() if value is not None}
    result = run(replace(QUICK if quick else Settings(), **changes))
    if out is None and quick:
        out = Path(tempfile.mkdtemp(prefix="seal-bench-"))
    numbers = (out or ROOT / "benchmarks" / "results") / "serve_load.json"
    page = (out or ROOT / "docs") / "benchmarks.md"
    numbers.parent.mkdir(parents=True, exist_ok=True)
    numbers.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    write_section(page, BEGIN, END, markdown(result))
    print(markdown(result), f"wrote {numbers}", f"wrote {page}", sep="\n")


if __name__ == "__main__":
    main()
