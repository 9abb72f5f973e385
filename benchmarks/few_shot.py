"""Few-shot learning, many tasks at once against one after another: `python -m benchmarks.few_shot`.

Every contender trains an adapter on each task's leave-out rows and answers its views, with the recipe of the
preset `few_shot_demo`. They take turns. `batched` shares all tasks out as a run does, to a process a thread,
each with many tasks in one pass; `one process` has them all in one pass; `one by one` is the same engine with
one task at a time, and `PEFT` a tuned adapter and `generate`, task after task.
The last two lines are the writing of recipes with and without reading shared beginnings again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.measure import Spread, Work, race, ratios
from benchmarks.peers import TunedPeft
from seal.arc.grammar import RecipeSpace
from seal.arc.recipe import ArcRecipe
from seal.arc.sources import domain_options
from seal.arc.synthetic import synthetic_tasks
from seal.config import load_config
from seal.constrained import write
from seal.domains.few_shot import FewShotLearning
from seal.engine import EngineSettings, inner_loop
from seal.inner.loop import LocalGenerator, LocalInnerLoop
from seal.models.load import load_model
from seal.records import AdaptJob, Task

RECIPE = ArcRecipe(True, False, False, False, "train_using_output_tokens", 2e-3, 1, colour=False)


def adapt_contenders(
    model: str, dtype: str, tasks: Sequence[Task], domain: FewShotLearning
) -> dict[str, Work]:
    """Tasks trained on and answered, a second."""
    loaded, own = load_model(model, dtype=dtype), load_model(model, dtype=dtype)
    recipe = replace(load_config(preset="few_shot_demo").inner_training(), epochs=1)
    jobs = [
        AdaptJob(
            task.id, domain.training_sequences(task, RECIPE.to_json(), loaded.tokenizer), recipe,
            domain.eval_prompts(task, loaded.tokenizer), n, baseline=False,
        )
        for n, task in enumerate(tasks)
    ]  # fmt: skip
    peft = TunedPeft(own, recipe, low_precision=True)

    workers = torch.get_num_threads()
    shared = inner_loop(loaded, EngineSettings(workers), -(-len(jobs) // workers))
    for _ in shared.run([replace(job, sequences=job.sequences[:1]) for job in jobs]):
        pass  # the helpers are up

    def batched() -> float:
        return sum(1 for _ in shared.run(jobs))

    def one_process() -> float:
        return sum(1 for _ in LocalInnerLoop(loaded, slots=len(jobs)).run(jobs))

    def one_by_one() -> float:
        loop = LocalInnerLoop(loaded, slots=1)
        return sum(sum(1 for _ in loop.run([job])) for job in jobs)

    def sequential_peft() -> float:
        for job in jobs:
            peft.fit(job)
            peft.answer(
                [p.ids for p in job.eval_prompts], max(p.sampling.max_new_tokens for p in job.eval_prompts)
            )
        return len(jobs)

    return {
        "batched": batched,
        "one process": one_process,
        "one by one": one_by_one,
        "PEFT": sequential_peft,
    }


def write_contenders(
    model: str, dtype: str, tasks: Sequence[Task], domain: FewShotLearning, edits: int
) -> dict[str, Work]:
    """Recipes written a second, `edits` for each task."""
    loaded = load_model(model, dtype=dtype)
    generator = LocalGenerator(loaded)
    prompts = [domain.prompt_for(task, loaded.tokenizer) for task in tasks for _ in range(edits)]

    def writing(shared: bool) -> float:
        score = generator.scorer() if shared else generator.score
        return len(write(prompts, range(len(prompts)), score, RecipeSpace()))

    return {"read once": lambda: writing(True), "read again": lambda: writing(False)}


def _say(title: str, unit: str, rates: dict[str, list[float]]) -> None:
    first, *others = rates
    print(title)
    for name, values in rates.items():
        print(f"  {name:<12} {Spread.of(values).median:8.3f} {unit}")
    for name in others:
        found = ratios(rates[first], rates[name])
        print(f"  {first} is {found.median:.1f} times {name} ({found.low:.1f} to {found.high:.1f})")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--tasks", type=int, default=8, help="tasks in a batch")
    parser.add_argument("--rows", type=int, default=16, help="training rows a task, one optimiser step each")
    parser.add_argument("--edits", type=int, default=4, help="recipes written for each task")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    options = load_config(preset="few_shot_demo").data_config.options
    domain = FewShotLearning(**domain_options(options) | {"cap": given.rows, "batch_size": 1})
    families = options["synthetic"]["families"]
    tasks = [made.task for made in synthetic_tasks(given.tasks, 1, families=families, sizes=(3, 3))]
    print(f"{given.model}, {given.threads} threads, {given.tasks} tasks of {given.rows} rows")
    adapting = adapt_contenders(given.model, given.dtype, tasks, domain)
    _say("training and answering", "tasks/s", race(adapting, given.repeats, torch.device("cpu")))
    writing = write_contenders(given.model, given.dtype, tasks, domain, given.edits)
    _say("writing recipes", "recipes/s", race(writing, given.repeats, torch.device("cpu")))


if __name__ == "__main__":
    main()
