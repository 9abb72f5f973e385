"""Settings: the spec's names and defaults, files and flags over presets, mistakes told with their lines."""

from __future__ import annotations

import math
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from seal import SEALConfig
from seal.config import load_config, preset_names, preset_text
from seal.errors import ConfigError
from seal.records import Sampling, TrainingConfig
from seal.setup import make_domain
from seal.yaml_lines import dump, parse, scalar

ROOT = Path(__file__).parents[2]
SPEC_EXAMPLE = """\
# config.yaml
model_name: "microsoft/DialoGPT-medium"
domain: "knowledge_incorporation"
max_outer_iterations: 500
samples_per_iteration: 4
learning_rate: 1e-4

lora_r: 16
lora_alpha: 32
lora_dropout: 0.1

data_config:
  dataset_name: "squad"
  max_samples: 1000
  prompt_type: "implications"

wandb_project: "seal-experiments"
"""


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path | None, **more: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, **more)  # type: ignore[arg-type]
    lines = caught.value.message.splitlines()
    return [line.strip() for line in (lines if len(lines) == 1 else lines[1:])]


def test_defaults_are_the_specifications() -> None:
    config = SEALConfig()
    given = {name: getattr(config, name) for name in ("model_name", "device", "domain", "wandb_project")}
    assert given == {
        "model_name": "microsoft/DialoGPT-medium",
        "device": "auto",
        "domain": "knowledge_incorporation",
        "wandb_project": None,
    }
    assert (config.max_outer_iterations, config.samples_per_iteration) == (1000, 4)
    assert (config.learning_rate, config.lora_r, config.lora_alpha, config.lora_dropout) == (
        1e-4,
        16,
        32,
        0.1,
    )
    assert (config.reward_threshold, config.max_length) == (0.0, 2048)


def test_the_specifications_example_loads_as_written(tmp_path: Path) -> None:
    config = SEALConfig.from_yaml(write(tmp_path, SPEC_EXAMPLE))
    assert config.learning_rate == 1e-4
    assert config.max_outer_iterations == 500
    assert (config.data_config.dataset_name, config.data_config.max_samples) == ("squad", 1000)
    assert config.wandb_project == "seal-experiments"


def test_the_example_stands_in_the_spec(shared: Path) -> None:
    assert SPEC_EXAMPLE.strip() in (shared / "spec" / "seal-framework.md").read_text(encoding="utf-8")


def test_recipes_carry_every_setting() -> None:
    config = load_config(
        overrides={
            "learning_rate": 2e-3,
            "lora_r": 8,
            "lora_alpha": 4,
            "lora_dropout": 0.25,
            "inner.epochs": 3,
            "inner.batch_size": 2,
            "inner.accumulation": 5,
            "inner.schedule": "cosine",
            "inner.warmup_ratio": 0.1,
            "inner.weight_decay": 0.01,
            "inner.max_grad_norm": 0.5,
            "inner.targets": ["q_proj", "mlp"],
        }
    )
    assert config.inner_training() == TrainingConfig(
        8, 4.0, 0.25, ("q_proj", "mlp"), 2e-3, 3, 2, 5, "cosine", 0.1, 0.01, 0.5, True
    )
    # the paper's RL SFT: LoRA r 64, alpha 128, lr 3e-4, 2 epochs, batch 10
    assert SEALConfig().sft.training() == TrainingConfig(64, 128.0, 0.0, ("all",), 3e-4, 2, 10)
    assert SEALConfig().sampling() == Sampling(1.0, 0.95, 512)


def test_the_order_is_preset_then_file_then_flags(tmp_path: Path) -> None:
    path = write(tmp_path, "preset: test\nlora_r: 6\nseed: 7\ninner:\n  epochs: 5\n")
    config = load_config(path, overrides={"seed": 8, "inner.batch_size": 3})
    assert config.model_name == "tiny-random-llama"  # preset
    assert (config.lora_r, config.inner.epochs) == (6, 5)  # file
    assert (config.seed, config.inner.batch_size) == (8, 3)  # flags
    assert config.data_config.dataset_name == "builtin"
    assert load_config(path, preset="demo").model_name == "smollm2-135m-instruct"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_what_it_is(name: str) -> None:
    load_config(preset=name)
    assert preset_text(name).startswith("# ")


def test_the_presets_of_the_spec_are_there() -> None:
    assert {"knowledge_incorporation_squad", "few_shot_learning_arc", "test", "demo"} <= set(preset_names())
    paper = load_config(preset="knowledge_incorporation_squad")
    assert paper.inner_training() == TrainingConfig(rank=32, alpha=64.0, learning_rate=1e-3, epochs=10)
    assert (paper.tasks_per_iteration, paper.samples_per_iteration, paper.repeats) == (50, 5, 3)


def test_all_mistakes_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "learnig_rate: 1e-3\n"
        "lora_r: 0\n"
        "\n"
        "epochs: 3\n"
        "inner:\n"
        "  epoch: 2\n"
        "  schedule: linaer\n"
        "seed: 1\n"
        "seed: 2\n"
        "learning_rate: .nan\n"
        "lora_alpha: .inf\n"
        "lora_dropout: true\n"
        "keep_k: 9\n"
        "evaluation: {arms: []}\n"
        "1: x\n",
    )
    assert problems(path, overrides={"inner.slots": "many"}) == [
        "flag: inner.slots: must be auto or a whole number of at least 1, given 'many'",
        f"{path}:1: unknown setting 'learnig_rate'; did you mean learning_rate?",
        f"{path}:2: lora_r: must be greater than or equal to 1, given 0",
        f"{path}:4: unknown setting 'epochs'; did you mean inner.epochs or sft.epochs?",
        f"{path}:6: unknown setting 'inner.epoch'; did you mean inner.epochs?",
        f"{path}:7: inner.schedule: must be 'constant', 'linear' or 'cosine', given 'linaer'",
        f"{path}:9: 'seed' is given twice, first on line 8; keep one",
        f"{path}:10: learning_rate: must be a finite number, given nan",
        f"{path}:11: lora_alpha: must be a finite number, given inf",
        f"{path}:12: lora_dropout: must be a number, given True",
        f"{path}:13: keep_k: must be at most samples_per_iteration, which is 4, given 9",
        f"{path}:14: evaluation.arms: Tuple should have at least 1 item after validation, not 0, given []",
        f"{path}:15: the key '1' is not text; put it in quotes",
    ]


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: [1, 2\n", 3, "malformed YAML"),
        ("a: 1\n\tb: 2\n", 2, "malformed YAML"),
        ("- 1\n", 1, "list"),
    ],
)
def test_malformed_yaml_names_its_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    path = write(tmp_path, text)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:{line}: ")
    assert word in problem


def test_a_bare_off_in_yaml_is_off(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("generation:\n  check: off\n")
    assert load_config(path).generation.check == "off"


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\nmodel_name: !!python/object/apply:os.getcwd []\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:2: malformed YAML")


def test_json_is_read_with_lines_too(tmp_path: Path) -> None:
    good = write(tmp_path, '{\n\t"learning_rate": 1e-3,\n\t"model_name": "a\\ud83d\\ude00"\n}', "c.json")
    assert load_config(good).model_name == "a\U0001f600"
    bad = write(tmp_path, '{\n\t"seed": 1,\n\t"lora_r": -1,\n\t"seed": 2\n}', "d.json")
    assert problems(bad) == [
        f"{bad}:3: lora_r: must be greater than or equal to 1, given -1",
        f"{bad}:4: 'seed' is given twice, first on line 2; keep one",
    ]
    broken = write(tmp_path, '{\n"seed": 1\n"lora_r": 2}', "e.json")
    (problem,) = problems(broken)
    assert problem.startswith(f"{broken}:3: malformed JSON: Expecting ',' delimiter")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert problems(missing) == [f"{missing}: no such file"]
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("model_name: caf\xe9\n".encode("latin-1"))
    assert problems(latin)[0].startswith(f"{latin}: cannot be read")
    assert load_config(write(tmp_path, "")) == SEALConfig()


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(preset="demmo")
    assert caught.value.message == "no preset is called 'demmo'"
    assert caught.value.fix.startswith("did you mean demo?")


@pytest.mark.parametrize(
    "overrides",
    [
        {"domain": "knowledge"},
        {"reward": "binry"},
        {"device": "gpu"},
        {"data_config.loader": "module"},
        {"grader.kind": "judge"},
        {"generation.base_url": "localhost:8000"},
        {"generation.top_p": 0},
        {"learning_rate": 0},
        {"inner.warmup_ratio": 1},
        {"max_length": 4},
        {"seed": -1},
        {"lora_r.x": 1},
        {"inner": 3},
    ],
)
def test_values_out_of_range_are_refused(overrides: dict[str, object]) -> None:
    (problem,) = problems(None, overrides=overrides)
    assert problem.startswith(f"flag: {next(iter(overrides)).split('.')[0]}")


def test_import_paths_are_taken_for_domain_reward_and_loader() -> None:
    paths = {"domain": "my.pkg:Domain", "reward": "mine:Reward", "data_config.loader": "mine:Loader"}
    config = load_config(overrides=paths)
    assert (config.domain, config.reward, config.data_config.loader) == tuple(paths.values())


def test_a_key_in_the_config_is_refused_and_not_repeated() -> None:
    (problem,) = problems(None, overrides={"grader.api_key": "sk-very-secret"})
    assert problem == "flag: unknown setting 'grader.api_key'; did you mean grader.api_key_env?"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        SEALConfig().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2E5", -2e5),
        (".5", 0.5),
        ("3", 3),
        ("true", True),
        ("1.2.3", "1.2.3"),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_scalars_are_what_people_mean(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


texts = st.text(string.printable + "äß漢\u2028", min_size=1, max_size=20)


@given(
    model=texts | st.sampled_from(["1e-4", "yes", "null", "0x10", "1_000", "2020-01-01", "~", "- a", "a: b"]),
    rate=st.floats(min_value=1e-12, max_value=1),
    alpha=st.floats(min_value=1e-3, max_value=1e12),
    templates=st.dictionaries(texts, texts, max_size=3),
    slots=st.just("auto") | st.integers(1, 10**6),
)
def test_to_yaml_reads_back_as_an_equal_config(
    model: str, rate: float, alpha: float, templates: dict[str, str], slots: object
) -> None:
    config = SEALConfig.model_validate(
        {
            "model_name": model,
            "learning_rate": rate,
            "lora_alpha": alpha,
            "data_config": {"prompt_templates": templates, "options": {"deep": [1, {"x": 1e-7}]}},
            "inner": {"slots": slots},
        }
    )
    assert SEALConfig.model_validate(parse(config.to_yaml(), "c").values) == config


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_yaml(number: float) -> None:
    assert math.copysign(1, number) == math.copysign(1, parse(dump({"x": number}), "c").values["x"])
    assert parse(dump({"x": number}), "c").values == {"x": number}


def test_to_yaml_writes_a_file(tmp_path: Path) -> None:
    config = load_config(preset="demo")
    config.to_yaml(tmp_path / "c.yaml")
    assert SEALConfig.from_yaml(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda path: path.name)
def test_the_configs_of_the_experiments_are_valid(path: Path) -> None:
    config = load_config(path)
    assert make_domain(config, None).batched  # its options are the domain's to check


# --- what YAML's versions read differently --------------------------------------------------------------

DOUBTFUL = [
    ("seed", "010", None),
    ("seed", "019", None),
    ("seed", "1:30", None),
    ("seed", "None", None),
    ("seed", "no", None),
    ("seed", "1_000", 1000),
    ("seed", "0x10", 16),
    ("learning_rate", "1e-4", 1e-4),
    ("learning_rate", "01e-4", None),
    ("inner.slots", "1_0", 10),
    ("inner.slots", "08", None),
    ("data_config.split_newlines", "off", False),
    ("data_config.split_newlines", "Yes", True),
    ("data_config.split_newlines", "None", None),
    ("data_config.max_samples", "~", ...),
    ("data_config.max_samples", "None", None),
    ("data_config.path", "010", "010"),
    ("data_config.path", "00576224", "00576224"),
    ("data_config.path", "1_000", "1_000"),
    ("data_config.path", "0x10", "0x10"),
    ("data_config.path", "12:30", "12:30"),
    ("data_config.path", "2026-11-26", "2026-11-26"),
    ("data_config.path", "1e-4", None),
    ("data_config.path", "7", None),
    ("data_config.path", "~", None),
    ("data_config.path", "None", None),
    ("data_config.path", "no", None),
    ("data_config.path", "true", None),
    ("data_config.path", "null", ...),
    ("wandb_project", "None", None),
    ("wandb_project", "none", None),
    ("wandb_project", "off", None),
    ("wandb_project", "false", None),
    ("wandb_project", "'None'", "None"),
    ("wandb_project", "007", "007"),
    ("output_dir", "010", "010"),
    ("output_dir", "no", "no"),
    ("output_dir", "~", None),
    ("model_name", "on", "on"),
    ("data_config.prompt_type", "none", "none"),
    ("data_config.prompt_templates", "{a: off}", {"a": "off"}),
    ("inner.targets", "[no, 010]", ("no", "010")),
    ("data_config.columns", "{context: 007}", {"context": "007"}),
    ("data_config.options", "{ids: [00576224]}", None),
    ("data_config.options", "{ids: [05269061]}", None),
    ("data_config.options", "{ids: ['00576224', 6150a2bd]}", {"ids": ["00576224", "6150a2bd"]}),
    ("data_config.options", "{append_eos: no}", None),
    ("data_config.options", "{append_eos: None}", None),
    ("data_config.options", "{cap: 1_000}", None),
    ("data_config.options", "{max_views: ~, rate: 1e-4}", {"max_views": None, "rate": 1e-4}),
]


@pytest.mark.parametrize(("name", "text", "value"), DOUBTFUL)
@pytest.mark.parametrize("by", ["file", "flag"])
def test_what_stands_in_the_file_arrives_or_is_refused(
    tmp_path: Path, name: str, text: str, value: object, by: str
) -> None:
    """None as `value`: refused; `...`: nothing."""
    path = None
    if by == "file":
        section, dot, key = name.rpartition(".")
        path = write(tmp_path, f"{section}:\n  {key}: {text}\n" if dot else f"{name}: {text}\n")
    overrides = {} if path else {name: scalar(text)}
    if value is None:
        (problem,) = problems(path, overrides=overrides)
        assert problem.startswith(f"{path}:{1 + name.count('.')}: " if path else "flag: ")
        assert name in problem
        assert any(
            word in problem for word in ("quotes", "write null", "write true", "write plain digits", "given")
        )
        return
    found: object = load_config(path, overrides=overrides)
    for part in name.split("."):
        found = getattr(found, part)
    assert found == (None if value is ... else value)
    assert type(found) is type(None if value is ... else value)


@given(st.text(string.ascii_letters + string.digits + "_-+.:~", min_size=1, max_size=9))
def test_a_bare_text_is_never_changed(text: str) -> None:
    """In a setting that holds text, whatever a line of YAML gives it is what stands there."""
    try:
        values = parse(
            f"data_config: {{path: {text}, options: {{x: {text}}}}}\nmodel_name: {text}\n", "c"
        ).values
        config = load_config(overrides={"model_name": values["model_name"]})
    except ConfigError:
        return
    assert config.model_name == text
    assert SEALConfig.model_validate(parse(config.to_yaml(), "c").values) == config


def test_a_project_called_none_survives_the_run_folder(tmp_path: Path) -> None:
    config = load_config(overrides={"wandb_project": "None", "output_dir": "010", "data_config.path": "no"})
    config.to_yaml(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_config_files_of_every_editor(tmp_path: Path, encoding: str, end: str) -> None:
    text = "\ufeff" * (encoding == "utf-16-be") + f"seed: 7{end}model_name: é{end}"
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode(encoding))
    config = load_config(path)
    assert (config.seed, config.model_name) == (7, "é")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"seed": ' + "1" * 5000 + "}", '{"seed": NaN}', "\0"])
def test_json_that_python_chokes_on_is_refused(tmp_path: Path, text: str) -> None:
    (problem,) = problems(write(tmp_path, text, "c.json"))
    assert problem.startswith(str(tmp_path / "c.json"))


PIECES = [
    "seed",
    "data_config",
    "options",
    "path",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\n",
    "  ",
    "- ",
    "no",
    "010",
    "~",
]
PIECES += [
    "1_0",
    "0xg",
    "&a ",
    "*a",
    "<<",
    "!!int ",
    "!!float ",
    "!!bool x",
    "!!timestamp ",
    "!!set ",
    "?",
    "|",
    "'",
]


@given(
    st.sampled_from(["c.yaml", "c.json"]),
    st.binary(max_size=20)
    | st.lists(st.sampled_from(PIECES), max_size=12).map(lambda p: "".join(p).encode()),
)
@example("c.yaml", b"data_config: {options: &a {x: *a}}")
@example("c.yaml", b"seed: !!int x")
@example("c.yaml", b"seed: !!float")
@example("c.yaml", b"seed: !!bool x")
@example("c.yaml", b"seed: !!timestamp x")
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        load_config(path)
        load_config(overrides={"data_config.options": scalar(content.decode())})
    except (ConfigError, UnicodeDecodeError) as error:
        assert isinstance(error, UnicodeDecodeError) or str(error)  # noqa: PT017
