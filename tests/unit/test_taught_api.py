"""`seal.teach` in Python, the notebook, and `seal resume` of a taught model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import seal
from seal.cli import main
from seal.errors import ConfigError
from seal.records import Performance, Sampling
from seal.taught.settings import TRAINING

NOTEBOOK = Path(__file__).parents[2] / "docs" / "teach.ipynb"
TINY = "tiny-random-llama"


def cells() -> list[str]:
    return [
        "".join(c["source"])
        for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]


def run_cells(sources: list[str]) -> dict[str, object]:
    names: dict[str, object] = {}
    for number, source in enumerate(sources, 1):
        exec(compile(source, f"cell {number}", "exec"), names)
    return names


def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [
        c.replace('"smollm2-135m-instruct"', f'"{TINY}"').replace("UPDATES = 80", "UPDATES = 3")
        for c in cells()
    ]
    assert small != cells()
    model = run_cells(small)["model"]
    assert isinstance(model, seal.TaughtModel)
    assert [b.number for b in model.manifest.batches] == [1]
    assert (tmp_path / "my-merged" / "model.safetensors").is_file()
    assert len(seal.TaughtModel("my-model").passages) == 2
    assert capsys.readouterr().out.count("knew before") == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebook_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], smollm: object
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_cells(cells())
    assert "Tolstad" in str(names["taught"])
    assert "Tolstad" not in str(names["untaught"])


def test_an_adapter_a_document_in_python(tmp_path: Path) -> None:
    for name, text in (("gate", "Orvane closes at nine."), ("mill", "Pellbrook grinds barley.")):
        (tmp_path / f"{name}.txt").write_text(text)
    heard: list[str] = []
    model = seal.teach(
        [tmp_path / "gate.txt", tmp_path / "mill.txt"],
        TINY,
        tmp_path / "m",
        updates=2,
        apart=True,
        rank=4,
        measure=False,
        progress=lambda what, done, total: heard.append(what),
    )
    assert model.adapters == ("gate", "mill")
    assert set(heard) == {"training"}
    assert model.scores == ()
    short = Sampling(temperature=0.0, max_new_tokens=2)
    assert model.ask("What does Pellbrook grind?", sampling=short).adapter == "mill"
    with pytest.raises(ConfigError, match="updates is 0"):
        seal.teach(tmp_path, TINY, updates=0)


def test_seal_resume_goes_on_with_a_taught_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gate.txt").write_text("Orvane closes at nine.")
    made = seal.teach(tmp_path / "gate.txt", TINY, tmp_path / "m", updates=2, rank=4, measure=False)
    assert made.manifest.training["alpha"] == 2 * 4
    assert TRAINING.rank == 32
    (tmp_path / "m" / "taught.json").unlink()
    journal = tmp_path / "m" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:1]))
    shutil.rmtree(tmp_path / "m" / "adapters")
    assert main(["resume", str(tmp_path / "m")]) == 0
    assert "1 passage in" in capsys.readouterr().out
    again = seal.TaughtModel(tmp_path / "m")
    assert again.manifest.adapters == made.manifest.adapters
    assert main(["resume", str(tmp_path / "m")]) == 0  # nothing is left to do


def test_the_reward_model_by_its_name() -> None:
    better, worse = Performance(0.75, 4), Performance(0.5, 4)
    assert seal.RewardModel().compute_reward(worse, better) == 1
    assert seal.RewardModel("accuracy_gain").compute_reward(worse, better) == pytest.approx(0.25)
    assert seal.RewardModel("binary", 0.3).compute_reward(worse, better) == 0
    assert isinstance(seal.RewardModel(), seal.BaseRewardModel)
    with pytest.raises(ConfigError, match="unknown reward"):
        seal.RewardModel("nonsense")
