"""From settings to the parts of a run: tasks, domain, grader, reward, engines."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.data.choice import VAL_SHARE, split_tasks
from seal.data.halves import Halves, halves
from seal.data.hub import PREFIX, is_hub
from seal.data.invented.tasks import own_options
from seal.data.load_report import Tally
from seal.data.loader import INVENTED, DataLoader, tasks_from_loader
from seal.domains.base import BaseDomain
from seal.errors import ConfigError
from seal.grading import Grader, make_grader
from seal.models.window import window
from seal.plugins import DOMAINS, LOADERS, build, load_kind, taken
from seal.prompt import contract_of
from seal.records import BatchSize, Performance, Question, Task
from seal.reward import REWARDS, BaseRewardModel, make_reward
from seal.settings import SEALConfig
from seal.spending import Price, Purse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seal.engine import EngineSettings
    from seal.estep import EStep
    from seal.inner.memory import Capacity
    from seal.models.load import LoadedModel
    from seal.protocols import Generator, InnerLoop
    from seal.run.folder import Run
    from seal.self_edit import SelfEditGenerator
    from seal.writers import Writers


log = logging.getLogger(__name__)


def load_data(config: SEALConfig) -> Halves:
    """The tasks that the settings name, to train on and held out, and what was left out.

    Raises:
        DataError: they cannot be read, or there are none.
    """
    evaluation, tallies = config.evaluation, (Tally(), Tally())
    train = _half(config, "train", tallies[0])
    val = _half(config, "val", tallies[1]) if evaluation.enabled else []
    return halves(train, val, tallies, evaluation.n_tasks)


def load_tasks(config: SEALConfig, split: str) -> list[Task]:
    """The `train` or `val` tasks that the settings name. Raises `DataError`."""
    return _half(config, split, Tally())


def _half(config: SEALConfig, split: str, tally: Tally) -> list[Task]:
    data = config.data_config
    limit = data.max_samples if split == "train" else data.max_val_samples
    few_shot = config.domain == "few_shot_learning"
    if data.loader:
        tasks = _from_own_loader(config, split)
        if few_shot:
            from seal.arc.tasks import with_solutions

            tasks = with_solutions(tasks, tally, data.loader)
        return tally.first(tasks, limit)
    if few_shot:
        from seal.arc.sources import load_split

        return tally.first(load_split(data, split, tally), limit)
    return _passages(config, split, limit, tally)


def _passages(config: SEALConfig, split: str, limit: int | None, tally: Tally) -> list[Task]:
    data = config.data_config
    source, held_out = data.path or data.dataset_name, split == "val"
    if not data.path and "/" in source and not is_hub(source):
        source = PREFIX + source
    if data.val_path:
        source, split = (
            (data.val_path, "all") if split == "val" else (source, "all" if data.path else "train")
        )
    loader = DataLoader(
        source,
        split=split,
        max_samples=limit,
        unanswerable=data.unanswerable,
        questions="fill" if held_out and data.questions != "own" else data.questions,
        options=own_options(data.options) if source == INVENTED else None,
        malformed=data.malformed,
        columns={str(field): names for field, names in data.columns.items()},
        subset=data.subset,
        splits={str(half): name for half, name in data.splits.items()},
    )
    tasks = loader.load_tasks()
    tally.take(loader.report)
    return tasks


def _from_own_loader(config: SEALConfig, split: str) -> list[Task]:
    """Tasks of the user's loader. One that takes no `split` gives all, which are divided as a file is."""
    data = config.data_config
    factory = _own_loader(config)
    tasks = tasks_from_loader(build(factory, split=split, **data.options))
    if taken(factory, {"split": split}):
        return tasks
    train, val = split_tasks(tasks, VAL_SHARE)
    return train if split == "train" else val


def _own_loader(config: SEALConfig) -> Any:
    return load_kind(LOADERS, config.data_config.loader or "", "data loader", method="load_data")


def make_domain(config: SEALConfig, grader: Grader | None) -> BaseDomain:
    """The domain, built-in or the user's own class.

    Raises:
        ConfigError: it cannot be imported, is no `BaseDomain`, or refuses its options.
    """
    data = config.data_config
    loaders = taken(_own_loader(config), data.options) if data.loader else {}
    # Options of a data set that a preset named and another one replaced ask for nothing.
    loaders |= own_options(data.options)
    options = {name: value for name, value in data.options.items() if name not in loaders}
    if config.domain == "knowledge_incorporation":
        from seal.domains.knowledge import KnowledgeIncorporation

        return _built(
            KnowledgeIncorporation,
            {"choices": REWARDS.get(config.reward, BaseRewardModel).needs_choices} | options,
            prompt_type=data.prompt_type,
            templates=data.prompt_templates or None,
            split_newlines=data.split_newlines,
            include_passage=data.include_passage,
            max_new_tokens=config.evaluation.max_new_tokens,
            max_length=config.max_length,
            check=config.generation.check,
            grader=grader,
        )
    if config.domain == "few_shot_learning":
        from seal.arc.sources import domain_options
        from seal.domains.few_shot import FewShotLearning

        return _built(FewShotLearning, domain_options(options), batch_size=config.inner.batch_size)
    domain: BaseDomain = build(load_kind(DOMAINS, config.domain, "domain", BaseDomain), **options)
    return domain


def fitting(data: Halves, domain: BaseDomain, loaded: LoadedModel) -> Halves:
    """Without the tasks that the model cannot read: its window is too short, or it would take some of their
    words for control tokens. Raises `DataError` when none is left."""
    contract, limit = contract_of(loaded.tokenizer), window(loaded.model)
    data = data.keep(
        lambda task: not contract.control_words(words_of(task)),
        "control",
        "take the control tokens out of the texts, or use another model",
    )
    if limit is None or not isinstance(domain, BaseDomain):
        return data
    fix = "use a model with a longer window, or smaller tasks"
    return data.keep(lambda task: domain.fits(task, loaded.tokenizer, limit), "too_long", fix)


def words_of(task: Task) -> str:
    """All that a task says, in one text; grids say nothing."""
    questions = task.target if isinstance(task.target, tuple) else ()
    asked = [text for q in questions if isinstance(q, Question) for text in (q.question, *q.accepted)]
    return "\n".join([task.title, task.context if isinstance(task.context, str) else "", *asked])


def check_tasks(domain: BaseDomain, tasks: Iterable[Task], loaded: LoadedModel) -> None:
    """Refuse tasks before anything is computed: by the domain's check, and where a prompt cannot be made.

    Raises:
        DataError: the domain refuses a task.
        ModelError: the chat template loses or changes a prompt.
    """
    limit = window(loaded.model)
    for task in tasks:
        domain.prompt_for(task, loaded.tokenizer)
        domain.check(task, loaded.tokenizer, limit)


def _built(kind: type[BaseDomain], options: Mapping[str, Any], **settings: Any) -> BaseDomain:
    """A domain from its own options and from settings that stand elsewhere in the config."""
    for name in settings.keys() & options.keys():
        raise ConfigError(
            f"data_config.options.{name}: a setting of its own says that",
            f"remove it; see `seal init` for where {name} stands",
        )
    try:
        return kind(**options, **settings)
    except TypeError as error:
        raise ConfigError(f"data_config.options: {error}", "remove the option, or correct its name") from None


class DomainReward(BaseRewardModel):
    """The domain's own `compute_reward`, for domains of the user's."""

    def __init__(self, domain: BaseDomain, threshold: float) -> None:
        self.domain, self.keep_above = domain, threshold

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """What the domain makes of the adapted performance."""
        return float(self.domain.compute_reward(after, task))


def reward_model(config: SEALConfig, domain: BaseDomain) -> BaseRewardModel:
    """The reward model that the settings name. Raises `ConfigError`."""
    if config.reward != "auto":
        return make_reward(config.reward, config.reward_threshold)
    if config.domain in ("knowledge_incorporation", "few_shot_learning"):
        return make_reward("binary", config.reward_threshold)
    return DomainReward(domain, config.reward_threshold)


def purse(config: SEALConfig) -> Purse:
    """What servers are paid from; `keep_in` makes it the run's."""
    return Purse(config.budget.cost, config.budget.tokens)


def grader(config: SEALConfig, base: LoadedModel, purse: Purse | None = None) -> Grader:
    """The grader that the settings name; `local` asks `base`, the model before any update."""
    g = config.grader
    if g.kind == "lexical":
        return make_grader("lexical")
    if g.kind == "local":
        from seal.inner.loop import LocalGenerator

        wrap = base.contract.user_turn if base.contract.uses_chat() else None
        return make_grader("local", generator=LocalGenerator(base), wrap=wrap)
    return make_grader(
        "judge",
        base_url=g.base_url,
        model=g.model,
        api_key_env=g.api_key_env,
        concurrency=g.concurrency,
        timeout=g.timeout_s,
        attempts=g.max_attempts,
        purse=purse,
        price=Price(*g.price),
    )


def estep(
    config: SEALConfig,
    run: Run,
    domain: BaseDomain,
    grader: Grader,
    policy: LoadedModel,
    writers: Writers | None = None,
) -> EStep:
    """`policy` with everything that it writes (None: what the settings name), adapts and is measured with."""
    from seal.engine import inner_loop
    from seal.graded import Graded
    from seal.writers import Writers

    batch = _batch_size(config, run, policy)
    capacity = _capacity(config, run, policy)
    loop = Graded(inner_loop(policy, engine_settings(config, capacity, run.path), batch), grader)
    writers = writers or Writers(config.generation, config.model_name)
    return estep_on(config, run, domain, loop, policy, writers.generator(policy))


def estep_on(
    config: SEALConfig,
    run: Run,
    domain: BaseDomain,
    loop: InnerLoop,
    policy: LoadedModel,
    generator: Generator | None = None,
) -> EStep:
    """The E-step of a policy that `loop` adapts, wherever that is; without a generator it only measures."""
    from seal.estep import EStep
    from seal.evaluator import Evaluator

    pad_to = config.max_length if config.inner.pad_loss else 0
    evaluator = Evaluator(policy, domain, loop, config.inner_training(), config.seed, pad_to)
    sampler = None
    if generator is not None:
        held = domain.sampler(generator, policy.tokenizer)
        sampler = edit_sampler(config, domain, held, policy.tokenizer, plain=generator)
    return EStep(run, sampler, evaluator, _batch_size(config, run, policy))


def engine_settings(config: SEALConfig, capacity: Capacity, folder: Path) -> EngineSettings:
    """What the settings say about the engine of the run in `folder`."""
    from seal.cluster.crew import RaySettings
    from seal.engine import EngineSettings

    inner = config.inner
    workers = None if inner.workers == "auto" else int(inner.workers)
    keys = Path(inner.server_keys) if inner.server_keys else None
    slots, budget, again = capacity.slots, capacity.token_budget, capacity.recompute
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]
    ray = RaySettings(name, inner.ray_address) if inner.backend == "ray" else None
    return EngineSettings(workers, slots, budget, inner.server, keys, again, ray)


def _batch_size(config: SEALConfig, run: Run, policy: LoadedModel) -> int:
    """Adapters in a batch, decided when the run began: a resumed one, elsewhere too, has the same batches."""
    from seal.engine import default_batch

    if policy.model is None or config.inner.server is not None:  # a server's passes are its own
        return 1
    known = run.recall(BatchSize, "batch", "size")
    if known is None:
        wanted = config.inner.batch
        known = BatchSize(default_batch(policy.model.device) if wanted == "auto" else int(wanted))
        run.record("batch", "size", known)
    return known.jobs


def _capacity(config: SEALConfig, run: Run, policy: LoadedModel) -> Capacity:
    """How much each process does at once. Decided when the run began, whatever memory is free later and
    however many processes there are: it has a part in the last bits of results."""
    from seal.engine import default_workers
    from seal.inner.memory import Capacity, capacity, footprint, free_bytes

    known = run.recall(Capacity, "capacity", "engine")
    if known is None:
        inner, device = config.inner, policy.model.device
        need = footprint(policy.model, config.inner_training(), device, policy.model.dtype)
        share = free_bytes(device) // (default_workers(policy) if device.type == "cpu" else 1)
        known = capacity(need, share, device, inner.slots, inner.token_budget, inner.recompute)
        run.record("capacity", "engine", known)
    return known


def edit_sampler(
    config: SEALConfig,
    domain: BaseDomain,
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase | None,
    plain: Generator | None = None,
) -> SelfEditGenerator:
    """What draws self-edits as the settings say; without a tokenizer a server adds the chat template.

    `plain` draws texts where `generator` is held to what the domain's self-edits may be.
    """
    from seal.self_edit import SelfEditGenerator

    return SelfEditGenerator(generator, domain, tokenizer, config.sampling(), config.seed, plain)
