"""Secrets that are planted wherever a run can meet them stand in nothing that it or a tracker writes."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from loopback_http import JSON, answering

pytestmark = pytest.mark.slow

SECRETS = {
    "WRITER_API_KEY": "sk-planted0writer0key",
    "JUDGE_API_KEY": "planted1judge1key",
    "HF_TOKEN": "hf_planted2hub2token",
    "WANDB_API_KEY": "9planted3wandb3key" + "3" * 22,
    "MLFLOW_TRACKING_PASSWORD": "planted4mlflow4password",
    "AWS_SECRET_ACCESS_KEY": "planted5cloud5key",
    "MY_SECRET": "planted6own6secret",
    "HTTPS_PROXY": "http://me:planted7proxy7password@127.0.0.1:9",
    "DATABASE_URL": "postgres://me:planted8database8password@127.0.0.1:9/runs",
}
PLANTED = [
    value.partition("//me:")[2].partition("@")[0] if "//" in value else value for value in SECRETS.values()
]
TRACKERS = [n for n in ("tensorboard", "trackio", "mlflow", "wandb") if importlib.util.find_spec(n)]
SETTINGS = {
    "generation.model": "m", "generation.api_key_env": "WRITER_API_KEY", "generation.max_attempts": 2,
    "generation.api": "chat", "generation.max_new_tokens": 16, "evaluation.max_new_tokens": 4,
    "grader.kind": "judge", "grader.model": "m", "grader.api_key_env": "JUDGE_API_KEY",
    "inner.epochs": 1, "trackers": TRACKERS,
}  # fmt: skip
#: Settings that would carry a secret into files, and what is wrong with each.
BAD: dict[str, dict[str, Any]] = {
    "an address": {"generation.base_url": "http://me:planted9address@127.0.0.1:9/v1"},
    "a query": {"grader.base_url": "http://127.0.0.1:9/v1?api_key=planted9address"},
    "a fragment": {"grader.base_url": "http://127.0.0.1:9/v1#planted9address"},
    "a path": {"data_config.path": "https://me:planted9address@127.0.0.1:9/data.json"},
    "a project": {"wandb_project": f"runs-{SECRETS['MY_SECRET']}"},
    "a hook": {
        "generation.base_url": "http://127.0.0.1:9/v1", "generation.model": "m",
        "generation.deploy_hook": f"deploy --token {SECRETS['MY_SECRET']}",
    },
    "an argument of the template": {"generation.template_arguments": {"who": SECRETS["MY_SECRET"]}},
}  # fmt: skip


class Command(NamedTuple):
    """How a command ended."""

    code: int
    said: str


class Seal:
    """Commands of one user, whose home, caches and temporary files are below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = {"HOME": "home", "TMPDIR": "tmp", "SEAL_CACHE": "cache", "TRACKIO_DIR": "trackio"}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "WANDB_"))
        } | SECRETS | {name: str(folder / place) for name, place in places.items()}  # fmt: skip
        self.environment |= {
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "WANDB_MODE": "offline",
            "MLFLOW_TRACKING_USERNAME": "me", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        for place in places.values():
            (folder / place).mkdir()

    def __call__(self, *words: str) -> Command:
        done = subprocess.run(
            [sys.executable, "-m", "seal", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        (self.folder / f"said-{len(list(self.folder.glob('said-*')))}").write_text(done.stdout + done.stderr)
        return Command(done.returncode, done.stdout + done.stderr)


class Server:
    """Writes and judges; while `hostile` it tells everybody the key that it was sent."""

    def __init__(self) -> None:
        self.hostile = ""
        self.turn, self.told = 0, 0
        self.lock = threading.Lock()

    def __call__(self, path: str, headers: HTTPMessage, asked: Any) -> tuple[int, str, str]:
        key = str(headers["authorization"]).removeprefix("Bearer ")
        writes = key == SECRETS["WRITER_API_KEY"]
        assert writes or key == SECRETS["JUDGE_API_KEY"]
        with self.lock:
            self.turn += 1
            turn = self.turn
            self.told += self.hostile == ("writer" if writes else "judge")
        if self.hostile == "writer" and writes:
            status = (401, 500, 422)[turn % 3]
            return status, JSON, json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}})
        text = f"The {turn}th.\nIt is so." if writes else "yes"
        if self.hostile == "judge" and not writes:
            text = f"I cannot judge with the key {key}."
            if turn % 3:
                return (400, 503)[turn % 2], "text/html", f"<html>{text} Authorization: Bearer {key}"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        return 200, JSON, json.dumps(whole | {"choices": [choice], "usage": usage})


def leaks(folder: Path, secrets: list[str]) -> Iterator[str]:
    """Where a secret stands, as it is or in base64."""
    forms = {s: (s.encode(), base64.b64encode(s.encode())[:-4]) for s in secrets}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = file.read_bytes()
        for secret, both in forms.items():
            if any(form in content for form in both):
                yield f"{secret} in {file.relative_to(folder)}"


def sets(settings: dict[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def test_no_secret_is_written(tmp_path: Path, told: Callable[..., None]) -> None:
    seal, server = Seal(tmp_path), Server()
    with answering(server) as address:
        settings = SETTINGS | dict.fromkeys(("generation.base_url", "grader.base_url"), f"{address}/v1")
        server.hostile = "writer"
        words = ["train", "--preset", "test", "--output-dir", "run", "--log-level", "DEBUG", *sets(settings)]
        assert (first := seal(*words)).code == 2, first.said
        for server.hostile, code in (("writer", 2), ("judge", 2), ("", 0)):
            ended = seal("resume", "run")
            assert ended.code == code, ended.said
        assert seal("report", "run").code == 0
    for name in TRACKERS:
        found = [p for p in tmp_path.rglob("*") if p.is_file() and name in str(p.relative_to(tmp_path))]
        assert found, f"{name} wrote nothing"
    assert server.told > 10
    assert [*leaks(tmp_path, PLANTED)] == []
    told(secrets=len(PLANTED), key_told_by_a_server=server.told)
    told(trackers=len(TRACKERS), files=sum(p.is_file() for p in tmp_path.rglob("*")))


def test_a_setting_that_holds_a_secret_is_refused(tmp_path: Path, told: Callable[..., None]) -> None:
    """Before anything of it is written."""
    seal = Seal(tmp_path)
    passage = {"title": "t", "context": "It is so.", "questions": [{"question": "Is it?", "answer": "so"}]}
    (tmp_path / "data.json").write_text(json.dumps([passage | {"completions": ["It is."]}]))
    for name, settings in BAD.items():
        ended = seal("train", "--preset", "test", "--output-dir", "run", *sets(settings))
        assert ended.code == 2, name
        assert ended.said.count("\n") == 1, ended.said
        assert not (tmp_path / "run").exists(), name
    out = f"{SECRETS['MY_SECRET']}.json"
    ended = seal("query", "--data", "data.json", "--out", out, "--local", "tiny-random-llama")
    assert ended.code == 2
    assert "holds a password or key" in ended.said
    assert [*leaks(tmp_path, [*PLANTED, "planted9address"])] == []
    assert not [p for p in tmp_path.rglob("*") if "planted" in p.name]
    told(settings=len(BAD), command=1)
