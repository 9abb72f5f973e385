"""Checkpoints that are only a pickle: read as weights alone, converted once, refused with code in them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loopback_hub import loopback_hub
from seal.errors import ModelError
from seal.models.load import LoadedModel, load_model, require_model
from seal.models.pickled import WEIGHTS, as_safetensors

Tiny = Callable[..., LoadedModel]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "cache"))


def pickled(loaded: LoadedModel, folder: Path, extra: dict[str, object] | None = None) -> Path:
    """`loaded` as old checkpoints are published: one pickle, with buffers that nobody needs any more."""
    folder.mkdir(parents=True)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({**loaded.model.state_dict(), **(extra or {})}, folder / WEIGHTS)
    return folder


def test_the_weights_come_over_and_are_converted_once(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = tiny("gpt2")
    old = pickled(loaded, tmp_path / "m", {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)})
    caplog.set_level(logging.INFO, "seal")
    folder = as_safetensors(old, "microsoft/DialoGPT-medium")
    assert as_safetensors(old, "microsoft/DialoGPT-medium") == folder
    said = [r.getMessage() for r in caplog.records if "pickle" in r.getMessage()]
    assert len(said) == 1, "converted once, said in one line"
    assert said[0].startswith("microsoft/DialoGPT-medium is published as a pickle")
    assert str(folder) in said[0]
    new = load_model(str(folder), "cpu", "float32")
    ids = torch.tensor([[72, 101, 108, 108, 111]])
    assert torch.equal(new.model(ids).logits, loaded.model(ids).logits)
    assert new.tokenizer("Hello")["input_ids"] == loaded.tokenizer("Hello")["input_ids"]


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_pickle_with_code_in_it_is_refused_and_runs_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = pickled(tiny("gpt2"), tmp_path / "m", {"evil": Evil()})
    with pytest.raises(ModelError, match="no plain pickle of weights"):
        as_safetensors(old, "owner/evil")
    assert not (tmp_path / "pwned").exists()


def test_a_pickle_without_all_weights_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    old = pickled(tiny("gpt2"), tmp_path / "m")
    torch.save({"transformer.wte.weight": torch.zeros(260, 64)}, old / WEIGHTS)
    with pytest.raises(ModelError, match=r"lacks .* weights"):
        as_safetensors(old, "owner/half")


def test_pickles_in_folders_are_still_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pickled weights are not loaded"):
        load_model(str(pickled(tiny("gpt2"), tmp_path / "m")))


def _online(code: str, tmp_path: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where the hub is at `url`: this process has it switched off."""
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


REQUIRE = """
import time
from seal.errors import ModelError
from seal.models.load import require_model
import huggingface_hub, huggingface_hub.hf_api
start = time.monotonic()
try:
    require_model({name!r})
    print("found")
except ModelError as error:
    print(error)
print(time.monotonic() - start)
"""


@pytest.mark.slow
def test_a_pickle_of_the_hub_is_fetched_and_converted(tiny: Tiny, tmp_path: Path) -> None:
    pickled(tiny("gpt2"), tmp_path / "hub/models/owner/old")
    with loopback_hub(tmp_path / "hub") as (hub, url):
        done = _online(REQUIRE.format(name="owner/old"), tmp_path, url)
        assert done.stdout.startswith("found"), done.stdout + done.stderr
        assert any(path.endswith(WEIGHTS) for path in hub.asked)
        missing = _online(REQUIRE.format(name="owner/none"), tmp_path, url)
        assert missing.stdout.startswith("the Hugging Face hub has no model owner/none"), missing.stdout
    again = _online(REQUIRE.format(name="owner/old"), tmp_path, "http://127.0.0.1:9")
    assert again.stdout.startswith("found"), "what was fetched once needs no network"


def test_a_hub_that_does_not_answer_is_given_up_soon(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = _online(REQUIRE.format(name="microsoft/DialoGPT-medium"), tmp_path, url)
    message, seconds = done.stdout.strip().splitlines()
    assert "the Hugging Face hub cannot be reached" in message
    assert "hf download microsoft/DialoGPT-medium" in message
    assert float(seconds) < 10


def test_a_model_that_cannot_be_had_is_found_out_before_data_is_read(tmp_path: Path) -> None:
    from seal.config import load_config
    from seal.framework import SEALFramework
    from seal.run.folder import Run

    changes = {"model_name": "owner/none", "data_config.path": str(tmp_path / "absent.json")}
    config = load_config(None, "test", {**changes, "data_config.dataset_name": "json"})
    start = time.monotonic()
    with (
        Run.create(tmp_path / "run", config) as run,
        pytest.raises(ModelError, match=r"owner/none") as caught,
    ):
        SEALFramework(config, run)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="device"):
        require_model("tiny-random-gpt2", "cuda:99")
