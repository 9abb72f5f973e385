"""The command line: quick help, one-line errors and exit codes, the spec's flags, checks before a run."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seal import cli
from seal.cli import main, verbs
from seal.cli._dry_run_few_shot import measure_few_shot
from seal.cli._dry_run_knowledge import measure
from seal.cli._options import parse_changes
from seal.cli.doctor import Check, checks
from seal.config import SEALConfig, load_config, preset_names, preset_text
from seal.errors import ConfigError
from seal.extras import install
from seal.models.builtin import build
from seal.records import Question, Task
from seal.run.folder import Run
from seal.setup import load_data, make_domain

ROOT = Path(__file__).parents[2]
Output = pytest.CaptureFixture[str]


def run(capsys: Output, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def error_line(capsys: Output, *arguments: str) -> str:
    """The one line on stderr of a command that the user can put right."""
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.strip()


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, seal.cli; seal.cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "pydantic", "typer"}.isdisjoint(done.stderr.split())
    for verb in verbs():
        assert f"\n  {verb} " in done.stdout


def test_every_verb_has_a_line_of_help_and_help_of_its_own(capsys: Output) -> None:
    lines = {line.split()[0]: line.split()[1:] for line in cli._help().splitlines() if line.startswith("  ")}
    assert {"train", "resume", "doctor", "init", "presets"} <= set(lines)
    assert all(len(words) >= 2 for words in lines.values())
    for verb in ("train", "resume", "doctor", "init", "presets"):
        code, out, _ = run(capsys, verb, "--help")
        assert code == 0
        assert out.startswith(f"Usage: seal {verb} ")
        assert "--debug" in out


def test_train_has_the_flags_of_the_spec(capsys: Output) -> None:
    _, out, _ = run(capsys, "train", "--help")
    for flag in ("--preset", "--max-iterations", "--output-dir", "--config", "--device", "--log-level"):
        assert flag in out


def test_train_py_is_seal_train() -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--preset", "tset"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no preset is called 'tset'. Did you mean test?")


def test_wrong_commands_and_options_are_one_line(capsys: Output, tmp_path: Path) -> None:
    assert error_line(capsys, "trian") == "error: there is no command 'trian'. Did you mean `seal train`?"
    assert "`seal train --help`" in error_line(capsys, "train", "--bogus")
    assert "--seed" in error_line(capsys, "train", "--seed", "x")
    assert "max_outer_iterations" in error_line(capsys, "train", "--max-iterations", "-1")
    assert "write --set key=value" in error_line(capsys, "train", "--set", "seed").lower()
    assert "Missing argument" in error_line(capsys, "resume")
    assert "not a run folder" in error_line(capsys, "resume", str(tmp_path))
    assert "no such file" in error_line(capsys, "train", "--config", str(tmp_path / "none.yaml"))


def test_several_mistakes_are_one_line_each(capsys: Output, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("lora_r: 0\nepoch: 1\n")
    code, _, err = run(capsys, "train", "--config", str(path))
    assert code == 2
    assert [line.split(": ")[0].strip() for line in err.splitlines()] == ["error", f"{path}:1", f"{path}:2"]


def test_an_existing_run_is_left_alone(capsys: Output, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Run.create(folder, load_config(preset="test")).close()
    before = sorted(folder.iterdir())
    line = error_line(capsys, "train", "--preset", "test", "--output-dir", str(folder))
    assert f"seal resume {folder}" in line
    assert sorted(folder.iterdir()) == before


def test_a_run_that_another_process_has_open_is_not_resumed(capsys: Output, tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", load_config(preset="test")):
        assert "another process" in error_line(capsys, "resume", str(tmp_path / "run"))


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A command `explode WHAT` beside the real ones, from a file that nobody registered."""
    (tmp_path / "explode.py").write_text(
        '"""Fail in a chosen way."""\n'
        "from seal.errors import DataError\n"
        "def explode(what: str) -> None:\n"
        '    """Fail."""\n'
        "    raise eval(what)\n"
    )
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(cli, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "seal.cli.explode", raising=False)
    return "explode"


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("DataError('no rows', 'add some')", 2, "error: no rows. Add some"),
        ("DataError('no rows')", 2, "error: no rows"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        (
            f"OSError({errno.ENOSPC}, 'No space', 'x.bin')",
            2,
            "error: x.bin: the disk is full. Free some space, then go on with `seal resume RUN`",
        ),
        *(
            (what, 2, "error: there is not enough memory. Use a smaller model or fewer inner.workers")
            for what in (
                "MemoryError()",
                f"OSError({errno.ENOMEM}, 'Cannot allocate memory')",
                "RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: tried 138 bytes')",
                "ImportError('libtorch_cpu.so: failed to map segment from shared object')",
            )
        ),
        (f"OSError({errno.EACCES}, 'Permission denied', 'x')", 2, "error: x: Permission denied"),
        (
            "ZeroDivisionError('a\\nb')",
            1,
            "error: unexpected ZeroDivisionError: a b. Run it again with --debug and report it",
        ),
    ],
)
def test_errors_are_one_line_and_have_an_exit_code(
    verb: str, capsys: Output, what: str, code: int, line: str
) -> None:
    assert run(capsys, verb, what) == (code, "", f"{line}\n")


def test_a_file_is_not_blamed_for_memory_that_is_not_there(verb: str, capsys: Output) -> None:
    what = "DataError('x: cannot be read: Cannot allocate memory', 'make the file readable')"
    assert run(capsys, verb, what) == (
        2,
        "",
        "error: x: cannot be read: Cannot allocate memory. Use a smaller model or fewer inner.workers\n",
    )


def test_debug_shows_the_traceback(verb: str, capsys: Output) -> None:
    code, _, err = run(capsys, "--debug", verb, "DataError('no rows')")
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("error: no rows\n")


def test_error_lines_hold_no_secret(verb: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret")
    _, _, err = run(capsys, verb, "DataError('refused with sk-verysecret')")
    assert err == "error: refused with <OPENAI_API_KEY>\n"


def test_presets(capsys: Output) -> None:
    code, out, _ = run(capsys, "presets")
    assert code == 0
    assert [line for line in out.splitlines() if not line.startswith(" ")] == preset_names()
    for name in preset_names():  # the whole of what a preset says of itself
        text = preset_text(name)
        comment = text[: re.search(r"^[^#]", text, re.MULTILINE).start()]  # type: ignore[union-attr]
        assert " ".join(comment.replace("#", "").split()) in " ".join(out.split())
    assert run(capsys, "presets", "demo") == (0, preset_text("demo"), "")
    assert run(capsys, "presets", "demo", "--resolved")[1] == load_config(preset="demo").to_yaml()


def test_init_explains_every_setting_and_overwrites_nothing(capsys: Output, tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.yaml"
    assert run(capsys, "init", str(path))[0] == 0
    text = path.read_text(encoding="utf-8")
    assert SEALConfig.from_yaml(path) == SEALConfig()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith(("#", "- ")):
            before = lines[number - 1].lstrip()
            assert before.startswith("#"), f"{line!r} is not explained"
    path.write_text("seed: 1\n")
    assert "exists already" in error_line(capsys, "init", str(path))
    assert path.read_text() == "seed: 1\n"
    run(capsys, "init", str(tmp_path / "demo.yaml"), "--preset", "demo")
    assert SEALConfig.from_yaml(tmp_path / "demo.yaml") == load_config(preset="demo")


def test_set_takes_yaml_values() -> None:
    changes = ["inner.epochs=3", "learning_rate=1e-4", "wandb_project=a=b", "inner.targets=[mlp]"]
    assert parse_changes(changes) == {
        "inner.epochs": 3,
        "learning_rate": 1e-4,
        "wandb_project": "a=b",
        "inner.targets": ["mlp"],
    }
    for change in ("seed", "seed=", "seed= "):
        with pytest.raises(ConfigError, match=r"--set 'seed=?' has no value \(write --set key=value"):
            parse_changes([change])
    with pytest.raises(ConfigError, match="--set '=3' names no setting"):
        parse_changes(["=3"])


def test_the_doctor_finds_what_is_here_and_names_the_command_for_the_rest() -> None:
    found = {finding.what: finding for finding in checks()}
    assert found["torch"].fix == ""
    assert found["python"].found.startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert f"of {os.cpu_count()} CPUs" in found["threads"].found
    for name in ("trackio", "tensorboard"):
        if found[name].found == "not installed":
            assert found[name].fix == install(name)
            assert not found[name].needed


def test_the_doctor_shows_what_a_model_reads(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "tiny-random-qwen2")
    assert code == 0
    lines = {line[:15].strip(): line[15:] for line in out.splitlines()}
    assert lines["asked"] == "through its chat template"
    assert lines["stops at"] == "'<|im_end|>'"
    assert lines["question"].startswith("'<|im_start|>' 'u' 's' 'e' 'r'")
    assert lines["question"].endswith("'t' 'a' 'n' 't' 'Ċ'")
    assert lines["M-step"].endswith("'Ċ' | 'A' 'd' 'a' 'Ġ' 'M' 'e' …")
    assert lines["M-step ends"].endswith("'l' '.' '<|im_end|>'")
    assert run(capsys, "doctor", "no-such-model")[0] == 2


def test_the_doctor_fails_when_something_needed_is_missing(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seal.cli import doctor

    here, absent = Check("git", "1.0"), Check("ray", "not installed", "pip install ray", needed=False)
    monkeypatch.setattr(doctor, "checks", lambda: iter([here, absent]))
    assert run(capsys, "doctor")[0] == 0
    gone = Check("torch", "not installed", "pip install torch")
    monkeypatch.setattr(doctor, "checks", lambda: iter([here, gone]))
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "→ pip install torch" in out


def test_dry_run_says_what_would_be_done_and_does_nothing(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "train", "--preset", "test", "--dry-run", "--max-iterations", "3")
    assert code == 0
    assert "rounds       3 × 2 tasks × 2 self-edits × 1 training" in out
    settings = out.partition("# what would be done")[0]
    (tmp_path / "c.yaml").write_text(settings)
    assert SEALConfig.from_yaml(tmp_path / "c.yaml") == load_config(
        preset="test", overrides={"max_outer_iterations": 3}
    )
    assert "tasks        4 to train on, 2 held out" in out
    # 3 rounds × 2 tasks × 2 edits; held out: 2 tasks × (passage, self-edit before RL, after RL)
    assert "self-edits   16\n" in out
    assert "adapters     18\n" in out
    assert "time         roughly" in out
    # rank 4 is stored as 8, on 2048 inputs and outputs, 16 bytes each: fp32 weights, gradient, two moments
    assert "8 adapters of 262 kB, passes of 512 tokens of" in out
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_dry_run_of_fewer_tasks_than_a_round_asks_for(capsys: Output) -> None:
    code, out, _ = run(capsys, "train", "--preset", "test", "--dry-run", "--set", "tasks_per_iteration=9")
    assert code == 0
    assert "rounds       2 × 4 tasks × 2 self-edits × 1 training" in out


def test_dry_run_without_the_model_still_counts(capsys: Output, tmp_path: Path) -> None:
    code, out, _ = run(
        capsys, "train", "--preset", "test", "--set", f"model_name={tmp_path / 'no.gguf'}", "--dry-run"
    )
    assert code == 0
    assert "tokens       at most" in out
    assert "time         unknown: " in out
    assert "memory       unknown: " in out


def test_measured_work_by_hand() -> None:
    config = load_config(
        preset="test",
        overrides={"inner.epochs": 3, "repeats": 2, "evaluation.samples": 2, "evaluation.in_context": False},
    )
    questions = (Question("a?", "b"), Question("c?", "d"))
    train = [Task("t", "x" * 10, questions), Task("u", "x" * 20, questions)]
    val = [Task("v", "x" * 30, questions)]
    work = measure(config, train, val, len)
    # 2 rounds × 2 tasks × 2 edits, each trained twice; evaluation: 1 passage + 2 arms × 2 edits
    assert work.edits == 8 + 4
    assert work.adapters == 16 + 1 + 4
    assert work.write_tokens == 12 * 32
    assert work.train_tokens == 3 * (16 * (32 + 15) + 30 + 4 * (32 + 30))
    # 2 questions: 16 adapters + 4 baselines; evaluation: base, passage, 4 edits; 8 tokens each
    assert work.answer_tokens == 8 * (2 * (16 + 4) + 2 * (1 + 1 + 4))


def test_measured_work_at_a_fixed_number_of_updates_by_hand() -> None:
    config = load_config(
        preset="test",
        overrides={
            "inner.steps": 10, "inner.batch_size": 2, "evaluation.arms": ["passage", "self_edit", "constant"],
        },
    )  # fmt: skip
    train = [Task("t", "Vell has a gate. Orm has a mill.", (Question("a?", "b"),))]
    work = measure(config, train, train, len)
    # 2 rounds × 1 task × 2 edits of lines of half a passage; the passage whole, one edit, and one constant
    assert work.adapters == 4 + 3
    assert work.train_tokens == 20 * (4 * 16 + 32 + 2 * 16)


def test_the_dry_run_counts_the_sequences_of_study_plans(capsys: Output) -> None:
    """The demo: 24 adapters of 64 updates in training, 12 held out; a plan is a line of JSON."""
    code, out, _ = run(
        capsys, "train", "--preset", "demo", "--set", "model_name=tiny-random-gpt2", "--dry-run"
    )
    assert code == 0
    found = re.search(r"tokens +at most ([\d,]+) written, ([\d,]+) trained on", out)
    assert found is not None
    written, trained = (int(n.replace(",", "")) for n in found.groups())
    assert written < 36 * 100
    assert 36 * 64 * 5 < trained < 36 * 64 * 400


@pytest.mark.parametrize("model", ["tiny-random-gpt2", "owner/not-here"])
def test_dry_run_of_few_shot_learning(model: str, capsys: Output) -> None:
    words = ["--set", f"model_name={model}", "--set", "data_config.options.synthetic.n=4"]
    code, out, _ = run(capsys, "train", "--preset", "few_shot_demo", "--dry-run", *words)
    assert code == 0
    done = out.partition("# what would be done")[2]
    steps, trained = re.search(r"steps +about ([\d,]+) ", done), re.search(r"([\d,]+) trained on", done)
    assert steps is not None
    assert trained is not None
    assert int(steps[1].replace(",", "")) > 0
    assert int(trained[1].replace(",", "")) > int(steps[1].replace(",", ""))
    assert ("time         roughly" in done) == (model != "owner/not-here")


def test_few_shot_work_by_hand() -> None:
    space = {"groups": [], "colour": False, "learning_rates": [1e-3], "epochs": [2]}
    changes = {
        "model_name": "tiny-random-gpt2", "data_config.dataset_name": "synthetic", "tasks_per_iteration": 2,
        "samples_per_iteration": 3, "repeats": 2, "data_config.options.space": space, "evaluation.samples": 1,
        "data_config.options.synthetic": {"n": 2, "val_n": 1, "families": ["recolour"], "sizes": [3, 3]},
    }  # fmt: skip
    config = load_config(preset="few_shot_demo", overrides=changes | {"data_config.options.val_ids": []})
    data = load_data(config)
    tokenizer = build("tiny-random-gpt2")[1]
    work = measure_few_shot(config, data.train, data.val, tokenizer)
    domain = make_domain(config, None)
    recipe = domain.space.draw(0)  # type: ignore[attr-defined]
    rows = [domain.training_sequences(t, recipe, tokenizer) for t in (*data.train, *data.val)]
    references = len(domain.reference_edits(data.val[0]))
    # 2 tasks × 3 edits × 2 trainings; held out: the references, and a self-edit before RL and after
    assert (work.edits, work.adapters) == (6 + 2, 12 + references + 2)
    per_task = [2 * len(r) for r in rows]  # two epochs, one row a step
    assert work.steps == 6 * (per_task[0] + per_task[1]) + (references + 2) * per_task[2]


def test_dry_run_reports_bad_data(capsys: Output, tmp_path: Path) -> None:
    data = tmp_path / "d.json"
    data.write_text("[]")
    line = error_line(capsys, "train", "--preset", "test", "--set", f"data_config.path={data}", "--dry-run")
    assert str(data) in line


@pytest.mark.parametrize(
    "words", [["train"], ["arc"], ["arc", "show"], ["watch"], ["make-data"]], ids=" ".join
)
def test_short_help_is_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-h"]) == 0
    short = capsys.readouterr().out
    assert main([*words, "--help"]) == 0
    assert short == capsys.readouterr().out
    assert "Usage: seal" in short


def test_letters_that_the_terminal_lacks_become_escapes(tmp_path: Path) -> None:
    code = "import sys; from seal.cli import main; sys.exit(main(['report', 'Größe']))"
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Gr\\xf6\\xdfe: not a run folder" in done.stderr


@pytest.mark.slow
def test_a_run_on_an_ascii_terminal(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for command in (
        ["train", "--preset", "test", "--max-iterations", "0", "--output-dir", "OUT é"],
        ["report", "OUT é"],
        ["watch", "--once", "OUT é"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "seal", *command],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    assert (tmp_path / "OUT é/report.html").is_file()
