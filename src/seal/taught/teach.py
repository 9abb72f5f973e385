"""Teach a model documents: read, plan, measure, train, measure again; every step is journalled.

The folder is a run: what is journalled is not done again, so an interrupted `seal teach` goes on with the
same command. An adapter that was in training when the process ended is trained again from its start.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.data.documents.library import Library, read_library
from seal.data.documents.questions import read_questions
from seal.errors import AdaptError, ConfigError, DataError, RunError
from seal.records import AdaptJob
from seal.run.codec import encode
from seal.run.journal import Journal
from seal.seeds import derive
from seal.taught.anchors import anchors, kept_anchors
from seal.taught.batches import check_base, chooser, unfinished_batch
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
from seal.taught.settings import TeachSettings

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

_LONGEST_ROW = 1024
"""Tokens; longer passages are cut."""


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
            if (known := self._noted(journal)) is not None:
                return known
            number, plan = self._begun(journal, library)
            return self._taught(journal, number, plan)

    def _noted(self, journal: Journal) -> Manifest | None:
        """The model, where this batch was taught to its end and the process ended before it was journalled.

        Raises:
            RunError: that was another batch.
        """
        unfinished = unfinished_batch(journal.rows())
        if unfinished is None or self.known is None:
            return None
        batch = next((b for b in self.known.batches if b.number == unfinished[0]), None)
        if batch is None:
            return None
        journal.append("taught", str(batch.number), {"passages": batch.passages})
        if unfinished[1]["settings"] != _identity(self.settings, self.loaded):
            raise RunError(
                f"batch {batch.number} of {self.folder} was just finished", "give the command again"
            )
        return self.known

    def _begun(self, journal: Journal, library: Library | None) -> tuple[int, Plan]:
        """The batch's number and plan: the unfinished one's with the same settings, else a new one's.

        Raises:
            RunError: another batch is unfinished, or its files were changed.
        """
        identity = _identity(self.settings, self.loaded)
        unfinished = unfinished_batch(journal.rows())
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
        from seal.inner.adapter_files import UNSAVED
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
                unsaved = outcome.error.message.startswith(UNSAVED)  # then not the training is at fault
                raise AdaptError(
                    f"training {outcome.job_id!r} failed: {outcome.error.message}",
                    "give the same command again then"
                    if unsaved
                    else "lower --lr, or leave the document out",
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

    return file_digest(folder / "adapter_model.safetensors", trust_times=False)
