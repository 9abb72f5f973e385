"""What servers send back is a completion, or one line says what came instead; real requests on loopback."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loopback_http import JSON, answering
from raw_server import raw_server
from seal.cli import main
from seal.domains.knowledge import KnowledgeIncorporation
from seal.errors import GenerationError
from seal.grading import JudgeGrader
from seal.models import builtin
from seal.models.load import LoadedModel
from seal.models.openai_generator import OpenAIGenerator
from seal.prompt import PromptSettings, contract_of
from seal.prompt_check import build_contract
from seal.records import Question, Sampling, Task, Verdict
from seal.remote import RemoteModel

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=32)
TASK = Task("t", "Vell has forty lamps.", (Question("How many?", "forty"),), "Vell")
ASKED = Question("Who?", "Ada")
SAID = "The lamps of Vell burn osk oil.\nThere are forty lamps."


@dataclass
class Server:
    """A server whose answer `answer(body)` gives: a status, a content type and a body."""

    url: str = ""
    answer: Callable[[dict[str, Any]], tuple[int, str, str]] = lambda body: (200, "application/json", "{}")
    seen: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()

    def answer(path: str, _: object, body: dict[str, Any]) -> tuple[int, str, str]:
        made.seen.append({"path": path, **body})
        return made.answer(body)

    with answering(answer) as address:
        made.url = f"{address}/v1"
        yield made


def reply(content: Any = SAID, **changes: Any) -> str:
    """A chat reply, or with `text` a completion; `message` and `usage` as given."""
    choice = {"index": 0, "finish_reason": "stop", "text": content} | changes.pop("choice", {})
    choice["message"] = changes.pop("message", {"role": "assistant", "content": content})
    usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    return json.dumps(
        {"id": "x", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage} | changes
    )


def refused(message: str, param: str = "") -> tuple[int, str, str]:
    return 400, "application/json", json.dumps({"error": {"message": message, "param": param}})


STREAM = 'data: {"choices": [{"delta": {"content": "The"}}]}\n\ndata: [DONE]\n\n'
NO_COMPLETION = {
    "a page": ("text/html", "<html><body>Welcome to LM Studio</body></html>", "a web page"),
    "a page as JSON": (JSON, "<!doctype html>", "a web page"),
    "a stream": ("text/event-stream", STREAM, "a stream"),
    "a stream as JSON": (JSON, STREAM, "a stream"),
    "cut": (JSON, '{"id": "x", "choices": [', "cut off"),
    "deep": (JSON, '{"a":' * 5000, "cut off"),
    "empty": (JSON, "", "an empty reply"),
    "words": ("text/plain", "OK", "'OK'"),
    "null": (JSON, "null", "JSON of another kind"),
    "list": (JSON, "[]", "JSON of another kind"),
    "error": (JSON, json.dumps({"error": "Unexpected endpoint or method."}), "Unexpected endpoint"),
    "error in a message": (JSON, json.dumps({"error": {"message": "no model loaded"}}), "no model loaded"),
    "no choices": (JSON, json.dumps({"choices": []}), "a reply without choices"),
    "null choices": (JSON, json.dumps({"choices": None}), "JSON of another kind"),
    "null choice": (JSON, json.dumps({"choices": [None]}), "without choices"),
    "null message": (JSON, reply(None, message=None), "a reply without text"),
    "null text": (JSON, reply(None), "a reply without text"),
    "parts": (JSON, reply([{"type": "text", "text": SAID}]), "a list in place of text"),
    "number": (JSON, reply(7), "a int in place of text"),
    "a thought": (
        JSON,
        reply(None, message={"content": None, "reasoning_content": "Let me think."}),
        "a thought and no text|without text",
    ),
}


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("kind", NO_COMPLETION)
def test_what_is_no_completion_is_one_line_and_never_a_self_edit(server: Server, kind: str, api: Any) -> None:
    content_type, body, why = NO_COMPLETION[kind]
    server.answer = lambda _: (200, content_type, body)
    generator = OpenAIGenerator("m", server.url, api, attempts=2, backoff=0.001)
    with pytest.raises(GenerationError, match=why) as caught:
        generator.generate(["Say:"], SAMPLING, [1])
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    assert len(server.seen) == 1  # it would be the same again


@pytest.mark.parametrize("kind", NO_COMPLETION)
def test_what_is_no_completion_is_no_verdict(server: Server, kind: str) -> None:
    content_type, body, why = NO_COMPLETION[kind]
    server.answer = lambda _: (200, content_type, body)
    (grade,) = JudgeGrader(server.url, "j", backoff=0.001).grade([(Question("Who?", "Ada"), "Ada")])
    assert grade.verdict is Verdict.ERROR
    assert any(part in grade.note for part in why.split("|"))
    assert grade.note.startswith("judge j at 127.0.0.1")


# --- slow, huge, elsewhere -------------------------------------------------------------------------------


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"100000\r\n" + b" " * 2**20 + b"\r\n"


def trickled_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def trickled_body(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    while True:
        connection.sendall(b"1\r\n \r\n")
        time.sleep(0.05)


@pytest.mark.parametrize("send", [trickled_head, trickled_body])
def test_a_reply_that_trickles_ends_with_its_deadline(send: Callable[[socket.socket], None]) -> None:
    with raw_server(send) as url:
        began = time.monotonic()
        (grade,) = JudgeGrader(url, "j", timeout=0.5, attempts=2, backoff=0).grade([(ASKED, "Ada")])
        assert time.monotonic() - began < 30  # the server would go on for ever
    assert grade.verdict is Verdict.ERROR
    assert "Timeout" in grade.note


def huge(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    while True:
        connection.sendall(CHUNK)


def huge_error(connection: socket.socket) -> None:
    connection.sendall(HEAD.replace(b"200 OK", b"400 Bad Request"))
    while True:
        connection.sendall(CHUNK)


@pytest.mark.parametrize("send", [huge, huge_error])
def test_a_huge_reply_is_not_read_to_its_end(
    send: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seal.remote.MOST_BYTES", 2**22)
    with raw_server(send) as url:
        (grade,) = JudgeGrader(url, "j", timeout=60, attempts=1).grade([(ASKED, "Ada")])
        with pytest.raises(GenerationError, match="more than 32 MiB"):
            OpenAIGenerator("m", url, timeout=60, attempts=1).generate(["Say:"], SAMPLING, [1])
    assert grade.verdict is Verdict.ERROR
    assert "more than 32 MiB" in grade.note


def test_a_compressed_reply_is_not_unpacked() -> None:
    packed = gzip.compress(b" " * 2**24)
    head = HEAD.replace(b"transfer-encoding: chunked", b"content-encoding: gzip")
    with raw_server(lambda connection: connection.sendall(head + packed)) as url:
        (grade,) = JudgeGrader(url, "j", timeout=60, attempts=1).grade([(ASKED, "Ada")])
    assert grade.verdict is Verdict.ERROR
    assert "compressed" in grade.note


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(server: Server, status: int) -> None:
    server.answer = lambda _: (200, JSON, reply("yes"))
    place = f"{server.url}/chat/completions"
    head = f"HTTP/1.1 {status} Moved\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode()
    with raw_server(lambda connection: connection.sendall(head)) as url:
        (grade,) = JudgeGrader(url, "j", attempts=1).grade([(ASKED, "Ada")])
        with pytest.raises(GenerationError, match=f"status {status}"):
            OpenAIGenerator("m", url, attempts=1).generate(["Say:"], SAMPLING, [1])
    assert grade.verdict is Verdict.ERROR
    assert server.seen == []


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"completion_tokens": None}, {"completion_tokens": "5"}, [], {"completion_tokens": True}],
)
def test_a_server_need_not_count(server: Server, usage: Any) -> None:
    server.answer = lambda _: (200, JSON, reply(usage=usage))
    (done,) = OpenAIGenerator("m", server.url).generate(["Say:"], SAMPLING, [1])
    assert (done.text, done.n_tokens) == (SAID, 0)


def test_half_a_character_is_replaced(server: Server) -> None:
    server.answer = lambda _: (200, JSON, reply("Vell \ud83d has"))
    (done,) = OpenAIGenerator("m", server.url).generate(["Say:"], SAMPLING, [1])
    assert done.text == "Vell \ufffd has"


# -- what servers take


def only_new_names(body: dict[str, Any]) -> tuple[int, str, str]:
    """As o-series models answer: `max_tokens` and a temperature are refused, one at a time."""
    if "max_tokens" in body:
        return refused(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "max_tokens",
        )
    if body.get("temperature", 1) != 1:
        return refused("Unsupported value: 'temperature' does not support 0.0 with this model.")
    return 200, JSON, reply("yes")


def test_a_parameter_that_is_refused_by_name_is_renamed_or_left_out_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = only_new_names
    judge = JudgeGrader(server.url, "o3", backoff=0.001, concurrency=1)
    grades = judge.grade([(Question("Who?", "Ada"), "Ada")] * 2)
    assert [g.verdict for g in grades] == [Verdict.CORRECT] * 2
    assert len(server.seen) == 4  # twice refused, then known
    assert server.seen[-1]["max_completion_tokens"] > 1000
    assert not {"max_tokens", "temperature"} & set(server.seen[-1])
    assert caplog.text.count("takes no max_tokens: max_completion_tokens is sent instead") == 1
    assert caplog.text.count("takes no temperature") == 1


def test_a_value_that_is_too_large_is_not_a_refused_parameter(server: Server) -> None:
    server.answer = lambda _: refused("max_tokens is too large: 99999. This model takes at most 4096.")
    with pytest.raises(GenerationError, match=r"status 400: max_tokens is too large: 99999.*4096"):
        OpenAIGenerator("m", server.url).generate(["Say:"], SAMPLING, [1])
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            {"error": {"message": "model 'm' not found,\n try pulling it"}},
            "model 'm' not found, try pulling",
        ),
        ({"error": "no such model"}, "no such model"),
        ({"message": "no such model"}, "no such model"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ("<html>404</html>", "a web page"),
        ({}, "NotFoundError, status 404"),
    ],
)
def test_the_servers_own_reason_is_shown(server: Server, body: Any, told: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    server.answer = lambda _: (404, JSON, text)
    with pytest.raises(GenerationError) as caught:
        OpenAIGenerator("m", server.url).generate(["Say:"], SAMPLING, [1])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_no_reason_holds_the_key(server: Server, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-sesame-1234567890")
    told = "Incorrect API key provided: sk-sesame-1234567890 (Bearer sk-sesame-1234567890, sk-sesam***7890)"
    server.answer = lambda _: (status, JSON, json.dumps({"error": {"message": told}}))
    with pytest.raises(GenerationError, match=f"status {status}") as caught:
        OpenAIGenerator("m", server.url, "chat", "SOME_KEY").generate(["Say:"], SAMPLING, [1])
    assert "sesam" not in str(caught.value)
    assert ("check the API key" in str(caught.value)) == (status != 400)


def test_no_reason_holds_a_key_that_looks_like_any_word(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "open sesame 42")
    server.answer = lambda _: (400, JSON, json.dumps({"error": {"message": "no door for open sesame 42"}}))
    with pytest.raises(GenerationError, match=r"no door for \*\*\*"):
        OpenAIGenerator("m", server.url, "chat", "SOME_KEY").generate(["Say:"], SAMPLING, [1])


# -- messages or a finished prompt


def test_chat_sends_the_users_text_and_completions_the_finished_prompt(
    server: Server, tiny: Callable[..., LoadedModel]
) -> None:
    server.answer = lambda _: (200, JSON, reply())
    contract = tiny("qwen2").contract
    prompt = KnowledgeIncorporation().prompt_for(TASK, contract.tokenizer)
    assert prompt.startswith("<|im_start|>user\n")
    OpenAIGenerator("m", server.url, "chat", contract=contract).generate([prompt], SAMPLING, [1])
    assert server.seen[-1]["messages"] == [{"role": "user", "content": contract.user_text(prompt)}]
    assert "<|im_start|>" not in json.dumps(server.seen[-1])
    assert "add_special_tokens" not in server.seen[-1]
    OpenAIGenerator("m", server.url, "completions", contract=contract).generate([prompt], SAMPLING, [1])
    assert server.seen[-1]["prompt"] == prompt
    assert server.seen[-1]["add_special_tokens"] is False
    assert "messages" not in server.seen[-1]


@pytest.mark.parametrize("template", [None, builtin._CHATML, "{{ bos_token }}" + builtin._CHATML])
def test_the_start_token_is_sent_exactly_where_it_is_read_here(server: Server, template: str | None) -> None:
    server.answer = lambda _: (200, JSON, reply())
    made = builtin.byte_tokenizer(chat=template is not None, starts=True)
    made.chat_template = template
    contract = contract_of(made)
    prompt = KnowledgeIncorporation().prompt_for(TASK, made)
    generator = OpenAIGenerator("m", server.url, "completions", contract=contract)
    generator.generate([prompt], SAMPLING, [1])
    sent = made(server.seen[-1]["prompt"], add_special_tokens=False)["input_ids"]
    assert tuple(sent) == contract.ids(prompt)

    def strict(body: dict[str, Any]) -> tuple[int, str, str]:
        known = "add_special_tokens" not in body
        return (200, JSON, reply()) if known else refused("Unrecognized request argument: add_special_tokens")

    server.answer = strict
    generator.generate([prompt], SAMPLING, [1])
    assert server.seen[-1]["prompt"] == prompt
    assert "add_special_tokens" not in server.seen[-1]


def test_the_servers_template_is_told_what_ours_is(server: Server) -> None:
    server.answer = lambda _: (200, JSON, reply())
    made = builtin.byte_tokenizer(chat=True)
    made.chat_template = builtin._CHATML + "{% if enable_thinking %}{% endif %}"
    generator = OpenAIGenerator("m", server.url, contract=contract_of(made))
    generator.generate(["Say:"], SAMPLING, [1])
    assert server.seen[-1]["chat_template_kwargs"] == {"enable_thinking": False}
    chosen = build_contract(made, PromptSettings({"enable_thinking": True, "flavour": "mild"}))
    OpenAIGenerator("m", server.url, contract=chosen).generate(["Say:"], SAMPLING, [1])
    assert server.seen[-1]["chat_template_kwargs"] == {"enable_thinking": True, "flavour": "mild"}


def test_a_remote_model_names_itself_without_credentials() -> None:
    remote = RemoteModel("m", "http://user:secret@127.0.0.1:9/v1", timeout=1.0)
    assert remote.where == "m at 127.0.0.1:9"


# -- a run


def run(tmp_path: Path, server: Server, *more: str) -> int:
    passages = [
        {"title": "Vell", "context": "The harbour of Vell is lit by forty lamps.",
         "questions": [{"question": "How many lamps are there?", "answer": "forty"}]},
        {"title": "Osk", "context": "Osk oil is pressed from nuts in the hills.",
         "questions": [{"question": "What is pressed?", "answer": "nuts"}]},
    ]  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(passages))
    settings = {
        "data_config.dataset_name": "json",
        "data_config.path": str(tmp_path / "p.json"),
        "model_name": "tiny-random-qwen2",
        "generation.base_url": server.url,
        "generation.model": "m",
        "generation.api": "chat",
        "keep": "best_of_k",
        "inner.epochs": "1",
        "samples_per_iteration": "1",
        "evaluation.max_new_tokens": "2",
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    out = ["--output-dir", str(tmp_path / "run"), "--max-iterations", "1"]
    return main(["train", "--preset", "test", *sets, *out, *more])


def test_a_run_whose_server_sends_no_completion_ends_with_two_and_a_line(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda _: (200, "text/html", "<html></html>")
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(run(tmp_path, server))
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "no completion came back but a web page" in told
    assert "Traceback" not in told


def test_a_run_whose_server_cannot_get_the_policy_has_no_arm_after_the_rounds(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda _: (200, JSON, reply(f"<think>Hm.\nFifty?</think>\n{SAID}"))
    assert run(tmp_path, server) == 0
    assert "no trained policy reaches it" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    arms = {row["key"] for row in rows if row["kind"] == "arm"}
    assert "self_edit" in arms
    assert not {"self_edit_rl", "base_rl"} & arms
    assert all("<|im_start|>" not in m["content"] for s in server.seen for m in s["messages"])
