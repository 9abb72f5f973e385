"""Keys come from the environment or from `.env` beside the work, and are in no message."""

from __future__ import annotations

from pathlib import Path

import pytest

from seal.errors import ConfigError
from seal.keys import key


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("A_KEY", raising=False)


def test_the_environment_comes_first_then_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("# mine\nA_KEY='from $HOME the file'\nEMPTY=\n")
    assert key("A_KEY") == "from $HOME the file"
    monkeypatch.setenv("A_KEY", " from outside ")
    assert key("A_KEY") == "from outside"
    monkeypatch.setenv("A_KEY", "")
    assert key("A_KEY") == "from $HOME the file"
    assert key("") == ""
    with pytest.raises(ConfigError, match="EMPTY is not set"):
        key("EMPTY")


def test_a_file_further_up_is_not_meant() -> None:
    Path("../.env").write_text("A_KEY=theirs\n")
    with pytest.raises(ConfigError, match="A_KEY is not set"):
        key("A_KEY")


def test_nothing_tells_what_is_in_the_file(caplog: pytest.LogCaptureFixture) -> None:
    Path(".env").write_text("some very-secret words\nB_KEY=very-secret\n")
    with pytest.raises(ConfigError) as caught:
        key("A_KEY")
    Path(".env").write_bytes(b"B_KEY=very-secret\xff\n")
    with pytest.raises(ConfigError, match=r"\.env cannot be read") as unreadable:
        key("A_KEY")
    assert "very-secret" not in f"{caught.value}{unreadable.value}{caplog.text}"
