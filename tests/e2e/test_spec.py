"""Every command of the specification as written; a hub on loopback has a tiny model and a small SQuAD."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopback_hub import loopback_hub
from seal.run.journal import Journal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
#: What keeps a run of a preset short; the commands themselves stay as they are.
SMALL = {
    "knowledge_incorporation_squad": [
        "tasks_per_iteration=1",
        "samples_per_iteration=2",
        "repeats=1",
        "inner.epochs=1",
    ],
    "few_shot_learning_arc": [
        "tasks_per_iteration=2",
        "samples_per_iteration=1",
        "data_config.max_val_samples=2",
        "data_config.options.cap=4",
        "evaluation.samples=1",
    ],
}
SHORT = ["generation.max_new_tokens=16", "evaluation.max_new_tokens=4"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a machine that reaches a hub with `microsoft/DialoGPT-medium` and `squad`."""
    root = tmp_path_factory.mktemp("hub")
    _model(root / "models/microsoft/DialoGPT-medium")
    _squad(root / "datasets/rajpurkar/squad")
    with loopback_hub(root) as (_, url):
        yield {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(root / "home"),
            "SEAL_CACHE": str(root / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "WANDB_MODE": "offline",
            "OMP_NUM_THREADS": "1",
        }


def _model(folder: Path) -> None:
    """A tiny GPT-2 with DialoGPT's window and template, published as a pickle alone."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from seal.models.builtin import build

    folder.mkdir(parents=True)
    tiny, tokenizer, _ = build("tiny-random-gpt2")
    config = GPT2Config(**{**tiny.config.to_dict(), "n_positions": 1024})
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    tokenizer.model_max_length = 1024
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _squad(folder: Path) -> None:
    """Two passages to train on and one held out, with two questions each, as the hub has them."""
    import datasets

    def rows(passages: range) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{i}-{q}",
                "title": f"Harbour_{i}",
                "context": f"The harbour of Vell {i} is lit by {i + 10} lamps and was built in {1900 + i}.",
                "question": f"{q} harbour {i}?",
                "answers": {"text": [str(answer)], "answer_start": [0]},
            }
            for i in passages
            for q, answer in (("How many lamps light", i + 10), ("When was it built, the", 1900 + i))
        ]

    (folder / "plain_text").mkdir(parents=True)
    for split, passages in (("train", range(2)), ("validation", range(2, 3))):
        file = folder / f"plain_text/{split}-00000-of-00001.parquet"
        datasets.Dataset.from_list(rows(passages)).to_parquet(file)
    files = "".join(f"  - split: {s}\n    path: plain_text/{s}-*\n" for s in ("train", "validation"))
    header = f"configs:\n- config_name: plain_text\n  default: true\n  data_files:\n{files}"
    (folder / "README.md").write_text(f"---\n{header}---\n")


@pytest.fixture(scope="module")
def spec(shared: Path) -> str:
    return (shared / "spec/seal-framework.md").read_text("utf-8")


def commands(spec: str) -> list[list[str]]:
    """The training commands of the specification, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", spec, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("python train.py")]


def run(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command of the specification in `folder`, with few rounds of little work."""
    assert words[:2] == ["python", "train.py"]
    rest = words[2:]
    if "--max-iterations" in rest:
        rest[rest.index("--max-iterations") + 1] = "1"
    else:
        rest += ["--max-iterations", "1"]
    preset = rest[rest.index("--preset") + 1] if "--preset" in rest else ""
    for change in [*SHORT, *SMALL.get(preset, [])]:
        rest += ["--set", change]
    command = [sys.executable, str(ROOT / "train.py"), *rest]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=280
    )


def test_the_specification_has_the_commands_that_are_tested(spec: str) -> None:
    out = "--output-dir ./outputs"
    assert [" ".join(c[2:]) for c in commands(spec)] == [
        f"--preset knowledge_incorporation_squad --max-iterations 500 {out}/knowledge_incorporation",
        f"--preset few_shot_learning_arc --max-iterations 1000 {out}/few_shot_learning",
        "--config config.yaml",
        "--log-level DEBUG --preset test",
    ]


@pytest.mark.parametrize("number", range(4), ids=["knowledge", "few-shot", "config", "debug"])
def test_a_command_of_the_specification_works_as_written(
    number: int, spec: str, hub: dict[str, str], tmp_path: Path
) -> None:
    words = commands(spec)[number]
    if "config.yaml" in words:
        text = next(b for b in re.findall(r"```yaml\n(.*?)```", spec, re.DOTALL) if "model_name" in b)
        assert yaml.safe_load(text)["model_name"] == "microsoft/DialoGPT-medium"
        (tmp_path / "config.yaml").write_text(text)
    done = run(list(words), tmp_path, hub)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / re.search(r"results: (.*)", done.stdout)[1]  # type: ignore[index]
    journal = Journal(folder / "journal.jsonl")
    kinds = {kind: len(journal.rows(kind)) for kind in ("edit", "trial", "result", "update", "summary")}
    journal.close()
    assert min(kinds.values()) >= 1, kinds
    if "--log-level" in words:
        assert "completion:" in done.stderr
        assert "losses:" in done.stderr
