"""Real OpenAI-compatible servers write self-edits and judge: `transformers serve`, and llama.cpp's server.

    SEAL_TRANSFORMERS_PYTHON=… SEAL_LLAMA_PYTHON=… pytest tests/slow/test_servers.py

Interpreters with `transformers[serving]` and with `llama-cpp-python[server]`; without the variables this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from seal.arc.grammar import RecipeSpace
from seal.arc.recipe import parse_recipe
from seal.constrained import constrained
from seal.grading import JudgeGrader
from seal.inner.loop import LocalGenerator
from seal.models.gguf import wheel_file
from seal.models.load import LoadedModel, load_model, resolve
from seal.models.openai_generator import OpenAIGenerator
from seal.records import Question, Sampling
from seal.spending import Purse
from seal.supervisor import Supervised, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MODEL = "smollm2-135m-instruct"
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=12)
TEXTS = ("Name a colour.", "What burns in the lamps?", "Where do ships go?")


def interpreter(variable: str, modules: Sequence[str]) -> str:
    """The one that the variable names, or this one; a skip where it lacks a module."""
    python = os.environ.get(variable, sys.executable)
    look = "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in sys.argv[1:]))"
    if subprocess.run([python, "-c", look, *modules], check=False).returncode != 0:
        pytest.skip(f"{python} lacks one of {', '.join(modules)}: name an interpreter in {variable}")
    return python


@contextmanager
def serving(command: list[str], port: int, log: Path, sign: str) -> Iterator[str]:
    """The server's address once it answers at the path `sign`."""
    program = Supervised(command, os.environ, log)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 1200
        while True:
            try:
                urllib.request.urlopen(f"{address}/{sign}", timeout=10).close()
                break
            except OSError:
                assert program.status() is None, log.read_text()[-2000:]
                assert time.monotonic() < until
                time.sleep(0.5)
        yield f"{address}/v1"
    finally:
        program.stop()


@pytest.fixture(scope="module")
def policy() -> LoadedModel:
    return load_model(MODEL, "cpu", "float32")


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    modules = ("transformers", "accelerate", "fastapi", "uvicorn", "openai")
    python, port = interpreter("SEAL_TRANSFORMERS_PYTHON", modules), free_port()
    start = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    command = [python, "-c", start, "serve", str(resolve(MODEL)), *where]
    # Its list of models is that of the hub's cache, and an error where there is none.
    with serving(command, port, tmp_path_factory.mktemp("transformers") / "log", "health") as address:
        yield address


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    modules = ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")
    python, port = interpreter("SEAL_LLAMA_PYTHON", modules), free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "1024", "--n_threads", "1"]
    model = ["--model", str(wheel_file(MODEL)), "--model_alias", "small"]
    command = [python, "-m", "llama_cpp.server", *model, *where]
    with serving(command, port, tmp_path_factory.mktemp("llama") / "log", "v1/models") as address:
        yield address


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_transformers_serve_writes_what_the_engine_writes(
    transformers: str, policy: LoadedModel, api: Any
) -> None:
    """The same weights in the same type, greedily: the server's template and start token are ours too."""
    name = str(resolve(MODEL))
    prompts = [policy.contract.user_turn(text) for text in TEXTS]
    generator = OpenAIGenerator(name, transformers, api, contract=policy.contract, concurrency=1)
    theirs = generator.generate(prompts, GREEDY, [0, 1, 2])
    ours = LocalGenerator(policy).generate(prompts, GREEDY, [0, 1, 2])
    assert [c.text for c in theirs] == [c.text for c in ours]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_llamas_server_writes(llama: str, policy: LoadedModel, api: Any) -> None:
    """Its arithmetic is on quantised weights, so texts may differ; tokens and ends are told."""
    prompts = [policy.contract.user_turn(text) for text in TEXTS]
    purse = Purse()
    generator = OpenAIGenerator("small", llama, api, contract=policy.contract, concurrency=1, purse=purse)
    written = generator.generate(prompts, GREEDY, [0, 1, 2])
    assert all(c.text.strip() for c in written)
    assert all(0 < c.n_tokens <= 12 for c in written)
    assert {c.finish for c in written} <= {"stop", "length"}
    total = purse.total()
    assert total.requests == 3
    assert total.read > 3 * 10
    assert total.written == sum(c.n_tokens for c in written)


def test_llamas_server_holds_a_model_to_the_schema_of_a_recipe(llama: str, policy: LoadedModel) -> None:
    """A model of 135 million parameters, at temperature 1: what it writes is a recipe of the space."""
    space = RecipeSpace()
    writer = constrained(
        OpenAIGenerator("small", llama, "chat", concurrency=1, timeout=600), policy.tokenizer, space
    )
    sampling = Sampling(temperature=1.0, max_new_tokens=200)
    for completion in writer.generate(["Write a training recipe as JSON."] * 3, sampling, [1, 2, 3]):
        recipe = parse_recipe(completion.text)
        assert recipe.learning_rate in space.learning_rates
        assert recipe.epochs in space.epochs
        assert json.loads(completion.text).keys() == {"data_generation", "training"}


def test_a_judge_on_a_real_server_is_heard(llama: str) -> None:
    """Whatever it thinks: a question costs one request, or a second where the first reply is no verdict."""
    purse = Purse()
    judge = JudgeGrader(llama, "small", purse=purse, attempts=2, backoff=0.01, concurrency=1)
    grades = judge.grade([(Question("Who lit the lamps?", "Ada"), "Ada did.")] * 2)
    assert all("unreachable" not in grade.note for grade in grades)
    assert 2 <= purse.total().requests <= 4
