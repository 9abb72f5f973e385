"""Teach a model documents: read, plan, measure, train, measure again; every step is journalled.

The folder is a run: what is journalled is not done again, so an interrupted `seal teach` goes on with the
same command. An adapter that was in training when the process ended is trained again from its start.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.data.documents.library import Library, read_library
from seal.data.documents.questions import read_questions
from seal.errors import AdaptError, ConfigError, DataError, ModelError, RunError
from seal.records import AdaptJob, TrainingConfig
from seal.run.codec import decode, encode
from seal.run.journal import Journal
from seal.seeds import derive
from seal.taught.anchors import anchors, kept_anchors
from seal.taught.form import Form
from seal.taught.lessons import Lesson, LessonMaker
from seal.taught.manifest import (
    Batch,
    Manifest,
    TaughtAdapter,
    TaughtPassage,
    TestQuestion,
    TrainingText,
    is_taught,
    passages_of,
    questions_of,
    read_lines,
    read_manifest,
    write_lines,
    write_manifest,
)
from seal.taught.measure import Item, ask_items, general_items, items_of, routed_right, scores_of
from seal.taught.plan import Plan, make_plan
from seal.taught.route import Router

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

TRAINING = TrainingConfig(epochs=1, shuffle=False)
"""Rank 32, learning rate 1e-3 falling linearly, one text a step; the study order holds the repetitions."""
_LONGEST_ROW = 1024
"""Tokens; longer passages are cut."""


@dataclass(frozen=True, slots=True)
class TeachSettings:
    """What to teach, and how."""

    documents: tuple[str, ...]
    updates: int = 80
    """Optimiser steps a passage. What a small model recalls depends on them first: it needs 40 to 110."""
    replay: float = 1 / 3
    """Share of a later batch's steps that repeat earlier batches' texts."""
    keep: float = 0.2
    """Share of the steps that repeat what the base says to general questions, against forgetting."""
    apart: bool = False
    """One adapter a document; `seal ask` picks the one that a question is about."""
    measure: bool = True
    """Ask test questions before and after."""
    training: TrainingConfig = field(default=TRAINING)
    seed: int = 0
    questions: str = ""
    """A file of the user's own questions to measure with."""

    def check(self) -> None:
        """Raise `ConfigError` for values out of range."""
        if self.updates < 1:
            raise ConfigError(f"updates is {self.updates}", "give at least 1 a passage")
        if self.replay < 0 or self.keep < 0 or self.replay + self.keep > 0.9:
            raise ConfigError(
                f"replay is {self.replay:g} and keep {self.keep:g}", "give shares that make 0.9 at most"
            )
        if not self.documents:
            raise ConfigError("no documents were given", "name files or folders")


class Teaching:
    """One batch to teach the model in `folder`, which may be new.

    Args:
        folder: of the taught model.
        settings: what is taught and how.
        loaded: the base.
        progress: hears how far it is.

    Raises:
        ConfigError: the settings are out of range, or do not go with the model in the folder.
        ModelError: `loaded` is not the base that the model in the folder was taught on.
    """

    def __init__(
        self, folder: Path, settings: TeachSettings, loaded: LoadedModel, progress: Progress | None = None
    ) -> None:
        from seal.inner.adapter_engine import AdapterEngine

        settings.check()
        self.folder, self.settings, self.loaded = folder, settings, loaded
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.known = read_manifest(folder) if is_taught(folder) else None
        if self.known is not None:
            check_base(self.known, loaded)
            if self.known.apart != settings.apart:
                how = "one adapter a document" if self.known.apart else "one adapter for all"
                raise ConfigError(f"{folder} has {how}", "leave --apart as it was begun")
        known = self.known
        self.form = Form(known.chat, known.question_prompt) if known else Form.of(loaded.tokenizer)
        self.engine = AdapterEngine(loaded)
        self._old = passages_of(folder, known) if known else []

    def plan(self, library: Library) -> Plan:
        """The plan for `library`; what was taught before is left out.

        Raises:
            DataError: all of it was taught before, or the user's questions cannot be read.
        """
        own = read_questions(Path(self.settings.questions)) if self.settings.questions else []
        plan = make_plan(library, self.settings.seed, [p.id for p in self._old], own)
        if not plan.passages:
            raise DataError(
                f"all {len(library.passages)} passages were taught before", "give documents that are new"
            )
        return plan

    def lessons(self, plan: Plan, number: int, *, save: bool = True) -> list[Lesson]:
        """What each adapter of this batch is trained on. `save` keeps what the base says in the folder."""
        s = self.settings
        window = min(self.engine.runtime.max_tokens, _LONGEST_ROW)
        said: tuple[TrainingText, ...] = ()
        if s.keep and save:
            said = kept_anchors(self.engine, self.form, self.folder / "anchors.jsonl")
        elif s.keep:
            said = anchors(self.engine, self.form)
        maker = LessonMaker(
            self.form,
            self.loaded.tokenizer,
            s.updates,
            s.training.batch_size,
            s.replay,
            s.keep,
            said,
            window,
            s.seed,
        )
        if s.apart:
            return maker.apart(plan, number)
        return [maker.together(plan, number, self.folder, self.known)]

    def run(self, library: Library | None = None) -> Manifest:
        """Teach it, and return the manifest with the new batch.

        Args:
            library: the documents, where they are read already.

        Raises:
            DataError: the documents cannot be used; nothing was written.
            RunError: the folder is in use, or holds another unfinished batch.
            AdaptError: training failed.
        """
        if not (self.folder / "journal.jsonl").exists():
            library = library or read_library(self.settings.documents)  # refused before anything is written
            self.plan(library)
            _new_folder(self.folder)
        with Journal(self.folder / "journal.jsonl") as journal:
            number, plan = self._begun(journal, library)
            return self._taught(journal, number, plan)

    def _begun(self, journal: Journal, library: Library | None) -> tuple[int, Plan]:
        """The batch's number and plan: the unfinished one's with the same settings, else a new one's.

        Raises:
            RunError: another batch is unfinished, or its files were changed.
        """
        identity = _identity(self.settings, self.loaded)
        unfinished = unfinished_batch(journal)
        if unfinished is None:
            plan = self.plan(library or read_library(self.settings.documents))
            number = len(journal.rows("begun")) + 1
            for file, records in zip(
                self._files(number), (plan.passages, plan.texts, plan.questions), strict=True
            ):
                write_lines(file, records)
            journal.append("begun", str(number), {"settings": identity, "plan": _counts(plan)})
            return number, plan
        number, begun = unfinished
        if begun["settings"] != identity:
            raise RunError(
                f"batch {number} of {self.folder} is unfinished, and has other documents or settings",
                f"finish it with its own command, or: seal teach --into {self.folder} --undo {number}",
            )
        files = self._files(number)
        plan = Plan(
            tuple(read_lines(TaughtPassage, files[0])),
            tuple(read_lines(TrainingText, files[1])),
            tuple(read_lines(TestQuestion, files[2])),
        )
        if _counts(plan) != begun["plan"]:
            raise RunError(f"the plan of batch {number} was changed", "restore the folder from a copy")
        return number, plan

    def _files(self, number: int) -> list[Path]:
        return [self.folder / f"{kind}/{number}.jsonl" for kind in ("passages", "texts", "questions")]

    def _taught(self, journal: Journal, number: int, plan: Plan) -> Manifest:
        started = time.monotonic()
        router = Router([*self._old, *plan.passages])
        items = self._items(number, plan)
        known = self.known
        before = self._answers(journal, f"{number}/before", items, router, known.adapters if known else ())
        adapters, updates = self._trained(journal, number, self.lessons(plan, number))
        after = self._answers(journal, f"{number}/after", items, router, adapters)
        batch = Batch(
            number,
            self.settings.documents,
            len(plan.passages),
            len(plan.texts),
            updates,
            round(time.monotonic() - started, 1),
            adapters,
            scores_of(items, before, after),
            routed_right(router, plan.questions),
        )
        manifest = known or Manifest(
            base=self.loaded.source,
            base_version=self.loaded.version,
            chat=self.form.chat,
            question_prompt=self.form.question_prompt,
            apart=self.settings.apart,
            training=encode(self.settings.training),
        )
        manifest = replace(manifest, batches=(*manifest.batches, batch))
        write_manifest(self.folder, manifest)
        journal.append("taught", str(number), {"passages": len(plan.passages)})
        return manifest

    def _items(self, number: int, plan: Plan) -> list[Item]:
        """Questions of this batch and of the earlier ones, and the general ones."""
        if not self.settings.measure:
            return []
        items: list[Item] = []
        for earlier, questions in questions_of(self.folder, self.known) if self.known else []:
            items += items_of(earlier, questions)
        return [*items, *items_of(number, plan.questions), *general_items()]

    def _answers(
        self,
        journal: Journal,
        key: str,
        items: Sequence[Item],
        router: Router,
        adapters: Sequence[TaughtAdapter],
    ) -> list[bool]:
        known = journal.get("answers", key)
        if known is None:
            what = f"asking {key.partition('/')[2]}"
            choose = chooser(self.folder, adapters, self.settings.apart)
            correct = ask_items(
                self.engine, self.form, items, router, choose, lambda n, of: self.progress(what, n, of)
            )
            known = {"correct": correct}
            journal.append("answers", key, known)
        return list(known["correct"])

    def _trained(
        self, journal: Journal, number: int, lessons: Sequence[Lesson]
    ) -> tuple[tuple[TaughtAdapter, ...], int]:
        """The model's adapters after this batch, and the optimiser steps that it took."""
        from seal.inner.loop import LocalInnerLoop, default_slots

        todo = [lesson for lesson in lessons if journal.get("trained", f"{number}/{lesson.name}") is None]
        jobs = [self._job(lesson, number) for lesson in todo]
        for job in jobs:
            shutil.rmtree(job.save_to, ignore_errors=True)  # saved by a process that ended right then
        slots = (
            min(len(jobs), default_slots(self.engine.runtime.device)) + 1
        )  # a free one hears of every step
        loop = LocalInnerLoop(self.loaded, slots=slots)
        for outcome in loop.run(_watched(jobs, self.progress)):
            if outcome.error is not None:
                raise AdaptError(
                    f"training {outcome.job_id!r} failed: {outcome.error.message}",
                    "lower --lr, or leave the document out",
                )
            steps, loss = len(outcome.losses), outcome.losses[-1]
            record = {"sha256": _digest(Path(outcome.adapter)), "steps": steps, "last_loss": loss}
            journal.append("trained", f"{number}/{outcome.job_id}", record)
        records = [journal.get("trained", f"{number}/{lesson.name}") or {} for lesson in lessons]
        new = tuple(
            TaughtAdapter(lesson.name, f"adapters/{number}/{lesson.name}", record["sha256"], lesson.passages)
            for lesson, record in zip(lessons, records, strict=True)
        )
        kept = self.known.adapters if self.known and self.settings.apart else ()
        return (*kept, *new), sum(record["steps"] for record in records)

    def _job(self, lesson: Lesson, number: int) -> AdaptJob:
        return AdaptJob(
            lesson.name,
            lesson.sequences,
            self.settings.training,
            (),
            derive(self.settings.seed, number, lesson.name),
            str(self.folder / "adapters" / str(number) / lesson.name),
            start_from=lesson.start_from,
        )


def check_base(manifest: Manifest, loaded: LoadedModel) -> None:
    """Raise `ModelError` unless `loaded` is the model that was taught."""
    if manifest.base_version != loaded.version:
        raise ModelError(
            f"the base {loaded.source} has version {loaded.version}, but {manifest.base_version} was taught",
            f"use the same {manifest.base} as then",
        )


def chooser(folder: Path, adapters: Sequence[TaughtAdapter], apart: bool) -> Callable[[str], str | None]:
    """From the id of the passage that a question is about to the folder of the adapter for it.

    One for all answers always; one of many, only about passages that it knows, and else the base does.
    """
    folders = {p: str(folder / adapter.folder) for adapter in adapters for p in adapter.passages}
    if apart or not adapters:
        return folders.get
    return lambda passage: str(folder / adapters[0].folder)


def unfinished_batch(journal: Journal) -> tuple[int, dict[str, Any]] | None:
    """Number and journal entry of the batch that was begun and neither taught nor undone."""
    done = {row.key for kind in ("taught", "undone") for row in journal.rows(kind)}
    begun = [row for row in journal.rows("begun") if row.key not in done]
    return (int(begun[-1].key), begun[-1].data) if begun else None


def unfinished_settings(folder: Path) -> tuple[TeachSettings, str] | None:
    """Settings and base of the batch that was interrupted in `folder`; None where there is none.

    Raises:
        RunError: the folder holds no journal of a taught model's.
    """
    if not (folder / "journal.jsonl").is_file():
        raise RunError(f"{folder} is no taught model", "give the folder of a run or of a taught model")
    with Journal(folder / "journal.jsonl") as journal:
        unfinished = unfinished_batch(journal)
    if unfinished is None:
        return None
    plain = dict(unfinished[1]["settings"])
    base = str(plain.pop("base"))
    plain.pop("base_version")
    return decode(TeachSettings, plain), base


def undo(folder: Path, number: int) -> Manifest:
    """Take batch `number`, and all after it, out of the model; its files stay in the folder.

    Raises:
        ModelError: there is no such batch.
        ConfigError: it is the first one.
    """
    manifest = read_manifest(folder)
    with Journal(folder / "journal.jsonl") as journal:
        gone = {row.key for row in journal.rows("undone")}
        left = [int(row.key) for row in journal.rows("begun") if row.key not in gone]
        if number not in left:
            raise ModelError(
                f"{folder} has no batch {number}", f"choose one of {', '.join(map(str, left[1:]))}"
            )
        kept = tuple(b for b in manifest.batches if b.number < number)
        if not kept:
            raise ConfigError(f"batch {number} is the first of {folder}", "delete the folder instead")
        write_manifest(folder, replace(manifest, batches=kept))
        for other in (n for n in left if n >= number):
            journal.append("undone", str(other), {})
    return read_manifest(folder)


def _identity(settings: TeachSettings, loaded: LoadedModel) -> dict[str, Any]:
    plain: dict[str, Any] = encode(asdict(settings))
    return plain | {"base": loaded.source, "base_version": loaded.version}


def _new_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists already; nothing is overwritten", "choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}", "choose another --out") from None


def _counts(plan: Plan) -> dict[str, int]:
    return {"passages": len(plan.passages), "texts": len(plan.texts), "questions": len(plan.questions)}


def _watched(jobs: Sequence[AdaptJob], progress: Progress) -> Iterator[AdaptJob | None]:
    """The jobs, and then nothing, as often as the engine asks: once after every step of them all."""
    yield from jobs
    steps = max((len(job.sequences) // job.training.batch_size for job in jobs), default=0)
    done = 0
    while True:
        progress("training", min(done, steps), steps)
        yield None
        done += 1


def _digest(folder: Path) -> str:
    from seal.models.checkpoint import file_digest

    return file_digest(folder / "adapter_model.safetensors", trust_mtime=False)
