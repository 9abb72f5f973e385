"""Imports go one way, from records up to the command line; and what a user imports first is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seal
from cost import cpu_ratio

SOURCE = Path(seal.__file__).parent

#: The packages from the bottom up. A package may import from its own layer and from those below.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "errors",
            "records",
            "training_config",
            "seeds",
            "plugins",
            "lexical",
            "intervals",
            "yaml_lines",
            "yaml_scalars",
            "sentences",
            "whole_file",
            "cache",
            "scratch",
            "cloze",
            "trace",
            "thoughts",
            "remote",
            "protocols",
            "schedule",
            "prompt",
            "prompt_check",
            "bounded",
            "config_reader",
            "extras",
            "wording",
            "spending",
            "supervisor",
            "keys",
        }
    ),
    frozenset({"sections"}),
    frozenset({"settings"}),
    frozenset({"config"}),
    frozenset({"run"}),
    frozenset({"domains", "data", "arc", "grading", "self_edit", "self_edit_check", "constrained"}),
    frozenset({"models"}),
    frozenset({"inner"}),
    frozenset({"batches", "graded", "serve"}),
    frozenset({"workers", "pool", "cluster", "engine"}),
    frozenset({"reward"}),
    frozenset({"selection", "restem", "launch", "evaluator", "estep", "controls", "evaluation"})
    | frozenset({"setup", "writers"}),
    frozenset({"framework"}),
    frozenset({"report"}),
    frozenset({"recipes", "taught"}),
    frozenset({"cli", "__main__"}),
)
PUBLIC = [
    "SEALConfig",
    "SEALFramework",
    "SelfEditGenerator",
    "ReSTEMOptimizer",
    "BaseDomain",
    "KnowledgeIncorporation",
    "FewShotLearning",
    "LoRAWrapper",
    "BaseRewardModel",
    "DataLoader",
    "DataPreprocessor",
    "RewardModel",
    "TaughtModel",
]
HEAVY = ["torch", "transformers", "trl", "peft", "datasets", "matplotlib", "ray", "wandb", "openai"]


def layer(module: str) -> int:
    """Number of the layer that `module` (without `seal.`) is on."""
    package = module.split(".")[0]
    found = [n for n, packages in enumerate(LAYERS) if package in packages]
    assert found, f"seal.{package} is in no layer: add it to LAYERS"
    return found[0]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of seal that a file imports, wherever in the file: inside functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("seal.") for a in node.names if a.name.startswith("seal.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports with their full name"
            home = (node.module or "").removeprefix("seal").removeprefix(".")
            if (node.module or "").split(".")[0] == "seal":
                for alias in node.names:
                    inner = f"{home}.{alias.name}".lstrip(".")
                    found.add(inner if inner in known else home)
    return found - {""}


def test_imports_go_one_way() -> None:
    every = dict(modules())
    upward = {
        (module, target)
        for module, path in every.items()
        if module
        for target in imported(path, set(every))
        if layer(target) > layer(module)
    }
    assert upward == set()


def test_only_the_command_line_knows_the_command_line() -> None:
    every = dict(modules())
    for module, path in every.items():
        if module.split(".")[0] not in ("cli", "__main__"):
            assert not any(name.split(".")[0] == "cli" for name in imported(path, set(every))), module


def test_the_check_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "lexical.py"
    file.write_text("def f():\n    from seal import framework\n    import seal.cli.train\n")
    found = imported(file, {name for name, _ in modules()})
    assert found == {"framework", "cli.train"}
    assert all(layer(name) > layer("lexical") for name in found)


def test_every_package_but_the_engine_is_light() -> None:
    """Importing them loads nothing heavy; only the engine's files and programs for several GPUs may."""
    names = [
        f"seal.{name}".rstrip(".")
        for name, _ in modules()
        if not name.startswith("inner.") and name != "__main__"
    ]
    script = f"""
import importlib, sys
heavy = []
for name in {names}:
    importlib.import_module(name)
    heavy += [(name, each) for each in {HEAVY} if each in sys.modules]
    if heavy:
        break
print(heavy)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("program", ["import seal", "import sys, seal.cli; seal.cli.main(['--help'])"])
def test_the_first_contact_takes_little_more_than_python_itself(program: str) -> None:
    """Far under a second on any machine: importing torch takes sixty times as long as a bare interpreter."""
    assert cpu_ratio(program, "pass") < 6


def test_public_names() -> None:
    assert {*PUBLIC, "teach", "__version__"} == set(seal.__all__) == set(dir(seal))
    assert callable(seal.teach)
    for name in PUBLIC:
        found = getattr(seal, name)
        assert isinstance(found, type)
        assert found.__name__ == name
    with pytest.raises(AttributeError, match="SEALFrameworks"):
        seal.SEALFrameworks  # noqa: B018
