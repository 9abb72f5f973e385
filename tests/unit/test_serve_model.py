"""The OpenAI-compatible endpoint, asked by the openai client over a real socket."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from seal.cli import main
from seal.models.load import load_model
from seal.records import Sampling
from seal.taught.model import TaughtModel
from seal.taught.serving.app import make_app
from seal.taught.serving.worker import Busy, Job, Worker
from seal.taught.settings import TRAINING, TeachSettings
from seal.taught.teach import Teaching

GATE = "Which key does the gate of Orvane have?"
FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents, an adapter each."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "gate.txt").write_text("The gate of Orvane closes at nine. Its key weighs two pounds.")
    (folder / "mill.txt").write_text("The mill of Pellbrook grinds barley. It has six sails.")
    training = replace(TRAINING, rank=8, alpha=16, learning_rate=1e-2)
    documents = (str(folder / "gate.txt"), str(folder / "mill.txt"))
    settings = TeachSettings(documents, 30, apart=True, measure=False, training=training)
    Teaching(folder / "town", settings, load_model("tiny-random-qwen2", "cpu", "float32")).run()
    return folder / "town"


@contextmanager
def serving(model: TaughtModel, key: str = "") -> Iterator[str]:
    config = uvicorn.Config(make_app(model, key), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def model(library: Path) -> TaughtModel:
    return TaughtModel(library, "cpu", "float32")


@pytest.fixture(scope="module")
def address(model: TaughtModel) -> Iterator[str]:
    with serving(model) as found:
        yield found


_clients = ExitStack()


@pytest.fixture(autouse=True)
def _disconnected() -> Iterator[None]:
    """A client that an error's traceback still holds would keep its socket open into the next test."""
    with _clients:
        yield


def client(address: str, key: str = "none") -> openai.OpenAI:
    return _clients.enter_context(openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0))


def turn(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_the_models_are_the_folder_untaught_and_the_adapters(address: str) -> None:
    assert [m.id for m in client(address).models.list()] == ["town", "untaught", "gate", "mill"]


def test_an_answer_is_the_one_that_the_model_gives(address: str, library: Path) -> None:
    own = TaughtModel(library, "cpu", "float32")
    short = Sampling(temperature=0.0, max_new_tokens=9)
    for name, adapter in (("town", "auto"), ("untaught", "untaught"), ("mill", "mill")):
        expected = own.ask(GATE, adapter=adapter, sampling=short)
        said = client(address).chat.completions.create(model=name, messages=turn(GATE), max_tokens=9)
        assert said.choices[0].message.content == expected.text
        assert said.choices[0].finish_reason == expected.completion.finish
        assert said.usage is not None
        assert said.usage.completion_tokens == expected.completion.n_tokens
        assert said.usage.prompt_tokens == expected.n_prompt
        about = said.model_extra["seal"]  # type: ignore[index]
        assert about["adapter"] == expected.adapter
        assert about["passage"]["title"] == "gate"
    away = client(address).chat.completions.create(model="town", messages=turn(FRANCE), max_tokens=3)
    assert away.model_extra["seal"] == {"adapter": "untaught", "passage": None}  # type: ignore[index]


def test_a_stream_is_the_whole_answer_in_pieces(address: str) -> None:
    ask = {"model": "town", "messages": turn(GATE), "max_completion_tokens": 12}
    whole = client(address).chat.completions.create(**ask)
    chunks = list(
        client(address).chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(pieces).strip() == whole.choices[0].message.content
    assert len(pieces) > 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_conversations_text_and_parts(address: str, library: Path) -> None:
    own = TaughtModel(library, "cpu", "float32")
    turns: Any = [*turn(GATE), {"role": "assistant", "content": "a key"}, *turn("And the mill?")]
    said = client(address).chat.completions.create(model="town", messages=turns, max_tokens=6)
    expected = own.chat(turns, sampling=Sampling(temperature=0.0, max_new_tokens=6))
    assert said.choices[0].message.content == expected.text
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": GATE}]}]
    assert client(address).chat.completions.create(model="town", messages=parts, max_tokens=6)
    text = client(address).completions.create(model="gate", prompt="The gate of", max_tokens=6)
    (reply,) = own.answer_prepared([own.prepare("The gate of", "gate", Sampling(0.0, max_new_tokens=6))])
    assert text.choices[0].text == reply.text
    streamed = client(address).completions.create(
        model="gate", prompt="The gate of", max_tokens=6, stream=True
    )
    assert "".join(c.choices[0].text for c in streamed).strip() == reply.text


def test_many_at_once_get_their_own_answers(address: str, library: Path) -> None:
    own = TaughtModel(library, "cpu", "float32")
    asked = [(f"Number {n}: {GATE}", name) for n in range(4) for name in ("gate", "mill", "untaught")]
    short = Sampling(temperature=0.0, max_new_tokens=6)
    expected = [own.ask(q, adapter=name, sampling=short).text for q, name in asked]

    def ask(pair: tuple[str, str]) -> str:
        said = client(address).chat.completions.create(model=pair[1], messages=turn(pair[0]), max_tokens=6)
        return str(said.choices[0].message.content)

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, asked)) == expected


def test_sampling_depends_on_the_seed_alone(address: str) -> None:
    def draw(seed: int) -> str:
        said = client(address).chat.completions.create(
            model="untaught", messages=turn(GATE), max_tokens=12, temperature=1.5, seed=seed
        )
        return str(said.choices[0].message.content)

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "gpt-4"}, 404, "there is no model 'gpt-4': use town, auto, untaught, gate, mill"),
        ({"messages": []}, 400, "messages"),
        ({"messages": turn("  ")}, 400, "no question"),
        ({"messages": turn("word " * 5000)}, 400, "a prompt has"),
        ({"max_tokens": 10**6}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"n": 3}, 400, "n: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"stream": True, "messages": turn("word " * 5000)}, 400, "a prompt has"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    address: str, change: dict[str, Any], status: int, said: str
) -> None:
    ask: dict[str, Any] = {"model": "town", "messages": turn(GATE), **change}
    with pytest.raises(openai.APIStatusError) as refused:
        client(address).chat.completions.create(**ask)
    assert refused.value.status_code == status
    assert said in refused.value.message


def post(address: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_web_sites_cannot_reach_it_through_the_browser(address: str) -> None:
    body = json.dumps({"messages": turn(GATE), "max_tokens": 2}).encode()
    plain = {"content-type": "application/json"}
    assert post(address, body, plain)[0] == 200
    assert post(address, body, {**plain, "host": "evil.example"})[0] == 400
    assert (
        post(address, body, {"content-type": "text/plain"})[0] == 415
    )  # what a form can send without asking
    assert post(address, b"{" + b" " * 2**21, plain)[0] == 413
    assert post(address, b"{oops", plain)[0] == 400


def test_a_key_is_asked_for_and_never_shown(model: TaughtModel) -> None:
    with serving(model, "secret-key") as address:
        with pytest.raises(openai.AuthenticationError) as refused:
            client(address, "wrong").models.list()
        assert "secret" not in str(refused.value)
        assert client(address, "secret-key").models.list()
        page = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
        page.request("GET", "/")
        answer = page.getresponse()
        assert answer.status == 200
        assert "default-src 'none'" in str(answer.getheader("content-security-policy"))
        assert b"secret-key" not in answer.read()
        page.close()


def test_a_client_that_goes_ends_its_own_work_only(model: TaughtModel) -> None:
    worker = Worker(model)
    try:
        begun, done = threading.Event(), threading.Event()
        long = model.prepare(turn(GATE), "untaught", Sampling(temperature=1.0, max_new_tokens=2000))
        gone = Job(long, lambda text: begun.set(), lambda reply: done.set())
        worker.submit(gone)
        assert begun.wait(60)
        gone.abandoned.set()
        answered = threading.Event()
        short = model.prepare(turn(GATE), "gate", Sampling(temperature=0.0, max_new_tokens=2))
        worker.submit(Job(short, lambda text: None, lambda reply: answered.set()))
        assert answered.wait(60)
        assert not done.is_set()
    finally:
        worker.close()


def test_a_full_queue_refuses(model: TaughtModel) -> None:
    worker = Worker(model, waiting=1)
    begun = threading.Event()
    ended: list[object] = []
    long = model.prepare(turn(GATE), "untaught", Sampling(temperature=1.0, max_new_tokens=2000))
    jobs = [Job(long, lambda text: begun.set(), ended.append) for _ in range(3)]
    worker.submit(jobs[0])
    assert begun.wait(60)
    worker.submit(jobs[1])
    with pytest.raises(Busy):
        worker.submit(jobs[2])
    jobs[0].abandoned.set()
    worker.close()
    assert len(ended) == 1  # the one that waited heard of the end


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "lets others in without a key"),
        (["--host", "example.org"], "Give an IP address"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        ([], "is no taught model"),
    ],
)
def test_bad_starts(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve-model", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err
