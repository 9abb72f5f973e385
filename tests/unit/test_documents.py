"""Documents in: every kind of file read for real, and every bad one named in one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from seal.data.documents.library import read_library, split_document
from seal.data.documents.readers import read_document
from seal.errors import DataError, MissingExtra

LINE = "The harbour of Orvane was opened in 1874 by Mira Tolstad."


def pdf(lines: list[str]) -> bytes:
    """A PDF of one page with a line of text for each of `lines`, written by hand."""
    shown = "".join(f"BT /F1 12 Tf 72 {720 - 16 * i} Td ({line}) Tj ET\n" for i, line in enumerate(lines))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources 6 0 R >>",
        f"<< /Length {len(shown)} >>\nstream\n{shown}endstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "<< /Font << /F1 5 0 R >> >>",
    ]
    out, places = "%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{at:010d} 00000 n \n" for at in places)
    tail = f"trailer << /Size 7 /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
    return (out + f"xref\n0 7\n0000000000 65535 f \n{table}{tail}").encode()


def word(path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_heading("Orvane", 0)
    document.add_heading("Harbour", 1)
    document.add_paragraph(LINE)
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Depth", "9 metres"
    document.save(str(path))


def test_every_kind_is_read(tmp_path: Path) -> None:
    (tmp_path / "a-note.txt").write_text(LINE)
    (tmp_path / "b.md").write_text(f"---\nkey: value\n---\n# Orvane *town*\n\n{LINE} Two.\n")
    (tmp_path / "c.PDF").write_bytes(
        pdf(["The harbour of Orvane was opened in", "1874 by Mira Tol-", "stad. Five."])
    )
    word(tmp_path / "d.docx")
    (tmp_path / "e.html").write_text(
        f"<title>Town</title><script>x()</script><nav>menu</nav><h1>Town</h1><p>{LINE} <b>Three</b></p>"
    )
    (tmp_path / "f.jsonl").write_text('{"title": "T", "text": "Four facts about Orvane."}\n')
    (tmp_path / "g.csv").write_text('title;text\nT2;"Five; facts"\n')
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"context": ["Six"], "question": ["How many?"], "answer": ["six"], "blob": [b"x"]})
    parquet.write_table(table, tmp_path / "h.parquet")
    library = read_library([tmp_path])
    texts = {p.title: p.context for p in library.passages}
    assert texts["a note"] == LINE
    assert texts["Orvane town"] == f"{LINE} Two."
    assert texts["c"] == f"{LINE} Five."
    assert LINE in texts["Orvane"]
    assert "Depth | 9 metres" in texts["Orvane"]
    assert texts["Town"] == f"{LINE} Three"
    assert texts["T"] == "Four facts about Orvane."
    assert texts["T2"] == "Five; facts"
    assert [q.answer for p in library.passages for q in p.questions] == ["six"]
    assert (library.files, library.notes) == (8, ())


def test_headings_become_titles_and_nothing_is_lost() -> None:
    words = [f"word{i}" for i in range(900)]
    parts = [" ".join(words[i : i + 300]) + "." for i in (0, 300, 600)]
    code = "```\n# no heading\n```"
    text = f"# Guide\n\n{parts[0]}\n\n## Leave\n\n{parts[1]}\n\n{code}\n\n## Pay ##\n\n{parts[2]}"
    passages = split_document("Guide", text, "guide.md", (300, 900))
    assert all(len(p.context) <= 900 for p in passages)
    assert {p.title.split(" (")[0] for p in passages} == {"Guide", "Guide: Leave", "Guide: Pay"}
    assert len({p.title for p in passages}) == len(passages)
    found = " ".join(p.context for p in passages).replace(".", " ").split()
    assert [w for w in found if w.startswith("word")] == words


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Der Bürgermeister von Årøy heißt Jürgen Größle, und seine Straße ist schön. " * 4
    path = tmp_path / "brief.txt"
    path.write_bytes(text.encode(encoding))
    document = read_document(path)
    assert document.text == text
    assert bool(document.notes) == (encoding == "cp1252")


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be learned, and what must be said of each."""
    from pypdf import PdfReader, PdfWriter

    (folder / "scan.pdf").write_bytes(pdf([]))
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf([LINE]))))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(folder / "locked.pdf")
    (folder / "broken.pdf").write_bytes(pdf([LINE])[:90])
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(300 * 2**20)
    (folder / "picture.txt").write_bytes(os.urandom(4096))
    (folder / "empty.md").write_text("")
    (folder / "blank.md").write_text(" \n\n")
    (folder / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0" + b"x" * 600)
    (folder / "broken.docx").write_bytes(b"PK\x03\x04 no archive")
    with zipfile.ZipFile(folder / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * (40 * 2**20))
    (folder / "table.csv").write_text("name,age\nAda,36\n")
    (folder / "table.parquet").write_bytes(b"PAR1 broken")
    (folder / "lines.jsonl").write_text('{"text": "x"}\n{oops\n')
    (folder / "program.exe").write_bytes(b"MZ")
    (folder / ".hidden.txt").write_text(LINE)
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    return {
        "scan.pdf": "no text", "locked.pdf": "encrypted", "broken.pdf": "broken", "huge.txt": "300 MB",
        "picture.txt": "binary", "empty.md": "empty", "blank.md": "no text", "old.docx": "encrypted",
        "broken.docx": "broken", "bomb.docx": "unpacks", "table.csv": "name, age", "table.parquet": "broken",
        "lines.jsonl": "line 2", "program.exe": "unknown kind", ".hidden.txt": "hidden", "gone.txt": "link",
    }  # fmt: skip


def test_bad_files_in_a_folder_are_left_out_by_name(tmp_path: Path) -> None:
    expected = bad_files(tmp_path)
    with pytest.raises(DataError, match="no document to learn; 16 left out"):
        read_library([tmp_path])
    (tmp_path / "good.txt").write_text(LINE)
    library = read_library([tmp_path])
    assert [p.context for p in library.passages] == [LINE]
    said = {Path(note.path).name: note.text for note in library.notes if note.skipped}
    assert set(said) == set(expected)
    for name, part in expected.items():
        assert part in said[name], (name, said[name])
        assert "\n" not in said[name]


def test_a_bad_file_that_is_named_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text(LINE)
    expected = bad_files(tmp_path)
    del expected[".hidden.txt"]  # a hidden file that is named is meant
    expected["gone.txt"] = "no such file"
    for name, part in expected.items():
        with pytest.raises(DataError, match=part) as refused:
            read_library([good, tmp_path / name])
        assert name in str(refused.value)
        assert refused.value.fix


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "a.txt").write_text(LINE)
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    assert len(read_library([tmp_path, tmp_path / "a.txt"]).passages) == 1
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no document"):
        read_library([tmp_path / "void"])


def test_files_with_one_title_are_told_apart_and_repeats_said(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Rules\n\nThe gate closes at nine.")
    (tmp_path / "b.md").write_text("# Rules\n\nThe gate opens at six.")
    (tmp_path / "c.txt").write_text("The gate closes at nine.")
    library = read_library([tmp_path])
    assert [p.title for p in library.passages] == ["Rules", "Rules (b.md)"]
    said = [note.text for note in library.notes]
    assert any("has the title 'Rules'" in text for text in said)
    assert any("repeats" in text for text in said)


@pytest.mark.parametrize(("ending", "package"), [(".pdf", "pypdf"), (".docx", "docx"), (".html", "bs4")])
def test_a_missing_package_is_named(
    tmp_path: Path, ending: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"x{ending}").write_bytes(pdf([LINE]))
    (tmp_path / "good.txt").write_text(LINE)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{ending} needs {package}.*\[documents\]"):
        read_library([tmp_path])


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    code = f"from seal.data.documents.library import read_library; read_library(['{tmp_path}/pipe.txt'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "no regular file" in done.stderr
