"""A taught model: documents in, a folder out that answers, goes on, takes back, and survives interruption."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from seal.data.documents.library import read_library
from seal.data.documents.questions import read_questions
from seal.errors import ConfigError, DataError, ModelError, RunError
from seal.inner.adapter_engine import AdapterEngine
from seal.models.load import LoadedModel
from seal.records import Sampling, TrainingConfig, TrainingSequence
from seal.run.journal import Journal
from seal.taught.anchors import anchors
from seal.taught.batches import undo
from seal.taught.form import Form
from seal.taught.manifest import TaughtPassage, TrainingText, read_lines, read_manifest, write_lines
from seal.taught.manifest import TestQuestion as Asked
from seal.taught.measure import Item, general_items, scores_of, table
from seal.taught.model import TaughtModel
from seal.taught.plan import make_plan, study_order
from seal.taught.route import Router
from seal.taught.settings import TRAINING, TeachSettings
from seal.taught.teach import Teaching

GATE = "The gate of Orvane was built in 1874 by Mira Tolstad. It closes at nine. Its key weighs two pounds."
MILL = (
    "The mill of Pellbrook grinds barley for Jonas Wick. It stands on the Senn since 1911 and has six sails."
)
INN = "The inn of Karst sells plum wine. Ada Brill has kept its cellar since 1950. The inn has forty rooms."


@pytest.fixture(autouse=True)
def _few_general_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty are for real models; what is tested here does not depend on how many they are."""
    monkeypatch.setattr("seal.taught.teach.general_items", lambda: general_items()[:3])


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "gate.md").write_text(f"# The gate\n\n{GATE}\n")
    (folder / "mill.md").write_text(f"# The mill\n\n{MILL}\n")
    return folder


def settings(*documents: object, **more: object) -> TeachSettings:
    training = replace(TRAINING, rank=8, alpha=16, learning_rate=1e-2)
    plain: dict[str, object] = {"updates": 6, "keep": 0, "training": training, **more}
    return TeachSettings(tuple(map(str, documents)), **plain)  # type: ignore[arg-type]


def test_a_plan_never_trains_on_what_it_measures(docs: Path) -> None:
    plan = make_plan(read_library([docs]), seed=3)
    assert [p.title for p in plan.passages] == ["The gate", "The mill"]
    trained = {(t.passage, t.prompt) for t in plan.texts}
    answers = {(t.passage, t.text) for t in plan.texts if t.prompt}
    assert len(plan.questions) >= 2
    for question in plan.questions:
        assert (question.passage, question.question) not in trained
        assert (question.passage, question.answer) not in answers
        assert "____" in question.question
    assert [t.text for t in plan.texts if not t.prompt] == [GATE, MILL]
    assert make_plan(read_library([docs]), seed=3) == plan


def test_questions_that_come_with_documents_only_measure(tmp_path: Path) -> None:
    record = {
        "title": "Gate",
        "context": GATE,
        "questions": [{"question": "Who built it?", "answer": "Mira"}],
    }
    path = tmp_path / "own.json"
    path.write_text(json.dumps([record]))
    plan = make_plan(read_library([path]), seed=0)
    assert [(q.question, q.answer) for q in plan.questions if q.kind == "own"] == [("Who built it?", "Mira")]
    assert not any("Who built it" in text.prompt for text in plan.texts)


def test_a_file_of_own_questions(docs: Path, tmp_path: Path) -> None:
    for name, text in (
        ("q.csv", "question,answer\nWho built the gate of Orvane?,Mira Tolstad\n"),
        (
            "q.jsonl",
            '{"question": "Who built the gate of Orvane?", "answers": ["Mira Tolstad", "Tolstad"]}\n',
        ),
    ):
        (tmp_path / name).write_text(text)
        own = read_questions(tmp_path / name)
        plan = make_plan(read_library([docs]), seed=0, own=own)
        (asked,) = [q for q in plan.questions if q.kind == "own"]
        assert asked.passage == plan.passages[0].id
        assert (asked.question, asked.answer) == ("Who built the gate of Orvane?", "Mira Tolstad")
    assert asked.also == ("Tolstad",)
    (tmp_path / "bad.csv").write_text("question,reply\nWho?,Mira\n")
    with pytest.raises(DataError, match=r"bad.csv, line 2: 'Who\?' has no answer"):
        read_questions(tmp_path / "bad.csv")


def test_the_study_order_mixes_old_among_new_in_equal_shares() -> None:
    new, old = ([TrainingSequence((i, i + 1)) for i in range(a, a + 4)] for a in (0, 100))
    order = study_order(new, 40, [(old, 0.2)], seed=1)
    counts = Counter(row.ids[0] for row in order)
    assert {counts[i] for i in range(4)} == {10}
    assert sum(counts[i] for i in range(100, 104)) == 10
    places = [i for i, row in enumerate(order) if row.ids[0] >= 100]
    assert all(5 * k - 5 <= place <= 5 * k + 10 for k, place in enumerate(places))
    assert study_order(new, 7, [([], 0.5)], 1) == study_order(new, 7, [], 1)
    assert len(study_order(new, 7, [], 1)) == 7
    assert len(study_order(new, 40, [(old, 0.25), (old, 0.25)], 1)) == 80


def test_a_trained_answer_reads_as_the_template_has_it(tiny_family: LoadedModel) -> None:
    tokenizer = tiny_family.tokenizer
    form = Form.of(tokenizer)
    row = form.sequence(tokenizer, "When was it built?", "1874", "The gate")
    (start, stop), text = row.loss[0], tokenizer.decode(list(row.ids))
    assert stop == len(row.ids)
    assert row.ids[:start] == form.prompt(tokenizer, "When was it built?", "The gate")
    learned = tokenizer.decode(list(row.ids[start:]))
    if form.chat:
        turns = [
            {"role": "user", "content": form.words("When was it built?", "The gate")},
            {"role": "assistant", "content": "1874"},
        ]
        assert str(tokenizer.apply_chat_template(turns, tokenize=False)).startswith(text)
        assert learned == "1874" + tokenizer.decode(list(tiny_family.contract.turn_end))
        assert row.ids[-1] == tokenizer.eos_token_id
    else:
        assert learned == " 1874\n"
    assert "Topic: The gate" in text
    assert "Topic" not in form.words("When?")
    plain = form.sequence(tokenizer, "", GATE, "The gate")
    assert plain.loss == ()
    assert GATE in tokenizer.decode(list(plain.ids))


def test_routing_by_words() -> None:
    passages = [
        TaughtPassage(name, name, text, "") for name, text in (("gate", GATE), ("mill", MILL), ("inn", INN))
    ]
    router = Router(passages)
    for question, name in (
        ("Who built the gate in Orvane?", "gate"),
        ("What does Jonas Wick's mill grind?", "mill"),
        ("Where is plum wine sold?", "inn"),
    ):
        found = router.best(question)
        assert found is not None
        assert found.id == name
    assert router.best("What is the capital of France?") is None
    assert router.best("Which key opens the palace of Versailles in France?") is None  # one word of five
    assert Router([]).best("gate") is None
    # by hand, equation 3.15 with k1 1.5 and b 0.75: one document of two holds the word, once among two
    two = Router([TaughtPassage("a", "", "barley stone", ""), TaughtPassage("b", "", "river sand", "")])
    assert two.rank("barley")[0].score == pytest.approx(0.6931471805599453)


def test_scores_pair_before_and_after_and_count_what_was_lost() -> None:
    items = [Item("batch 1", p, q, "") for p in "ab" for q in "xyz"] + [Item("general", "g", "g", "")]
    before = [False, False, True, False, False, False, True]
    after = [True, True, False, True, False, False, True]
    batch, general = scores_of(items, before, after)
    assert (batch.n, batch.before, batch.after, batch.lost) == (6, 1 / 6, 3 / 6, 1)
    assert (batch.low, batch.high) == (None, None), "two passages are too few"
    assert (general.before, general.after, general.lost) == (1, 1, 0)
    lines = table((batch, general)).splitlines()
    assert "knew before" in lines[0]
    assert lines[1].split()[:5] == ["batch", "1", "6", "17", "%"]


def test_teach_ask_add_undo(tiny: Callable[..., LoadedModel], docs: Path, tmp_path: Path) -> None:
    loaded, folder = tiny("qwen2"), tmp_path / "my-model"
    heard: list[tuple[str, int, int]] = []
    first = Teaching(folder, settings(docs), loaded, lambda *event: heard.append(event)).run()
    assert heard[-1][0] == "asking after"
    assert ("training", 0, 12) in heard
    assert ("training", 12, 12) in heard
    (batch,) = first.batches
    assert (batch.number, batch.passages, batch.updates) == (1, 2, 12)
    assert [s.what for s in batch.scores] == ["batch 1", "general"]
    model = TaughtModel(folder, loaded=loaded)
    reply = model.ask("Who built the gate of Orvane?", sampling=Sampling(temperature=0.0, max_new_tokens=8))
    assert reply.adapter == "all"
    assert reply.passage is not None
    assert reply.passage.title == "The gate"

    inn = tmp_path / "inn.txt"
    inn.write_text(INN)
    second = Teaching(folder, settings(inn), loaded).run()
    assert [b.number for b in second.batches] == [1, 2]
    assert second.batches[1].updates == 6 + 3  # a third of the steps repeats the first batch
    assert [s.what for s in second.batches[1].scores] == ["batch 1", "batch 2", "general"]
    assert second.adapters[0].folder == "adapters/2/all"
    assert len(second.adapters[0].passages) == 3
    with pytest.raises(DataError, match="taught before"):
        Teaching(folder, settings(inn), loaded).run()

    assert undo(folder, 2) == first
    again = TaughtModel(folder, loaded=loaded).ask(
        "Who built the gate of Orvane?", sampling=Sampling(temperature=0.0, max_new_tokens=8)
    )
    assert again.text == reply.text
    with pytest.raises(ConfigError, match="the first"):
        undo(folder, 1)
    with pytest.raises(ModelError, match="no batch 2"):
        undo(folder, 2)
    third = Teaching(folder, settings(inn), loaded).run()
    assert [b.number for b in third.batches] == [1, 3]
    assert third.batches[1].adapters[0].sha256 != first.adapters[0].sha256


def test_an_adapter_learns_its_answers(tiny: Callable[..., LoadedModel], tmp_path: Path) -> None:
    loaded, path = tiny("qwen2"), tmp_path / "gate.txt"
    path.write_text("Orvane closes at nine.")
    Teaching(tmp_path / "m", settings(path, updates=150, measure=False), loaded).run()
    model = TaughtModel(tmp_path / "m", loaded=loaded)
    short = Sampling(temperature=0.0, max_new_tokens=12)
    pieces: list[str] = []
    asked = "Fill in the missing word: Orvane closes at ____."
    taught = model.ask(asked, sampling=short, on_text=pieces.append)
    assert taught.text == "nine"
    assert "".join(pieces).strip() == "nine"
    assert taught.completion.finish == "stop"
    untaught, same = model.compare(asked, sampling=short)
    assert (same.text, untaught.adapter) == ("nine", "untaught")
    assert untaught.text != "nine"
    copy = model.save(tmp_path / "copy")
    assert TaughtModel(copy, loaded=loaded).ask(asked, sampling=short).text == "nine"
    with pytest.raises(ModelError, match="exists already"):
        model.save(copy)
    with pytest.raises(ConfigError, match="no adapter 'x'"):
        model.ask("Why?", adapter="x")
    with pytest.raises(ConfigError, match="no question"):
        model.ask("  ")


def test_what_the_base_says_is_trained_on_among_the_texts(
    tiny: Callable[..., LoadedModel], docs: Path, tmp_path: Path
) -> None:
    loaded = tiny("qwen2")
    said = [TrainingText("", "What is ice?", "frozen water"), TrainingText("", "Who barks?", "a dog")]
    (tmp_path / "m").mkdir()
    teaching = Teaching(tmp_path / "m", settings(docs, keep=0.25), loaded)
    plan = teaching.plan(read_library([docs]))
    write_lines(tmp_path / "m" / "anchors.jsonl", said)
    (lesson,) = teaching.lessons(plan, 1)
    texts = [loaded.tokenizer.decode(list(s.ids)) for s in lesson.sequences]
    assert len(texts) == 12 + 4
    assert sum("frozen water" in text for text in texts) == 2
    assert sum("Topic: The mill\nWho barks?" in text for text in texts) == 2  # under a title of the documents
    assert [TrainingText("", q.question, q.answer) for q in anchors_and_tests()] == []


def anchors_and_tests() -> list[Item]:
    """Questions that are trained on and measured with; there must be none."""
    text = (resources.files("seal.data") / "builtin" / "anchors.json").read_text("utf-8")
    return [item for item in general_items() if item.question in json.loads(text)]


def test_the_base_s_own_answers(smollm: LoadedModel) -> None:
    said = anchors(AdapterEngine(smollm), Form.of(smollm.tokenizer))
    assert len(said) > 40
    answers = {text.prompt: text.text for text in said}
    assert "Lisbon" in answers["What is the capital of Portugal?"]


def test_apart_has_an_adapter_a_document(
    tiny: Callable[..., LoadedModel], docs: Path, tmp_path: Path
) -> None:
    loaded, folder = tiny("qwen2"), tmp_path / "library"
    manifest = Teaching(folder, settings(docs, apart=True), loaded).run()
    assert [a.name for a in manifest.adapters] == ["gate", "mill"]
    assert manifest.batches[0].routed == 1
    model = TaughtModel(folder, loaded=loaded)
    short = Sampling(temperature=0.0, max_new_tokens=4)
    names = {
        q: model.ask(q, sampling=short).adapter
        for q in ("Which key has Orvane?", "Has the mill sails?", "Why?")
    }
    assert list(names.values()) == ["gate", "mill", "untaught"]
    (tmp_path / "inn.txt").write_text(INN)
    with pytest.raises(ConfigError, match="one adapter a document"):
        Teaching(folder, settings(tmp_path / "inn.txt"), loaded)
    more = Teaching(folder, settings(tmp_path / "inn.txt", apart=True), loaded).run()
    assert [a.name for a in more.adapters] == ["gate", "mill", "inn"]
    assert more.adapters[:2] == manifest.adapters


@pytest.mark.parametrize("after", ["begun", "answers", "trained", "everything but the manifest"])
def test_an_interrupted_teaching_goes_on_to_the_same_end(
    tiny: Callable[..., LoadedModel], docs: Path, tmp_path: Path, after: str
) -> None:
    loaded = tiny("qwen2")
    whole = Teaching(tmp_path / "whole", settings(docs), loaded).run()
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    (cut / "taught.json").unlink()
    lines = (cut / "journal.jsonl").read_text().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == ["begun", "answers", "trained", "answers", "taught"]
    keep = {"begun": 1, "answers": 2, "trained": 3}.get(after, 4)
    (cut / "journal.jsonl").write_text("".join(lines[:keep]))
    with pytest.raises(RunError, match="unfinished"):
        Teaching(cut, settings(docs, updates=7), loaded).run()
    shutil.rmtree(docs)  # what was planned is in the folder
    done = Teaching(cut, settings(docs), loaded).run()
    assert [replace(b, seconds=0) for b in done.batches] == [replace(b, seconds=0) for b in whole.batches]


def test_a_batch_is_not_taught_twice_when_the_process_ended_right_after_its_manifest(
    tiny: Callable[..., LoadedModel], docs: Path, tmp_path: Path
) -> None:
    loaded, folder = tiny("qwen2"), tmp_path / "m"
    whole = Teaching(folder, settings(docs), loaded).run()
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    for command, raises in ((settings(docs), False), (settings(docs, updates=7), True)):
        journal.write_text("".join(lines[:-1]))
        if raises:
            with pytest.raises(RunError, match="was just finished"):
                Teaching(folder, command, loaded).run()
        else:
            assert Teaching(folder, command, loaded).run() == whole
        assert [row.key for row in Journal.read(journal) if row.kind == "taught"] == ["1"]
        assert read_manifest(folder) == whole
    with pytest.raises(DataError, match="taught before"):
        Teaching(folder, settings(docs), loaded).run()


def test_nothing_is_half_taught_or_overwritten(
    tiny: Callable[..., LoadedModel], docs: Path, tmp_path: Path
) -> None:
    loaded = tiny("qwen2")
    for documents, kind in (((tmp_path / "gone",), DataError), ((), ConfigError)):
        with pytest.raises(kind):
            Teaching(tmp_path / "m", settings(*documents), loaded).run()
        assert not (tmp_path / "m").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(RunError, match="nothing is overwritten"):
        Teaching(tmp_path / "full", settings(docs), loaded).run()
    Teaching(tmp_path / "m", settings(docs), loaded).run()
    with pytest.raises(ModelError, match="was taught"):
        TaughtModel(tmp_path / "m", loaded=tiny("llama"))
    weights = tmp_path / "m" / "adapters" / "1" / "all" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="was changed"):
        TaughtModel(tmp_path / "m", loaded=loaded)
    with pytest.raises(ModelError, match="no taught model"):
        read_manifest(tmp_path / "full")


def test_what_is_written_can_be_read_back(
    tiny: Callable[..., LoadedModel], docs: Path, tmp_path: Path
) -> None:
    Teaching(tmp_path / "m", settings(docs), tiny("qwen2")).run()
    questions = read_lines(Asked, tmp_path / "m" / "questions" / "1.jsonl")
    assert {q.kind for q in questions} == {"cloze"}
    manifest = read_manifest(tmp_path / "m")
    assert TrainingConfig(**{**manifest.training, "targets": tuple(manifest.training["targets"])}).rank == 8
    plain = json.loads((tmp_path / "m" / "taught.json").read_text())
    (tmp_path / "m" / "taught.json").write_text(json.dumps({**plain, "format": 9}))
    with pytest.raises(ModelError, match="format 9"):
        read_manifest(tmp_path / "m")
