"""A vLLM server of our own is started, started anew and ended. `vllm` is a stand-in package here, in a
process of its own; `tests/slow/test_vllm.py` has the real one."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from loopback_http import JSON, answering
from seal.config import load_config
from seal.errors import ConfigError, GenerationError, RunError
from seal.models import vllm_server
from seal.models.deploy_hook import HookedServer
from seal.models.vllm_policy import VLLMPolicy, own
from seal.models.vllm_server import OwnPolicy, Served, VLLMServer
from seal.run.folder import Run

#: Says what it was given; ends at once when told to.
STAND_IN = """
import http.server, json, os, sys
words = [word for word in sys.argv[1:] if word != "--enable-lora"]
given = dict(zip(words[::2], words[1::2]))
if "--broken" in given:
    print("ValueError: no memory for the cache")
    sys.exit(3)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = {**given, "key": os.environ.get("VLLM_API_KEY"), "pid": os.getpid()}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())
    def log_message(self, *_): pass
http.server.HTTPServer((given["--host"], int(given["--port"])), Answer).serve_forever()
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which this interpreter has `vllm`, and a folder for logs."""
    place = tmp_path / "lib" / "vllm" / "entrypoints" / "openai"
    place.mkdir(parents=True)
    for folder in (place, place.parent, place.parent.parent):
        (folder / "__init__.py").touch()
    (place / "api_server.py").write_text(STAND_IN)
    source = Path(vllm_server.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'lib'}:{source}")
    return tmp_path


def told(server: VLLMServer) -> dict[str, Any]:
    with urllib.request.urlopen(server.url.removesuffix("/v1") + "/health", timeout=10) as reply:
        return dict(json.loads(reply.read()))


def a_model(folder: Path) -> str:
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return str(folder)


def test_a_server_is_started_once_for_what_it_serves_and_ended(vllm: Path) -> None:
    model = a_model(vllm / "m")
    server = VLLMServer(arguments=["--swap", "1"], key="a secret", log=vllm / "log")
    assert server.start(Served(model, "mine", 16, "float32"))
    try:
        first = told(server)
        expected = {"--model": model, "--served-model-name": "mine", "--max-lora-rank": "16", "--swap": "1"}
        assert expected.items() <= first.items()
        assert first["--host"] == "127.0.0.1"
        assert first["key"] == "a secret"
        assert not server.start(Served(model, "mine", 16, "float32"))
        assert told(server)["pid"] == first["pid"]
        assert server.start(Served(model, "mine", 32, "float32"))
        assert told(server)["pid"] != first["pid"]
    finally:
        server.stop()
    with pytest.raises(OSError, match="refused"):
        told(server)
    assert not server.running()


def test_what_does_not_start_says_why(vllm: Path) -> None:
    served = Served(a_model(vllm / "m"), "mine")
    broken = VLLMServer(arguments=["--broken", "1"], log=vllm / "log")
    with pytest.raises(GenerationError, match=r"status 3: ValueError: no memory for the cache \(.*log\)"):
        broken.start(served)
    with pytest.raises(ConfigError, match="/nowhere/python cannot be run"):
        VLLMServer("/nowhere/python").start(served)


def test_an_interpreter_without_vllm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has no vLLM \(install vLLM"):
        vllm_server.require_vllm(sys.executable)


def test_serve_model_serves_until_it_is_told_to_end(vllm: Path) -> None:
    model = a_model(vllm / "m")
    command = [sys.executable, "-m", "seal", "serve-model", model, "--engine", "vllm", "--port", "0"]
    verb = subprocess.Popen([*command, "--max-lora-rank", "100"], stdout=subprocess.PIPE, text=True)
    try:
        assert verb.stdout is not None
        url = verb.stdout.readline().split()[0]
        with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=10) as reply:
            assert json.loads(reply.read())["--max-lora-rank"] == "128"
        verb.send_signal(signal.SIGTERM)
        assert verb.wait(60) == 0
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(url, timeout=10)
    finally:
        verb.kill()
        verb.communicate()


class Recorded:
    """A server that notes what it was started with, and the client's loads."""

    url = "http://127.0.0.1:9/v1"

    def __init__(self) -> None:
        self.served: Served | None = None
        self.starts: list[Served] = []

    def start(self, what: Served) -> bool:
        if self.served == what:
            return False
        self.served = what
        self.starts.append(what)
        return True

    def stop(self) -> None:
        self.served = None


@pytest.fixture
def adapters(tmp_path: Path) -> Any:
    def adapter(rank: int) -> Path:
        folder = tmp_path / f"r{rank}"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
        return folder

    return adapter


def test_a_server_makes_room_for_ranks_and_is_started_anew_after_some_loads(
    tiny: Any, adapters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLLMPolicy, "load", lambda self, folder, label, policy: f"{self.base}:{folder.name}")
    monkeypatch.setattr(VLLMPolicy, "first", lambda self, policy: self.base)
    policy, server = tiny(), Recorded()
    served = OwnPolicy(server, "m", rank=10, restart_after=2)  # type: ignore[arg-type]
    assert served.first(policy) == "m"
    assert [served.load(adapters(rank), "x", policy) for rank in (10, 16)] == ["m:r10", "m:r16"]
    assert [s.rank for s in server.starts] == [16]
    served.load(adapters(16), "x", policy)
    assert [s.rank for s in server.starts] == [16, 16], "after two loads"
    served.load(adapters(300), "x", policy)
    assert [s.rank for s in server.starts] == [16, 16, 512]
    name = served.load(adapters(513), "run", policy)
    assert name.startswith("run-")
    assert server.starts[-1] == Served(policy.source, name, 512, "float32"), "the checkpoint itself"
    served.close()
    assert server.served is None


HOOK = """
import json, sys, urllib.request
body = json.dumps({"lora_name": sys.argv[3], "lora_path": sys.argv[2]}).encode()
urllib.request.urlopen(urllib.request.Request(sys.argv[1], body))
"""


@pytest.mark.parametrize("tells", [True, False])
def test_a_hook_brings_the_policy_and_is_believed_when_it_is_there(
    tells: bool, tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, policy, brought = tiny(), tiny(), []
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(1.5)
    state = {"serves": policy}

    def answer(path: str, _: Any, body: Any) -> tuple[int, str, str]:
        if path == "/deploy":
            brought.append(body)
            return 200, JSON, "{}"
        if path == "/v1/models":
            return 200, JSON, json.dumps({"data": [{"id": b["lora_name"]} for b in brought]})
        model = base if body["model"] == "base" else state["serves"]
        values = [None, *own(model), -1.0]
        told = {"token_logprobs": values} if tells else None
        return 200, JSON, json.dumps({"choices": [{"logprobs": told}]})

    (tmp_path / "hook.py").write_text(HOOK)
    with answering(answer) as address:
        hook = shlex.join([sys.executable, str(tmp_path / "hook.py"), f"{address}/deploy"])
        server = HookedServer(hook, VLLMPolicy(f"{address}/v1", "base"))
        assert server.first(base) == "base"
        name = server.load(tmp_path, "run-1", policy)
        assert brought == [{"lora_name": name, "lora_path": str(tmp_path)}]
        assert ("was not compared" in caplog.text) is not tells
        server.remove()
        if tells:
            state["serves"] = base
            with pytest.raises(GenerationError, match="still serves the base model"):
                server.load(tmp_path, "run-1", policy)
        idle = HookedServer("true", VLLMPolicy(f"{address}/v1", "base"))
        with pytest.raises(GenerationError, match="does not list it"):
            idle.load(tmp_path, "run-1", policy)
        for command, said in (("false", "ended with status 1"), ("/nowhere/hook", "cannot be run: No such")):
            with pytest.raises(GenerationError, match=said):
                HookedServer(command, VLLMPolicy(f"{address}/v1", "base")).load(tmp_path, "run-1", policy)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "vllm", "base_url": "http://a/v1"}, "starts a server itself"),
        ({"follow": "lora"}, "follow needs `base_url`"),
        ({"deploy_hook": "hook"}, "deploy_hook needs `base_url`"),
        ({"deploy_hook": "a 'b", "base_url": "http://a/v1"}, "is no command"),
        ({"deploy_hook": "  ", "base_url": "http://a/v1"}, "must be a command"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(overrides={"generation": settings})


def test_programs_of_a_run_that_was_begun_elsewhere_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settings file that came with somebody's folder starts no program."""
    config = load_config(
        overrides={"generation": {"base_url": "http://127.0.0.1:9/v1", "deploy_hook": "sh -c 'rm -rf ~' x"}}
    )
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "theirs"))
    Run.create(tmp_path / "run", config).close()
    Run.open(tmp_path / "run").close()
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "mine"))
    with pytest.raises(RunError, match=r"begun elsewhere asks for code: generation\.deploy_hook"):
        Run.open(tmp_path / "run")
    Run.open(tmp_path / "run", accept_settings=True).close()
    Run.open(tmp_path / "run").close()
