"""What people's files really look like: read rightly, or refused with the place; what is left out is said."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.arc.tasks import load_arc
from seal.cli import main
from seal.config import load_config
from seal.data.formats import from_records
from seal.data.loader import DataLoader, load_tasks, tasks_from_loader
from seal.errors import DataError
from seal.recipes.train_sft import read_pairs
from seal.records import Question, Task
from seal.report.history import read_history
from seal.report.page import html, markdown, run_view
from seal.selection import Pair
from seal.setup import load_data

PASSAGE = {"title": "T", "context": "C one.", "questions": [{"question": "Q?", "answer": "A"}]}
ROWS = [
    {
        "id": "0",
        "title": "Notre_Dame",
        "context": "One.",
        "question": "Q0?",
        "answers": {"text": ["a", "b", "a"]},
    },
    {"id": "1", "title": "Notre_Dame", "context": "One.", "question": "Q1?", "answers": {"text": ["c"]}},
    {"id": "2", "title": "Beyoncé", "context": "Two.", "question": "Q2?", "answers": {"text": ["d"]}},
]
TASKS = [
    ("Notre Dame", "One.", (Question("Q0?", "a", "Notre Dame", ("b",)), Question("Q1?", "c", "Notre Dame"))),
    ("Beyoncé", "Two.", (Question("Q2?", "d", "Beyoncé"),)),
]


def seen(tasks: list[Task]) -> list[tuple[str, Any, Any]]:
    return [(t.title, t.context, t.target) for t in tasks]


def lines(records: list[Any]) -> str:
    return "\n".join(json.dumps(record) for record in records)


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return path


def asking(*questions: Any) -> str:
    return json.dumps([{**PASSAGE, "questions": list(questions)}])


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_tasks(path, **options)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert caught.value.fix
    return text


# --- one data set in every form -------------------------------------------------------------------------

SQUAD = {
    "data": [
        {
            "title": row["title"],
            "paragraphs": [
                {
                    "context": row["context"],
                    "qas": [{**row, "answers": [{"text": t} for t in row["answers"]["text"]]}],
                }
            ],
        }
        for row in ROWS[2:]
    ]
}
SQUAD["data"].insert(
    0,
    {
        "title": "Notre_Dame",
        "paragraphs": [
            {
                "context": "One.",
                "qas": [{**r, "answers": [{"text": t} for t in r["answers"]["text"]]} for r in ROWS[:2]],
            }
        ],
    },
)
OWN = [
    {
        "title": "Notre Dame",
        "text": "One.",
        "qas": [{"question": "Q0?", "answer": "a", "answers": ["a", "b"]}, ROWS[1]],
    },
    {"title": "Beyoncé", "passage": "Two.", "questions": [{"question": "Q2?", "answer": "d"}]},
]
FORMS = {
    "squad.json": json.dumps(SQUAD),
    "squad.JSON": json.dumps(SQUAD),
    "own.json": json.dumps(OWN),
    "rows.json": json.dumps(ROWS),
    "to_json.json": lines(ROWS),
    "rows.jsonl": lines(ROWS) + "\n\n",
    "rows.ndjson": lines(ROWS),
    "indented.jsonl": json.dumps(ROWS, indent=1),
    "articles.json": json.dumps(SQUAD["data"]),
    "articles.jsonl": lines(SQUAD["data"]),
    "pandas.json": json.dumps({"schema": {}, "data": ROWS}),
    "mac.jsonl": lines(ROWS).replace("\n", "\r"),
    "dos.jsonl": lines(ROWS).replace("\n", "\r\n"),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "utf16.jsonl": lines(ROWS).encode("utf-16"),
    "utf16le.json": json.dumps(ROWS).encode("utf-16-le"),
    "utf32.json": json.dumps(ROWS).encode("utf-32"),
    "packed.jsonl.gz": gzip.compress(lines(ROWS).encode()),
    "packed.JSON.GZ": gzip.compress(json.dumps(OWN).encode()),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_data_set_gives_the_same_tasks(name: str, tmp_path: Path) -> None:
    assert seen(load_tasks(put(tmp_path / name, FORMS[name]))) == TASKS


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "semicolons.csv", "excel.CSV"])
def test_a_table_of_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    delimiter = {"rows.tsv": "\t", "semicolons.csv": ";"}.get(name, ",")
    with path.open("w", encoding="utf-8-sig" if "excel" in name else "utf-8", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(["id", "Title", "context", "question", "answers"])
        for row in ROWS:
            table.writerow(
                [row["id"], row["title"], row["context"], row["question"], json.dumps(row["answers"])]
            )
    assert seen(load_tasks(path)) == TASKS


def test_cells_of_a_csv_are_texts_as_they_stand(tmp_path: Path) -> None:
    text = 'context,question,answer\n"Two, lines\nof it.",Who?,007\n,,\nNA,No?,"[sic] NA"\n'
    path = put(tmp_path / "a.csv", text.replace(",,\n", ""))
    assert seen(load_tasks(path)) == [
        ("", "Two, lines\nof it.", (Question("Who?", "007"),)),
        ("", "NA", (Question("No?", "[sic] NA"),)),
    ]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("context,question,answer\nC,Q?\n", "line 2: 'Q?' has no answer"),
        ("context,question,answer\nC,Q?,a,b\n", "line 2: more cells than columns"),
        ("context,context,question\nC,Q?,a\n", "two columns are called 'context'"),
        ('context,question,answer\n"C,Q?,a\n', "unexpected end of data"),
        ("body,question,answer\nC,Q?,a\n", "line 2: no passage in it"),
        ("context,question,answers\nC,Q?,\"{'text': array(['a'], dtype=object)}\"\n", "line 2: answers is"),
    ],
)
def test_a_bad_table_is_named_with_its_line(text: str, cause: str, tmp_path: Path) -> None:
    assert cause in refusal(put(tmp_path / "a.csv", text))


def test_parquet_and_data_set_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    (tmp_path / "a").mkdir()
    made.to_parquet(tmp_path / "a" / "train-00000-of-00001.parquet")
    assert seen(load_tasks(tmp_path / "a" / "train-00000-of-00001.parquet")) == TASKS
    assert seen(load_tasks(tmp_path / "a")) == TASKS
    assert seen(load_tasks(f"hf:{tmp_path / 'a'}")) == TASKS
    made.to_json(tmp_path / "hf.json")
    assert seen(load_tasks(tmp_path / "hf.json")) == TASKS
    made.save_to_disk(tmp_path / "saved")
    assert seen(load_tasks(f"hf:{tmp_path / 'saved'}")) == TASKS
    assert "no Parquet file" in refusal(put(tmp_path / "b.parquet", "PAR1"))


# --- what is refused, with its place --------------------------------------------------------------------

BAD_ANSWERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "true",
    "{}",
    '""',
    '"\\u0000"',
    '"a\\ud800b"',
    "[[1]]",
]


@pytest.mark.parametrize("answer", [*BAD_ANSWERS, *(f"[{a}]" for a in BAD_ANSWERS), "null", "[]", "[null]"])
@pytest.mark.parametrize("field", ["answer", "answers"])
def test_no_answer_is_made_of_what_is_none(answer: str, field: str, tmp_path: Path) -> None:
    text = f'[{{"context": "C", "questions": [{{"question": "What?", "{field}": {answer}}}]}}]'
    assert "record 1, question 1: 'What?'" in refusal(put(tmp_path / "a.json", text))


def test_numbers_are_answers_as_they_are_written(tmp_path: Path) -> None:
    text = '[{"context": "C", "questions": [{"question": "What?", "answers": [7, 7.50, 1e22, -0.0]}]}]'
    (task,) = load_tasks(put(tmp_path / "a.json", text))
    assert task.target == (Question("What?", "7", "", ("7.50", "1e22", "-0.0")),)
    (passage,) = from_records([("row 1", {"context": "C", "question": "When?", "answer": 1999.0})])
    assert passage.questions[0].answer == "1999"  # a column of years with gaps, as pandas keeps it


@pytest.mark.parametrize("value", ["true", "True", 1, True, "1", 1.0])
def test_is_impossible_in_every_spelling(value: Any, tmp_path: Path) -> None:
    impossible = {"question": "What?", "is_impossible": value, "answers": [{"text": "plausible"}]}
    loader = DataLoader(put(tmp_path / "a.json", asking(impossible, {"question": "Who?", "answer": "A"})))
    assert [q.question for q in loader.load_tasks()[0].target] == ["Who?"]
    assert loader.report.count("unanswerable") == 1


@pytest.mark.parametrize("value", ["false", "False", 0, False, "0", 0.0, None])
def test_what_is_not_impossible_needs_an_answer(value: Any, tmp_path: Path) -> None:
    asked = {"question": "What?", "is_impossible": value, "id": "7", "answers": [{"text": "A"}]}
    assert load_tasks(put(tmp_path / "a.json", asking(asked)))[0].target[0].answer == "A"
    if value is not None:
        assert "'What?' has no answer" in refusal(put(tmp_path / "b.json", asking({**asked, "answers": []})))


@pytest.mark.parametrize("value", ["maybe", 2, "", [], float("nan"), "NaN"])
def test_another_is_impossible_is_refused(value: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", asking({"question": "What?", "is_impossible": value, "answer": "A"}))
    assert "record 1, question 1: is_impossible is" in refusal(path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            '[{"context": "a\\u0000b", "question": "Q?", "answer": "A"}]',
            "record 1, context: holds a null character",
        ),
        (
            '[{"context": "a\\udc00", "question": "Q?", "answer": "A"}]',
            "record 1, context: holds half a character",
        ),
        (
            '[{"title": "\\ud83d", "context": "C", "question": "Q?", "answer": "A"}]',
            "title: holds half a character",
        ),
        ('[{"context": "C", "question": "\\ud83d?", "answer": "A"}]', "question: holds half a character"),
        ('[{"context": "C", "question": "Q?", "answer": "A", "answer": "B"}]', "'answer' is given twice"),
        ('[{"context": "C", "question": "Q?", "answer": 1' + "0" * 5000 + "}]", "Exceeds the limit"),
        (
            '[{"context": "C", "question": "Q?", "questions": [], "answer": "A"}]',
            "both 'question' and 'questions'",
        ),
        ('[{"title": NaN, "context": "C", "question": "Q?", "answer": "A"}]', "the title is nan"),
        (
            '[{"context": NaN, "question": "Q?", "answer": "A"}]',
            "record 1: 'context' is empty or no text: nan",
        ),
        ('[{"context": "C", "question": NaN, "answer": "A"}]', "record 1: has no question text, but nan"),
        ('[{"context": "C", "question": "Q?", "answer": "A", "split": NaN}]', "record 1: split is nan"),
        ('[{"context": "C", "question": "Q?", "answer": "A", "split": "tset"}]', "record 1: split is 'tset'"),
        (
            '[{"context": "C", "text": "D", "question": "Q?", "answer": "A"}]',
            "'context' and 'text' hold different",
        ),
        ('[{"context": "C", "qas": [], "questions": []}]', "both 'questions' and 'qas'"),
        ('[{"context": "\u200b ", "question": "Q?", "answer": "A"}]', "'context' is empty"),
        ('[{"context": "C", "question": "Q?", "answer": "\ufeff"}]', "'Q?' has no answer"),
        (
            '[{"context": "C", "questions": [{"question": "Q?", "answer": "A", "split": "val"}]}]',
            "split of its own",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a", "is a Git LFS pointer"),
        (b"[1]\0", "line 1: a null character"),
        (b"\xff\xfe[", "is not UTF-16"),
        (b'["\xe9"]', "byte 2 is not UTF-8"),
        (b"", "line 1: the file is empty"),
        (b"\xef\xbb\xbf", "line 1: the file is empty"),
        (b"\x1f\x8bxx", "is broken gzip"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(text: Any, cause: str, tmp_path: Path) -> None:
    assert cause in refusal(put(tmp_path / "a.json", text))


def test_rows_that_repeat_a_question_give_it_more_answers(tmp_path: Path) -> None:
    row = {"context": "C", "question": "Q?"}
    path = put(tmp_path / "a.jsonl", lines([{**row, "answer": a} for a in ("a", "b", "a ")]))
    assert load_tasks(path)[0].target == (Question("Q?", "a", "", ("b",)),)
    apart = put(tmp_path / "b.jsonl", lines([{**row, "id": i, "answer": a} for i, a in enumerate("ab")]))
    assert [q.answer for q in load_tasks(apart)[0].target] == ["a", "b"]


# --- halves and what is left out ------------------------------------------------------------------------


def labelled(*labels: Any) -> str:
    return json.dumps(
        [
            {**PASSAGE, "context": f"C {i}."} | ({"split": s} if s is not None else {})
            for i, s in enumerate(labels)
        ]
    )


@pytest.mark.parametrize(
    ("labels", "train", "val", "said"),
    [
        (["train", "val", None, ""], 1, 1, "2 tasks without a split label (first: {path}, record 3)"),
        (["Train", "validation", "test"], 1, 1, "1 task of another split ({path}, record 3)"),
        (["training", "test", "test"], 1, 2, "nothing left out"),
        (["train", "dev", "valid", "eval"], 1, 3, "nothing left out"),
    ],
)
def test_split_labels(labels: list[Any], train: int, val: int, said: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", labelled(*labels))
    overrides = {
        "data_config.path": str(path),
        "evaluation.n_tasks": None,
        "data_config.max_val_samples": None,
    }
    data = load_data(load_config(preset="test", overrides=overrides))
    assert (len(data.train), len(data.val)) == (train, val)
    assert said.format(path=path) in str(data)
    assert "\n" not in str(data)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    """The same passage under two labels, with other blanks, and in two files."""
    same = {**PASSAGE, "context": "C  one.\n", "title": "Other"}
    other = {**PASSAGE, "context": "D."}
    path = put(
        tmp_path / "a.json",
        json.dumps([{**PASSAGE, "split": "train"}, {**other, "split": "train"}, {**same, "split": "val"}]),
    )
    loader = DataLoader(path, split="train")
    assert [t.context for t in loader.load_tasks()] == ["D."]
    assert str(loader.report).endswith(
        f"left out: 1 task to train on that is held out too ({path}, record 1)"
    )
    train, val = (
        put(tmp_path / "t.json", json.dumps([PASSAGE, other])),
        put(tmp_path / "v.json", json.dumps([same])),
    )
    config = load_config(
        preset="test", overrides={"data_config.path": str(train), "data_config.val_path": str(val)}
    )
    data = load_data(config)
    assert [t.context for t in (*data.train, *data.val)] == ["D.", "C  one.\n"]
    assert "1 task to train on that is held out too (t-" in str(data)
    put(train, json.dumps([PASSAGE]))
    with pytest.raises(DataError, match="all 1 tasks to train on are held out too"):
        load_data(config)


def test_what_is_beyond_a_limit_is_said(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", labelled(*["train"] * 5, *["val"] * 4))
    overrides = {"data_config.path": str(path), "evaluation.n_tasks": 1, "data_config.max_val_samples": 3}
    data = load_data(load_config(preset="test", overrides=overrides))
    assert [(report.tasks, report.count("beyond")) for report in data.reports] == [(4, 1), (1, 3)]


def test_repeated_passages_are_never_divided(tmp_path: Path) -> None:
    records = [{**PASSAGE, "context": f"C {i % 7}."} for i in range(28)]
    path = put(tmp_path / "a.json", json.dumps(records))
    train, val = ({t.context for t in load_tasks(path, split=s)} for s in ("train", "val"))
    assert val
    assert not train & val


def test_a_folder_of_data_files_with_its_halves(tmp_path: Path) -> None:
    for name, context in (
        ("data/train.json", "One."),
        ("data/validation.JSON", "Two."),
        ("data/test.jsonl", "3."),
    ):
        put(tmp_path / name, json.dumps({**PASSAGE, "context": context}))
    put(tmp_path / "README.md", "# About")
    put(tmp_path / "._train.json", "\0\0")
    put(tmp_path / "dataset_info.json", "{}")
    loader = DataLoader(tmp_path, split="val")
    assert [t.context for t in loader.load_tasks()] == ["Two."]
    assert loader.report.count("file") == 3
    assert loader.report.count("other_split") == 1
    assert [t.context for t in load_tasks(tmp_path, split="train")] == ["One."]


def test_one_line_says_what_was_left_out_wherever_one_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the dry run, the log, the journal and both reports."""
    records = json.loads(labelled("train", "train", "val", None))
    records[0]["questions"].append(
        {"question": "Why?", "is_impossible": 1, "answers": [{"text": "plausible"}]}
    )
    path = put(tmp_path / "part.json", json.dumps(records))
    line = (
        f"2 to train on, 1 held out, 3 questions; left out: 1 task without a split label ({path}, record 4); "
        f"1 unanswerable question ({path}, record 1), to train on"
    )
    command = ["train", "--preset", "test", "--max-iterations", "0", "--set", f"data_config.path={path}"]
    command += ["--set", "evaluation.arms=[base]", "--set", "evaluation.max_new_tokens=2"]
    assert main([*command, "--dry-run"]) == 0
    assert f"tasks        {line}\n" in capsys.readouterr().out
    run = tmp_path / "run"
    assert main([*command, "--output-dir", str(run)]) == 0
    logged = [json.loads(each) for each in (run / "logs" / "seal.jsonl").read_text().splitlines()]
    assert f"tasks: {line}" in [each["message"] for each in logged]
    assert "\n".join(str(each) for each in read_history(run).loaded).count("split label") == 2
    assert markdown([run_view(run)]).replace("\\", "").count(line) == 1
    assert html([run_view(run)]).count(f"<dd>{line}</dd>") == 1


# --- columns and the hub's layout -----------------------------------------------------------------------

TRIVIA = [
    {
        "doc": {"body": f"Text {i // 2}.", "name": "N"},
        "q": f"Q{i}?",
        "a": {"value": "x", "aliases": ["y", "x"]},
    }
    for i in range(8)
]
COLUMNS = {"context": "doc.body", "title": "doc.name", "question": "q", "answers": ["a.value", "a.aliases"]}


@pytest.mark.parametrize("source", ["{0}/t.json", "{0}/t.jsonl", "hf:{0}/set"])
def test_columns_of_other_names(source: str, tmp_path: Path) -> None:
    put(tmp_path / "t.json", json.dumps(TRIVIA))
    put(tmp_path / "t.jsonl", lines(TRIVIA))
    put(tmp_path / "set" / "train.jsonl", lines(TRIVIA))
    path = source.format(tmp_path)
    tasks = load_tasks(path, columns=COLUMNS)
    assert [t.context for t in tasks] == [f"Text {i}." for i in range(4)]
    assert tasks[0].target == (Question("Q0?", "x", "N", ("y",)), Question("Q1?", "x", "N", ("y",)))
    with pytest.raises(DataError, match=r"has no column 'doc\.text'.*name one of: body, name"):
        load_tasks(path, columns={**COLUMNS, "context": "doc.text"})


def test_malformed_records_may_be_left_out(tmp_path: Path) -> None:
    rows: list[Any] = [
        *ROWS,
        {**ROWS[0], "context": ""},
        {"context": "C", "question": "Q?", "answer": None},
        7,
    ]
    path = put(tmp_path / "set" / "train.jsonl", lines([*rows, {"context": "No questions."}]))
    assert "line 4: 'context' is empty" in refusal(path)
    for source in (path, path.parent):
        loader = DataLoader(source, malformed="drop")
        assert seen(loader.load_tasks()) == TASKS
        assert str(loader.report) == (
            "2 tasks, 3 questions; left out: 4 malformed records "
            f"(first: {path}, line 4: 'context' is empty or no text)"
        )


def test_columns_inside_lists_of_questions(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", json.dumps([{"body": "C", "items": [{"q": "Q?", "gold": "A"}]}]))
    columns = {"context": "body", "questions": "items", "question": "q", "answers": "gold"}
    assert seen(load_tasks(path, columns=columns)) == [("", "C", (Question("Q?", "A"),))]


def test_no_more_of_a_stream_is_read_than_is_needed(tmp_path: Path) -> None:
    rows = [{"context": f"C {i // 3}", "question": f"Q{i}?", "answer": "A"} for i in range(3000)]
    put(tmp_path / "train.jsonl", lines([*rows, {"context": 3}]))  # the last row would be refused
    loader = DataLoader(f"hf:{tmp_path}", max_samples=4)
    tasks = loader.load_tasks()
    assert [(t.context, len(t.target)) for t in tasks] == [(f"C {i}", 3) for i in range(4)]
    assert str(loader.report) == f"4 tasks, 12 questions; nothing left out; {tmp_path}: read up to row 32"
    few, many = (
        {t.id for t in load_tasks(f"hf:{tmp_path}", split=s, max_samples=40)} for s in ("train", "val")
    )
    assert len(few) == len(many) == 40
    assert not few & many


def test_splits_and_configurations_by_name(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        put(tmp_path / f"{name}.jsonl", json.dumps({**PASSAGE, "context": name}))
    source = f"hf:{tmp_path}"
    loader = DataLoader(source, split="val")
    assert [t.context for t in loader.load_tasks()] == ["validation"]
    assert "not read: test" in str(loader.report)
    named = {"train": "train", "val": "test"}
    assert [t.context for t in load_tasks(source, split="val", splits=named)] == ["test"]
    assert [t.context for t in load_tasks(f"{source}:test")] == ["test"]
    with pytest.raises(DataError, match=r"has no split 'dev'.*choose among"):
        load_tasks(f"{source}:dev")
    with pytest.raises(DataError, match="cannot be had from the hub"):
        load_tasks("hf:nobody/nothing", max_samples=3)


# --- any value anywhere ---------------------------------------------------------------------------------


def written(value: Any) -> set[str]:
    """Everything in a JSON value that may become a text: its texts and its finite numbers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return {"", "unanswerable"}.union(*map(written, value))
    if isinstance(value, str):
        return {value, value.strip(), value.strip().replace("_", " ").strip()}
    numbers = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) != float("inf")
    return {json.dumps(value)} if numbers and value == value else set()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)
NAMES = "title context passage text questions qas question answer answers is_impossible split id data"
FIELDS = st.sampled_from(NAMES.split())


@given(
    field=FIELDS,
    value=JSON_VALUES,
    row=st.booleans(),
    inside=st.booleans(),
    keep=st.sampled_from(["drop", "keep"]),
)
def test_any_value_in_any_field_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any, row: bool, inside: bool, keep: Any
) -> None:
    record: dict[str, Any] = json.loads(json.dumps(ROWS[0] if row else PASSAGE))
    target = record["questions"][0] if inside and not row else record
    target[field] = value
    path = put(tmp_path_factory.mktemp("any") / "a.json", json.dumps([record]))
    refused = None
    try:
        tasks = load_tasks(path, unanswerable=keep)
    except DataError as error:
        tasks, refused = [], error
    assert refused is None or (refused.fix and str(path) in str(refused))
    str(refused).encode()  # can be printed
    for task in tasks:
        assert task.context.strip()
        assert task.target
        texts = [task.title, task.context, *(t for q in task.target for t in (q.question, *q.accepted))]
        assert all(isinstance(text, str) and "\0" not in text for text in texts)
        assert set(texts) <= written(record)
        "".join(texts).encode()


ENDINGS = [".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".json.gz", ".NDJSON"]
PIECES = [
    *(b'{"context":"C","question":"Q?","answer":"A"}', b"context,question,answer", b"C,Q?,A", b'{"data":['),
    *(b"\n", b"\r", b",", b'"', b"[", b"]", b"{", b"}", b"null", b"NaN", b"1e999", b"\\ud800"),
    *(b"\xff\xfe", b"\0", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"PAR1", b'"split":"train"'),
    b'{"train":[{"input":[[1]],"output":[[1]]}],"test":[{"input":[[1]]}]}',
]


@given(st.sampled_from(ENDINGS), st.binary(max_size=40) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ending: str, content: bytes
) -> None:
    path = put(tmp_path_factory.mktemp("any") / f"a{ending}", content)
    for read in (load_tasks, load_arc):
        refused = None
        try:
            read(str(path))
        except DataError as error:
            refused = error
        assert refused is None or (refused.fix and "\n" not in str(refused) and str(path) in str(refused))


class Failing:
    def load_data(self) -> Any:
        raise KeyError("body")


class Own:
    """A loader of a user's whose questions have several answers, as text or as `Dataset` rows have them."""

    def load_data(self) -> Any:
        return [("C", [{"question": "Q?", "answers": ["a", "b", "a"]}, {"question": "R?", "answer": "c"}])]


def test_loaders_of_the_user_s() -> None:
    with pytest.raises(DataError, match=r"Failing\.load_data failed: KeyError: 'body'") as caught:
        tasks_from_loader(Failing)
    assert caught.value.fix
    (task,) = tasks_from_loader(Own)
    assert task.target == (Question("Q?", "a", "", ("b",)), Question("R?", "c"))


def test_pairs_to_train_on_are_read_line_by_line(tmp_path: Path) -> None:
    """A line ends where JSON lines end, not at every character that a text may break at."""
    path = tmp_path / "sft.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b", "completion": "c\x85d"}, ensure_ascii=False) + "\n")
    assert read_pairs(path) == [Pair("a\u2028b", "c\x85d")]
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": NaN, "completion": "b"}\n')
    with pytest.raises(DataError, match="line 2: no"):
        read_pairs(path)
