"""Every command of the documents, in order, page by page, as written.

A tiny random model stands in for the built-in one, so that a page takes seconds. A block that is marked
`<!-- needs: ... -->` is not run; commands that another test runs, or that never end, are listed with why.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import seal
from made_up_run import MadeUpRun
from seal.cli import main
from seal.models import gguf
from seal.models.load import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(seal.__file__).parents[2]
PAGES = ["README.md", "general-knowledge/README.md"] + [
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))
]
BLOCK = re.compile(
    r"^(<!-- needs: (?P<needs>[^>]+) -->\n)?^```bash\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
ELSEWHERE = {
    "make ": "CI runs the targets",
    "python3 -m venv": "tests/slow/test_install.py",
    "pip install": "tests/slow/test_install.py",
    "seal doctor": "tests/unit/test_cli.py; the model of this test is none that it knows",
    "python train.py --preset knowledge_incorporation_squad": "tests/e2e/test_spec.py, with a hub",
    "python train.py --preset few_shot_learning_arc": "tests/e2e/test_spec.py, with a hub",
    "seal serve-model": "serves until Ctrl-C: tests/unit/test_serve_model.py",
    "seal serve --model": "serves until Ctrl-C: tests/unit/test_serve_server.py",
    "seal query --server": "needs that server: tests/unit/test_remote.py",
    "seal regrade RUN --grader judge": "needs a judge: tests/unit/test_results.py",
    "seal export my-model --to gguf": "needs a vocabulary of llama.cpp: tests/unit/test_export.py",
    "seal export my-model --to ollama": "the same",
    "seal slurm": "tests/e2e/test_slurm_e2e.py",
    "sbatch": "tests/e2e/test_slurm_e2e.py",
    "SEAL_": "tests/e2e/test_slurm_e2e.py",
    "python3 general-knowledge": "tests/unit/test_build_sft.py",
    "echo": "the shell's",
}


def blocks(page: str) -> list[tuple[str, str]]:
    """(what it needs, its commands) of every block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(match["needs"] or "", match["text"]) for match in BLOCK.finditer(text)]


def commands(page: str) -> list[str]:
    """What is run of a page, one line each."""
    lines = [line for needs, text in blocks(page) if not needs for line in text.splitlines()]
    found = [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]
    return [line for line in found if not line.startswith((*ELSEWHERE, "#"))]


def test_every_block_is_seen() -> None:
    for page in PAGES:
        assert len(blocks(page)) == (ROOT / page).read_text(encoding="utf-8").count("```bash"), page
    assert sum(len(commands(page)) for page in PAGES) > 20


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of: passages, documents, finished runs; and the small model."""
    loaded = load_model("tiny-random-llama", "cpu")
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(gguf, "wheel_file", lambda name: Path("unused"))
    monkeypatch.setattr(gguf, "dequantise", lambda path: tmp_path / "model")
    here = tmp_path / "here"
    for folder, text in {
        "docs": "The gate of Orrin closes at nine.",
        "more": "Plum wine is sold in Karst.",
    }.items():
        (here / folder).mkdir(parents=True)
        (here / folder / "page.md").write_text(f"# Page\n\n{text} " * 3)
    for name in ("RUN", "RUN1", "RUN2", "outputs/demo"):
        MadeUpRun(here / name, rounds=1)
    monkeypatch.chdir(here)
    return here


def write_files(page: str, here: Path) -> None:
    """The JSON and YAML blocks of the page, under the names that its commands use."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, name in (("json", "passages.json"), ("yaml", "config.yaml")):
        found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if found:
            (here / name).write_text(found[1])


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_a_page_can_be_followed_to_the_letter(
    page: str, machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(page, machine)
    monkeypatch.setattr("builtins.input", lambda *_: (_ for _ in ()).throw(EOFError))  # `seal chat`: Ctrl-D
    for line in commands(page):
        for command in line.split("&&"):
            words = shlex.split(command.replace("python train.py", "seal train"))
            assert words[0] == "seal", f"{page}: {line}"
            code = main(words[1:])
            said = capsys.readouterr()
            assert code == 0, f"{page}: {line}\n{said.out[-2000:]}{said.err[-2000:]}"
