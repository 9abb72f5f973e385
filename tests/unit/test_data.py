"""Every format, every way a file can be wrong, and the official choice of passages."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal import DataLoader, DataPreprocessor
from seal.data.choice import official_subset, split_tasks, task_id, unique_ids
from seal.data.formats import group_rows
from seal.data.loader import load_tasks, tasks_from_loader
from seal.data.preprocess import clean_text
from seal.errors import ConfigError, DataError
from seal.models.load import load_model
from seal.records import Question, Task

SQUAD_V2 = {
    "version": "v2.0",
    "data": [
        {
            "title": "Dutch_language",
            "paragraphs": [
                {
                    "context": "Dutch has cases.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What has cases?",
                            "answers": [{"text": "Dutch", "answer_start": 0}],
                        },
                        {"id": "2", "question": "Why?", "is_impossible": True, "answers": []},
                    ],
                },
                {
                    "context": "Nobody knows.",
                    "qas": [{"id": "3", "question": "Who?", "is_impossible": True, "answers": []}],
                },
            ],
        }
    ],
}
CUSTOM = {"title": "T", "context": "C", "questions": [{"question": "Q?", "answer": "A"}]}


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# --- formats --------------------------------------------------------------------------------------------


def test_squad_v2_drops_unanswerable_questions_and_says_so(tmp_path: Path) -> None:
    loader = DataLoader(write(tmp_path, "dev.json", SQUAD_V2))
    (task,) = loader.load_tasks()
    assert (task.title, task.context) == ("Dutch language", "Dutch has cases.")
    assert task.target == (Question("What has cases?", "Dutch", "Dutch language"),)
    assert (loader.report.count("unanswerable"), loader.report.count("passage")) == (2, 1)
    assert (loader.report.tasks, loader.report.questions) == (1, 1)


def test_squad_v2_keeps_unanswerable_questions_when_asked(tmp_path: Path) -> None:
    loader = DataLoader(write(tmp_path, "dev.json", SQUAD_V2), unanswerable="keep")
    answers = [[q.answer for q in t.target] for t in loader.load_tasks()]
    assert answers == [["Dutch", "unanswerable"], ["unanswerable"]]
    assert loader.report.left_out == ()


def test_the_official_json_is_read_unchanged(shared: Path) -> None:
    path = shared / "data/squad/val_sample.json"
    records = json.loads(path.read_text())
    tasks = load_tasks(path)
    assert [(t.title, t.context) for t in tasks] == [(r["title"], r["context"]) for r in records]
    assert [[(q.question, q.answer, q.title) for q in t.target] for t in tasks] == [
        [(q["question"], q["answer"], r["title"]) for q in r["questions"]] for r in records
    ]
    assert len({t.id for t in tasks}) == len(records)


@pytest.mark.parametrize(
    "record",
    [
        CUSTOM,
        {"title": "T", "passage": "C", "qas": [{"question": "Q?", "answers": ["A", "A "]}]},
        {
            "title": "T",
            "text": "C",
            "qas": [{"question": "Q?", "answers": {"text": ["A"], "answer_start": [0]}}],
        },
        {"title": "T", "text": "C", "questions": [{"question": "Q?", "answers": [{"text": "A"}]}]},
        {"title": "T", "context": "C", "question": "Q?", "answer": "A"},
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_custom_records(tmp_path: Path, record: dict[str, Any], lines: bool) -> None:
    name = "my.jsonl" if lines else "my.json"
    (task,) = load_tasks(write(tmp_path, name, json.dumps(record) + "\n\n" if lines else [record]))
    assert (task.title, task.context, task.target) == ("T", "C", (Question("Q?", "A", "T"),))


def test_a_number_is_an_answer(tmp_path: Path) -> None:
    record = {"context": "C", "questions": [{"question": "Q?", "answer": 7}]}
    assert load_tasks(write(tmp_path, "a.json", [record]))[0].target[0].answer == "7"


def test_a_byte_order_mark_and_unusual_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = json.dumps({**CUSTOM, "context": "one\u2028two"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + (line + "\r\n" + line).encode())
    assert [t.context for t in load_tasks(path)] == ["one\u2028two"] * 2


def test_documents(tmp_path: Path) -> None:
    write(tmp_path, "b_notes-2.txt", "Plain text.")
    write(tmp_path, "a.md", "# The title\n\nBody.\n")
    write(tmp_path, ".hidden.md", "no")
    write(tmp_path, "c.py", "no")
    tasks = load_tasks(tmp_path, require_questions=False)
    assert [(t.title, t.context, t.target) for t in tasks] == [
        ("The title", "Body.", ()),
        ("b notes 2", "Plain text.", ()),
    ]
    with pytest.raises(DataError, match=r"a\.md: the passage has no questions"):
        load_tasks(tmp_path)


def test_rows_of_one_passage_join_up() -> None:
    rows = [
        {"title": "T", "context": c, "question": q, "answers": {"text": a}}
        for c, q, a in [("C", "1?", ["x", "y"]), ("D", "2?", ["z"]), ("C", "3?", [])]
    ]
    rows[2]["id"] = "7"
    passages = group_rows((f"row {i}", row) for i, row in enumerate(rows))
    assert [(p.context, [(q.question, q.answer) for q in p.questions]) for p in passages] == [
        ("C", [("1?", "x"), ("3?", None)]),
        ("D", [("2?", "z")]),
    ]


def test_the_builtin_corpus() -> None:
    train, val = (load_tasks("builtin", split=s) for s in ("train", "val"))
    assert {t.id for t in train} | {t.id for t in val} == {t.id for t in load_tasks("builtin")}
    assert len(train) + len(val) == 48
    assert not {t.id for t in train} & {t.id for t in val}
    assert all(t.target and t.title and 60 <= len(t.context.split()) <= 180 for t in train + val)


@pytest.mark.parametrize("name", ["squad", "squad_v2"])
def test_the_hub_without_a_network_says_what_to_do(name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_tasks(name, split="train")
    assert name in caught.value.message
    assert "builtin" in caught.value.fix


# --- what can be wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.json", '[\n{"title": "T",\n}]', "a.json, line 3"),
        ("a.jsonl", json.dumps(CUSTOM) + "\n{oops}\n", "a.jsonl, line 2"),
        ("a.jsonl", json.dumps(CUSTOM) + "\n[1]\n", "a.jsonl, line 2: is [1]"),
        ("a.json", [], "the data set is empty"),
        ("a.jsonl", "\n", "a.jsonl, line 1: the file is empty"),
        ("a.csv", "context,question,answer\n", "the data set is empty"),
        ("a.json", "", "a.json, line 1"),
        ("a.json", {"data": []}, "the data set is empty"),
        ("a.json", {"data": [{"title": "T"}]}, "article 1, paragraphs: is None"),
        ("a.json", "3", "holds int"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", [CUSTOM, {**CUSTOM, "questions": []}], "record 2: the passage has no questions"),
        ("a.json", [CUSTOM, {"title": "T", "context": "C"}], "record 2: the passage has no questions"),
        (
            "a.json",
            [{**CUSTOM, "questions": [{"question": "Why?"}]}],
            "record 1, question 1: 'Why?' has no answer",
        ),
        ("a.json", [{**CUSTOM, "questions": [{"question": "Why?", "answer": " "}]}], "'Why?' has no answer"),
        ("a.json", [{**CUSTOM, "questions": [{"question": "Why?", "answers": []}]}], "'Why?' has no answer"),
        ("a.json", [{**CUSTOM, "questions": [{"answer": "A"}]}], "record 1, question 1: has no question"),
        ("a.json", [{**CUSTOM, "questions": "Q?"}], "record 1, questions: is 'Q?'"),
        ("a.json", [{**CUSTOM, "context": " "}], "record 1: 'context' is empty"),
        ("a.json", [{"title": "T", "questions": []}], "record 1: no passage"),
        ("a.json", [{**CUSTOM, "title": 3}], "record 1: the title is 3"),
        ("a.xyz", "x", "unknown kind of file '.xyz'"),
        ("a.txt", " \n", "the document is empty"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, name: str, content: Any, cause: str) -> None:
    with pytest.raises(DataError) as caught:
        load_tasks(write(tmp_path, name, content))
    assert cause in caught.value.message
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_tasks(tmp_path / "gone.json")
    with pytest.raises(DataError, match=r"no \.txt or \.md file"):
        load_tasks(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(DataError, match="byte 2 is not UTF-8"):
        load_tasks(tmp_path / "latin.json")


@pytest.mark.parametrize(
    "options", [{"split": "test"}, {"max_samples": 0}, {"unanswerable": "guess"}], ids=str
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DataLoader("builtin", **options)


# --- choice, ids, pairs ---------------------------------------------------------------------------------


def test_pairs_and_limit() -> None:
    pairs = DataLoader("builtin", max_samples=3).load_data()
    assert [(c, t.id) for c, t in pairs] == [(t.context, t.id) for t in load_tasks("builtin")[:3]]


def test_the_official_subset_is_the_shuffle_with_seed_42() -> None:
    expected = list(range(20))
    random.Random(42).shuffle(expected)
    assert official_subset(range(20), 5, 10) == expected[5:15]
    assert official_subset("abcde", 0, 5) == ["d", "b", "c", "e", "a"]  # pinned: random.seed(42)
    for start, n in ((-1, 2), (0, 0), (4, 2)):
        with pytest.raises(DataError):
            official_subset("abcde", start, n)


def test_ids_come_from_the_content(tmp_path: Path) -> None:
    assert task_id("Süper Bowl 50!", "x") == task_id("Süper Bowl 50!", "x")
    assert task_id("Süper Bowl 50!", "x").startswith("super-bowl-50-")
    assert task_id("T", "x") != task_id("T", "y")
    path = write(tmp_path, "a.json", [CUSTOM, CUSTOM, {**CUSTOM, "context": "D"}])
    loader = DataLoader(path)
    ids = [t.id for t in loader.load_tasks()]
    assert ids[1] == f"{ids[0]}-2"
    assert len(set(ids)) == 3
    assert loader.report.notes == ("1 repeated passage is kept",)


@given(st.lists(st.sampled_from(["a", "a-2", "b", "a-2-2"])))
def test_ids_are_unique_and_first_ones_stay(ids: list[str]) -> None:
    made = unique_ids(ids)
    assert len(set(made)) == len(ids)
    assert all(m.startswith(i) for m, i in zip(made, ids, strict=True))
    assert all(made[ids.index(i)] == i for i in ids)


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_is_complete_disjoint_and_stable(n: int, share: float, seed: int) -> None:
    tasks = [Task(f"t{i}", f"c{i}", ()) for i in range(n)]
    train, val = split_tasks(tasks, share, seed)
    assert sorted([*train, *val], key=tasks.index) == tasks
    assert train
    assert val
    assert {t.id for t in split_tasks(tasks[::-1], share, seed)[1]} == {t.id for t in val}


def test_files_without_labels_are_divided_and_labels_are_obeyed(tmp_path: Path) -> None:
    records = [{**CUSTOM, "context": str(i)} for i in range(10)]
    path = write(tmp_path, "a.json", records)
    train, val = (load_tasks(path, split=s) for s in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert {t.context for t in train} | {t.context for t in val} == {str(i) for i in range(10)}
    labelled = [{**r, "split": "validation" if i == 3 else "train"} for i, r in enumerate(records)]
    assert [t.context for t in load_tasks(write(tmp_path, "b.json", labelled), split="val")] == ["3"]
    with pytest.raises(DataError, match="no passage for split 'val'"):
        load_tasks(write(tmp_path, "c.json", [{**CUSTOM, "split": "train"}]), split="val")


# --- loaders of the user's ------------------------------------------------------------------------------


def test_the_specs_loader_works_as_written() -> None:
    class MyDataLoader:
        def load_data(self) -> list[tuple[Any, Any]]:
            return [("a passage", {"any": "thing"}), ("another", [{"question": "Q?", "answer": "A"}])]

    first, second = tasks_from_loader(MyDataLoader)
    assert (first.context, first.target) == ("a passage", {"any": "thing"})
    assert second.target == (Question("Q?", "A"),)
    assert first.id != second.id
    assert tasks_from_loader(MyDataLoader()) == [first, second]


def test_our_own_loader_is_such_a_loader() -> None:
    assert tasks_from_loader(DataLoader("builtin")) == load_tasks("builtin")


def test_a_users_loader_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        "my_source.py",
        "class Mine:\n    def load_data(self):\n        return [(object(), i) for i in range(5)]\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = load_tasks("my_source:Mine")
    assert [t.target for t in tasks] == [0, 1, 2, 3, 4]
    assert [t.id for t in tasks] == [f"task-{i:04d}" for i in range(5)]


@pytest.mark.parametrize("returned", [None, [], [1], [("a", "b", "c")], ["ab"]])
def test_a_bad_loader_is_refused(returned: Any) -> None:
    class Bad:
        def load_data(self) -> Any:
            return returned

    with pytest.raises(DataError, match=r"Bad\.load_data returned"):
        tasks_from_loader(Bad())
    with pytest.raises(DataError, match="no load_data"):
        tasks_from_loader(object())


# --- preparation ----------------------------------------------------------------------------------------


def test_text_is_cleaned() -> None:
    assert clean_text("  e\u0301\u00a0x\u200b\r\n\r\n\r\n y\t z \x07\n") == "é x\n\ny z"


@given(st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert "".join(once.split()) == "".join(clean_text(text.replace("\n", " ")).split())


def test_length_questions_and_ids() -> None:
    questions = tuple(Question(f"{i} ?", "A\u00a0b") for i in range(4))
    tasks = [Task("short", "a  b", questions), Task("long", "a b c d", questions)]
    made = DataPreprocessor(max_context_tokens=3, too_long="drop", max_questions=2).process(tasks)
    assert [t.id for t in made.tasks] == ["short"]
    assert made.tasks[0].context == "a b"
    assert [q.answer for q in made.tasks[0].target] == ["A b", "A b"]
    assert made.too_long == ("long",)
    assert made.questions_cut == 4
    with pytest.raises(DataError, match="'long': the passage has 4 tokens, more than 3"):
        DataPreprocessor(max_context_tokens=3).process(tasks)
    with pytest.raises(DataError, match="none of 1 tasks"):
        DataPreprocessor(max_context_tokens=3, too_long="drop").process(tasks[1:])


def test_tokens_are_the_models() -> None:
    tokenizer = load_model("tiny-random-llama").tokenizer  # a token a byte
    with pytest.raises(DataError, match="has 5 tokens"):
        DataPreprocessor(max_context_tokens=4, tokenizer=tokenizer).process([Task("x", "abcde", ())])


def test_a_long_document_is_split_where_it_reads_best() -> None:
    text = "One two three.\n\nFour five. Six seven eight nine ten.\n\nEleven."
    made = DataPreprocessor(max_context_tokens=5, too_long="split").process([Task("d", text, (), "D")])
    assert [(t.id, t.title, t.context) for t in made.tasks] == [
        ("d-p1", "D", "One two three.\n\nFour five."),
        ("d-p2", "D", "Six seven eight nine ten."),
        ("d-p3", "D", "Eleven."),
    ]
    assert made.pieces == 3


@given(st.text(st.sampled_from("ab. \n"), max_size=200), st.integers(1, 9))
def test_pieces_fit_and_lose_nothing(text: str, limit: int) -> None:
    task = Task("d", text + " x", ())
    made = DataPreprocessor(max_context_tokens=limit, too_long="split").process([task])
    assert all(0 < len(t.context.split()) <= limit for t in made.tasks)
    assert " ".join(t.context for t in made.tasks).split() == task.context.split()


def test_other_domains_pass_through() -> None:
    grids = [Task("g", ((1, 2),), ((3,),)), Task("s", "a  b", "c")]
    assert DataPreprocessor("few_shot_learning").process(grids).tasks == tuple(grids)


def test_statistics_by_hand() -> None:
    tasks = [Task("a", "one two", (Question("q", "a"),)), Task("b", "x", (Question("q", "a"),) * 4)]
    made = DataPreprocessor().statistics(tasks)
    assert (made.tasks, made.questions, made.questions_mean) == (2, 5, 2.5)
    assert (made.questions_min, made.questions_max, made.words_mean) == (1, 4, 1.5)
    with pytest.raises(DataError):
        DataPreprocessor().statistics([])
