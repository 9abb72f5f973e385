"""On a GPU neither launches a layer nor waits for the device grow with the number of adapters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
#: Launches a layer: what the issue of an idle GPU begins at, with some room for other releases of torch.
MOST = {"training": 180, "prefill": 150, "decoding": 80}


def count(device: str, *adapters: str, **environment: str) -> dict[str, dict[str, float]]:
    """By number of adapters, in a process of its own: counting replaces parts of torch."""
    command = [sys.executable, str(ROOT / "tests" / "launches.py"), device, *adapters]
    paths = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": paths} | environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, dict[str, float]]) -> None:
    for part, most in MOST.items():
        for name in (part, f"{part}, fixed"):  # a layer's, and the rest: the optimiser's and the head's
            assert {n: counted[name] for n, counted in found.items()} == dict.fromkeys(
                found, found["1"][name]
            )
        assert found["1"][part] <= most
        assert {counted[f"{part}, syncs"] for counted in found.values()} == {1}


def test_launches_do_not_grow_with_adapters() -> None:
    """By shapes alone, which any machine can compute."""
    check(count("meta", "1", "8", "32"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_launches_on_fake_cuda_tensors(shared: Path, tmp_path: Path) -> None:
    """The same where tensors say that they are on CUDA; the stand-in for its driver is compiled here."""
    source, compiler = shared / "tools" / "fake_cuda" / "guard.cpp", shutil.which("g++")
    if compiler is None or not source.is_file() or torch.version.cuda is not None:
        pytest.skip("fake CUDA needs g++, ../shared/tools/fake_cuda and a torch without CUDA")
    home, guard = Path(torch.__file__).parent, tmp_path / "guard.so"
    include = [f"-I{home}/include", f"-I{home}/include/torch/csrc/api/include"]
    link = [f"-L{home}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{home}/lib"]
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", *include, str(source), "-o", str(guard)]
    subprocess.run(command + link, check=True, capture_output=True)
    check(count("cuda", "1", "8", LD_PRELOAD=str(guard)))
