"""The inner loop beside its peers, everything in one run: `python -m benchmarks.inner_loop`.

Writes `benchmarks/results/inner_loop.json`, and the tables and pictures of `docs/benchmarks.md` from it. With
`--quick` a tiny model runs once through everything in a minute and the results go to a temporary folder.
"""

from __future__ import annotations

import argparse
import gc
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth import adapter_growth, length_growth, memory_growth
from benchmarks.measure import Spread, Work, gemm_peak, race, ratios, training_flops
from benchmarks.peers import (
    OFFICIAL_LENGTH,
    Processes,
    TunedPeft,
    generate,
    official_step_seconds,
)
from benchmarks.profile import profile_rows
from benchmarks.report import write_report
from benchmarks.workload import SAMPLING, Workload, load_workload
from seal.engine import EngineSettings, default_batch, inner_loop
from seal.graded import Graded
from seal.grading import LexicalGrader
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.decode import Decoder, Request
from seal.inner.loop import LocalInnerLoop, stop_ids
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel, load_model
from seal.records import AdaptJob

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured. Of several dtypes the last is the fastest; the long parts use it alone."""

    model: str = "smollm2-135m-instruct"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    threads: int = torch.get_num_threads()
    repeats: int = 5
    train_jobs: int = 8
    epochs: int = 2
    """Of the training measure; the E-step has the paper's ten."""
    estep_jobs: int = 4
    estep_epochs: int = 10
    adapters: int = 8
    questions: int = 5
    answer_tokens: int = 48
    decode_rows: int = 32
    official_steps: int = 2
    growth_adapters: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    growth_lengths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    growth_rank: int = 16
    memory_adapters: tuple[int, ...] = (8, 32, 128)
    memory_rank: int = 4
    only: tuple[str, ...] = ()
    profile: bool = False


QUICK = Settings(
    model="tiny-random-llama",
    repeats=2,
    train_jobs=3,
    epochs=1,
    estep_jobs=2,
    estep_epochs=1,
    adapters=3,
    questions=2,
    answer_tokens=6,
    decode_rows=4,
    official_steps=1,
    growth_adapters=(1, 4),
    growth_lengths=(32, 64),
    memory_adapters=(2, 8),
)
PARTS = ("train", "answer", "decode", "estep", "growth", "memory")


class Bench:
    """One dtype: our model, a copy for PEFT, and the measures."""

    def __init__(self, settings: Settings, dtype: str) -> None:
        self.settings, self.dtype = settings, dtype
        self.ours = load_model(settings.model, device="auto", dtype=dtype)
        self.device = self.ours.model.device
        self.runtime = Runtime.of(self.ours.model)
        self.loop = LocalInnerLoop(self.ours)
        workers = settings.threads if self.device.type == "cpu" else 1
        self.pool = inner_loop(self.ours, EngineSettings(workers), default_batch(self.device))
        self.shared = Graded(self.pool, LexicalGrader())
        self.workload: Workload = load_workload(self.ours.tokenizer)
        self.training = self.workload.jobs[0].training
        self.low_precision = False
        self.peer = self._tuned_peer()

    def _tuned_peer(self) -> TunedPeft:
        """PEFT with its adapter in fp32, or in the model's type where that is faster."""
        (job,) = self.workload.with_training(1, epochs=1)
        speeds: dict[bool, float] = {}
        for low in (False, True) if self.dtype == "bfloat16" else (False,):
            peer = TunedPeft(self._copy(), self.training, low)
            peer.fit(job)
            speeds[low] = race({"": lambda p=peer: p.fit(job)}, 1, self.device)[""][0]  # type: ignore[misc]
        self.low_precision = max(speeds, key=speeds.__getitem__)
        return TunedPeft(self._copy(), self.training, self.low_precision)

    def _copy(self) -> LoadedModel:
        return load_model(self.settings.model, device="auto", dtype=self.dtype)

    # measures -----------------------------------------------------------------------------------

    def train(self) -> list[dict[str, Any]]:
        """Training tokens a second."""
        s = self.settings
        jobs = self.workload.with_training(s.train_jobs, epochs=s.epochs)
        rows = [row for job in jobs for row in job.sequences]
        contenders: dict[str, Work] = {
            "ours": lambda: self.fit(jobs),
            "one process": lambda: self.fit_here(jobs),
            "peft": lambda: sum(map(self.peer.fit, jobs)),
        }
        processes = None
        if self.device.type == "cpu" and s.threads > 1:
            processes = Processes(s.threads, s.model, self.dtype, self.training, self.low_precision)
            contenders["processes"] = lambda: processes.fit(jobs)
        self.fit(jobs[:2])
        self.fit_here(jobs[:1])
        self.peer.fit(jobs[0])
        rates = race(contenders, s.repeats, self.device)
        if processes is not None:
            processes.close()
        steps = official_step_seconds(self._copy(), jobs[0], s.official_steps)
        official = [sum(len(r.ids) for r in rows) / len(rows) / t for t in steps]
        peak = gemm_peak(getattr(torch, self.dtype), self.device)
        flops = training_flops(self.ours.model, self.training, rows)
        official_name = (
            f"official procedure (PEFT + Trainer, padded to {OFFICIAL_LENGTH:,}, batch 1), "
            f"extrapolated from {len(steps)} steps"
        )
        extrapolated = [Spread.of(official).median] * s.repeats
        found = [
            _against("training", "tuned PEFT, one by one", "tokens/s", rates["ours"], rates["peft"], 2.0),
            _against(
                f"training in one process of {s.threads} threads",
                "tuned PEFT, one by one",
                "tokens/s",
                rates["one process"],
                rates["peft"],
            ),
            _against("training", official_name, "tokens/s", rates["ours"], extrapolated, 50.0),
        ]
        if "processes" in rates:
            name = f"tuned PEFT, {s.threads} processes of one thread"
            found.append(_against("training", name, "tokens/s", rates["ours"], rates["processes"], 1.3))
        reached = [r * flops / 1e9 for r in rates["ours"]]
        goal = 0.7 if self.dtype == "float32" else 0.6
        ceiling = [peak / 1e9] * s.repeats
        found.append(_against("training", "measured GEMM peak", "GFLOP/s", reached, ceiling, goal))
        return found

    def fit(self, jobs: Sequence[AdaptJob]) -> int:
        """Train all jobs, in as many processes as there are threads; returns the tokens that went through."""
        outcomes = list(self.shared.run([replace(job, eval_prompts=(), baseline=False) for job in jobs]))
        assert all(o.error is None for o in outcomes)
        return sum(o.timings.train_tokens for o in outcomes)

    def fit_here(self, jobs: Sequence[AdaptJob]) -> int:
        """Train all jobs in this process; returns the tokens that went through."""
        done = list(train(self.runtime, iter(jobs), self.loop.slots, self.loop.token_budget))
        assert all(t.error is None for t in done)
        return sum(t.tokens for t in done)

    def answer(self) -> list[dict[str, Any]]:
        """Answers a second: every adapter is asked its questions."""
        s = self.settings
        adapters = [Adapter(self.runtime, self.training, i) for i in range(s.adapters)]
        prompts = self.workload.prompts(s.adapters * s.questions)
        shares = [prompts[i * s.questions : (i + 1) * s.questions] for i in range(s.adapters)]
        sampling = replace(SAMPLING, max_new_tokens=s.answer_tokens)
        requests = [Request(p, a, sampling) for a, share in zip(adapters, shares, strict=True) for p in share]
        contenders: dict[str, Work] = {
            "ours": lambda: len(self._decoder().run(requests)),
            "peft": lambda: sum(self.peer.answer(share, s.answer_tokens) for share in shares),
        }
        self.peer.answer(shares[0], 2)
        rates = race(contenders, s.repeats, self.device)
        what = f"{s.adapters} adapters × {s.questions} questions × {s.answer_tokens} tokens"
        name = "PEFT generate, adapter after adapter"
        return [_against(f"answering, {what}", name, "answers/s", rates["ours"], rates["peft"], 5.0)]

    def decode(self) -> list[dict[str, Any]]:
        """Tokens a second without adapters, prompts included."""
        s = self.settings
        prompts = self.workload.prompts(s.decode_rows)
        sampling = replace(SAMPLING, max_new_tokens=s.answer_tokens)
        requests = [Request(p, None, sampling) for p in prompts]
        config, pad = self.ours.model.generation_config, int(self.ours.tokenizer.pad_token_id or 0)
        was, config.eos_token_id, config.pad_token_id = config.eos_token_id, None, pad
        contenders: dict[str, Work] = {
            "ours": lambda: len(self._decoder().run(requests)) * s.answer_tokens,
            "generate": lambda: generate(self.ours.model, prompts, s.answer_tokens, pad) * s.answer_tokens,
        }
        generate(self.ours.model, prompts[:2], 2, pad)
        rates = race(contenders, s.repeats, self.device)
        config.eos_token_id = was
        what = f"decoding, {s.decode_rows} rows, no adapter"
        return [_against(what, "transformers generate", "tokens/s", rates["ours"], rates["generate"], 2.0)]

    def close(self) -> None:
        """End the worker processes."""
        self.shared.close()

    def _decoder(self) -> Decoder:
        """A decoder that never stops early, so that all contenders write the same number of tokens."""
        own = self.loop._decoder
        return Decoder(
            self.runtime, own.detokenise, frozenset(), max_rows=own.max_rows, token_budget=own.token_budget
        )

    def estep(self) -> list[dict[str, Any]]:
        """Jobs an hour: train, answer with and without the adapter, grade."""
        s = self.settings
        jobs = self.workload.with_training(s.estep_jobs, epochs=s.estep_epochs)
        jobs = [
            replace(j, eval_prompts=tuple(_fixed(p, s.answer_tokens) for p in j.eval_prompts)) for j in jobs
        ]

        fresh = count()

        def ours() -> float:
            tag = f" #{next(fresh)}"  # new questions each time: a baseline that is known costs nothing
            asked = [
                replace(j, eval_prompts=tuple(replace(p, id=p.id + tag) for p in j.eval_prompts))
                for j in jobs
            ]
            outcomes = list(self.shared.run(asked))
            assert all(o.error is None for o in outcomes)
            return 3600.0 * len(outcomes)

        ends = stop_ids(self.ours)

        def theirs() -> float:
            for job in jobs:
                prompts = [p.ids for p in job.eval_prompts]
                self.peer.fit(job)
                self.peer.answer(prompts, s.answer_tokens, ends)
                with self.peer.bare():
                    self.peer.answer(prompts, s.answer_tokens, ends)
            return 3600.0 * len(jobs)

        rates = race({"ours": ours, "peft": theirs}, s.repeats, self.device)
        what = f"E-step, {s.estep_epochs} epochs, baseline and adapted answers"
        return [_against(what, "tuned PEFT + generate", "jobs/h", rates["ours"], rates["peft"], 3.0)]

    def growth(self) -> dict[str, Any]:
        """Training speed against the number of adapters and the length of the sequences."""
        s = self.settings
        rounds = min(2, s.repeats)
        return {
            "adapters": adapter_growth(self.runtime, s.growth_adapters, s.growth_rank, rounds),
            "lengths": length_growth(self.runtime, self._copy(), s.growth_lengths, s.growth_rank, rounds),
        }


def _fixed(eval_prompt: Any, tokens: int) -> Any:
    return replace(eval_prompt, sampling=replace(eval_prompt.sampling, max_new_tokens=tokens))


def _against(
    what: str,
    peer: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    goal: float | None = None,
) -> dict[str, Any]:
    return {
        "what": what,
        "peer": peer,
        "unit": unit,
        "ours": asdict(Spread.of(ours)),
        "theirs": asdict(Spread.of(theirs)),
        "ratio": asdict(ratios(ours, theirs)),
        "goal": goal,
    }


def run(settings: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """All measures, as the JSON that the report is made from."""
    torch.set_num_threads(settings.threads)
    result: dict[str, Any] = {"settings": asdict(settings), "machine": _machine(settings), "dtypes": {}}
    for dtype in settings.dtypes:
        say(f"{dtype}: loading")
        bench = Bench(settings, dtype)
        result["workload"] = bench.workload.describe()
        result["dtypes"][dtype] = _measure(bench, say)
        bench.close()
        del bench
        gc.collect()
    if _wanted(settings, "memory"):
        say("memory")
        counts, rank = settings.memory_adapters, settings.memory_rank
        result["memory"] = memory_growth(settings.model, settings.dtypes[-1], counts, rank, settings.threads)
    return result


def _wanted(settings: Settings, part: str) -> bool:
    return not settings.only or part in settings.only


def _measure(bench: Bench, say: Callable[[str], None]) -> dict[str, Any]:
    """All parts for one dtype."""
    low = "the model's type" if bench.low_precision else "fp32"
    found: dict[str, Any] = {"measures": [], "peer_adapters": low}
    last = bench.dtype == bench.settings.dtypes[-1]  # the long parts are for the faster type alone
    for part in ("train", "answer", "decode", "estep"):
        if _wanted(bench.settings, part) and (last or part != "estep"):
            say(f"{bench.dtype}: {part}")
            for measure in getattr(bench, part)():
                say("  " + one_line(measure))
                found["measures"].append(measure)
    if _wanted(bench.settings, "growth") and last:
        say(f"{bench.dtype}: growth")
        found["growth"] = bench.growth()
    if bench.settings.profile:
        jobs = bench.workload.with_training(bench.loop.slots, epochs=1)
        found["profile"] = profile_rows(lambda: bench.fit_here(jobs))
        say("\n".join(f"  {row['share']:6.1%}  {row['name']}" for row in found["profile"]))
    return found


def one_line(measure: dict[str, Any]) -> str:
    """A measure for the terminal."""
    r, ours = measure["ratio"], measure["ours"]["median"]
    goal = "" if measure["goal"] is None else f", goal {measure['goal']:g}"
    return (
        f"{measure['what']}: {ours:,.1f} {measure['unit']}, {r['median']:.2f} × {measure['peer']} "
        f"({r['low']:.2f}–{r['high']:.2f}{goal})"
    )


def parts(given: str, known: Sequence[str]) -> tuple[str, ...]:
    """What `--only` names. Ends the program at a name that measures nothing."""
    chosen = tuple(given.split(","))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise SystemExit(f"--only {given}: there is no part {unknown[0]!r}; choose from {','.join(known)}")
    return chosen


def _machine(settings: Settings) -> dict[str, Any]:
    import peft
    import transformers

    return {
        "processor": _processor(),
        "threads": settings.threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inner_loop", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, one minute, nothing is kept")
    parser.add_argument("--model")
    parser.add_argument("--dtype", help="float32, bfloat16 or both, with a comma")
    for name in ("threads", "repeats", "train-jobs", "epochs", "estep-jobs", "estep-epochs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--profile", action="store_true", default=None, help="where the training time goes")
    parser.add_argument("--out", type=Path, help="folder of the JSON; the report is written there too")
    options = vars(parser.parse_args(arguments))
    quick, out = options.pop("quick"), options.pop("out")
    dtype, only = options.pop("dtype"), options.pop("only")
    changes = {name: value for name, value in options.items() if value is not None}
    if dtype:
        changes["dtypes"] = tuple(dtype.split(","))
    if only:
        changes["only"] = parts(only, PARTS)
    settings = replace(QUICK if quick else Settings(), **changes)
    if out is None and quick:
        out = Path(tempfile.mkdtemp(prefix="seal-bench-"))
    written = write_report(run(settings), out, ROOT)
    print(*(f"wrote {path}" for path in written), sep="\n")


if __name__ == "__main__":
    main()
