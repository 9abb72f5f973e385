"""The site: built strictly, with every public name on the page of the Python interface."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(seal.__file__).parents[2]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the docs extra is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in set(seal.__all__) - {"__version__"}:
        assert re.search(rf'id="seal\.[\w.]+\.{name}"', page), name
    links = re.findall(r'href="([^":#]+)["#]', (tmp_path / "site" / "index.html").read_text(encoding="utf-8"))
    assert [link for link in links if not (tmp_path / "site" / link).exists()] == []
    notebook = (tmp_path / "site" / "notebooks" / "knowledge" / "index.html").read_text(encoding="utf-8")
    assert "held-out" in notebook
    outside = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css))"', page)
    assert outside == []
