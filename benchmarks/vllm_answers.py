"""What it would take to have vLLM answer for the adapters of the inner loop, beside answering here.

    SEAL_VLLM_PYTHON=/opt/vllm/bin/python python -m benchmarks.vllm_answers --adapters 4

Adapters of rank 32 on all linear layers are trained here on a passage each and asked five questions by our
engine, all adapters in one pass and one by one. Then each is saved, loaded into a vLLM server of our own
under a new name, believed as a policy's is (status, list and log-probabilities), asked the same, and removed.
The server gets all questions of an adapter in one request, which is the best case for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.workload import load_workload
from seal.inner.adapter_files import load_adapter, save_adapter
from seal.inner.loop import LocalInnerLoop
from seal.models.load import LoadedModel, load_model
from seal.models.vllm_policy import VLLMPolicy
from seal.models.vllm_server import Served, VLLMServer
from seal.records import AdaptJob, AdaptOutcome, EvalPrompt, Sampling

GREEDY = Sampling(temperature=0.0, max_new_tokens=16)
QUESTIONS = 5


def jobs_of(loaded: LoadedModel, count: int, folder: Path) -> list[AdaptJob]:
    """A passage each, its questions as often as needed, one epoch, all saved."""
    made = []
    for job in load_workload(loaded.tokenizer).with_training(count, epochs=1, rank=32, alpha=64.0):
        asked = [job.eval_prompts[n % len(job.eval_prompts)] for n in range(QUESTIONS)]
        prompts = tuple(EvalPrompt(f"q{n}", p.ids, GREEDY) for n, p in enumerate(asked))
        made.append(replace(job, eval_prompts=prompts, save_to=str(folder / job.id), baseline=False))
    return made


def answered(
    loop: LocalInnerLoop, jobs: Sequence[AdaptJob], together: bool
) -> tuple[list[AdaptOutcome], float]:
    """Outcomes of saved adapters, which are not trained on, and seconds of answering an adapter."""
    again = [replace(job, start_from=job.save_to, save_to="", id=job.id) for job in jobs]
    frozen = [replace(job, training=replace(job.training, epochs=1, learning_rate=1e-12)) for job in again]
    runs = [list(loop.run(frozen))] if together else [list(loop.run([job])) for job in frozen]
    outcomes = [outcome for run in runs for outcome in run]
    return outcomes, sum(o.timings.answer_s for o in outcomes) / len(outcomes)


def with_adapter(model: str, folder: str) -> LoadedModel:
    """The same weights as the server should have, by PEFT."""
    from peft import PeftModel

    loaded = load_model(model, "cpu", "float32")
    return replace(loaded, model=PeftModel.from_pretrained(loaded.model, folder).merge_and_unload())


def by_vllm(server: VLLMPolicy, job: AdaptJob, policy: LoadedModel) -> tuple[list[str], float, float]:
    """Texts, seconds until the adapter is believed and gone again, and seconds of its answers."""
    began = time.perf_counter()
    name = server.load(Path(job.save_to), "benchmark", policy)
    try:
        believed = time.perf_counter()
        prompts = [list(p.ids) for p in job.eval_prompts]
        body = {"model": name, "prompt": prompts, "max_tokens": GREEDY.max_new_tokens, "temperature": 0}
        status, told = server._post("completions", body)
        assert status == 200, told
        texts = [choice["text"] for choice in sorted(json.loads(told)["choices"], key=lambda c: c["index"])]
        through = time.perf_counter()
    finally:
        removing = time.perf_counter()
        server.remove()
    return texts, believed - began + time.perf_counter() - removing, through - believed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--python", default=os.environ.get("SEAL_VLLM_PYTHON", sys.executable))
    parser.add_argument("--arguments", nargs="*", default=["--enforce-eager"], help="further ones of vLLM's")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(given.model, "cpu", "float32")
    loop = LocalInnerLoop(loaded)
    with tempfile.TemporaryDirectory() as folder:
        jobs = jobs_of(loaded, given.adapters, Path(folder))
        assert all(outcome.error is None for outcome in loop.run(jobs))
        size = sum(f.stat().st_size for f in Path(jobs[0].save_to).iterdir())
        ours, together_s = answered(loop, jobs, together=True)
        _, alone_s = answered(loop, jobs, together=False)
        texts = {o.job_id: [a.text for a in o.adapted] for o in ours}
        saves = []
        for job in jobs:
            adapter = load_adapter(loop.runtime, job.save_to)
            began = time.perf_counter()
            save_adapter(adapter, loaded, f"{job.save_to}-again")
            saves.append(time.perf_counter() - began)
        server = VLLMServer(given.python, given.arguments, log=Path(folder) / "vllm.log")
        began = time.perf_counter()
        try:
            server.start(Served(given.model, given.model, 32, "float32"))
            up = time.perf_counter() - began
            found = []
            for job in jobs:
                policy = with_adapter(given.model, job.save_to)
                found.append((job, *by_vllm(VLLMPolicy(server.url, given.model), job, policy)))
        finally:
            server.stop()
    equal = sum(t == o for job, theirs, _, _ in found for t, o in zip(theirs, texts[job.id], strict=True))
    told = {
        "adapters": len(jobs), "questions": QUESTIONS, "mb_an_adapter": round(size / 1e6, 1),
        "ours_together_s": round(together_s, 2), "ours_alone_s": round(alone_s, 2),
        "save_s": round(median(saves), 2), "vllm_up_s": round(up, 1),
        "vllm_load_s": [round(x, 2) for *_, x, _ in found], "vllm_answer_s": [round(x, 2) for *_, x in found],
        "texts_equal": f"{equal} of {len(jobs) * QUESTIONS}",
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
