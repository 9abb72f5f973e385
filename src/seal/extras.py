"""What is optional in an installation: the packages of each extra, and the command that brings them.

The distribution is called `seal-lm` (the name `seal` on the package index is another project's); what is
imported and typed is `seal`.
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from seal.errors import MissingExtra

DISTRIBUTION = "seal-lm"

MODULES = {
    "openai": "remote",
    "tenacity": "remote",
    "dotenv": "remote",
    "zmq": "serving",
    "starlette": "serving",
    "uvicorn": "serving",
    "pypdf": "documents",
    "docx": "documents",
    "markdownify": "documents",
    "bs4": "documents",
    "semantic_text_splitter": "documents",
    "charset_normalizer": "documents",
    "matplotlib": "plots",
    "deepspeed": "deepspeed",
    "ray": "ray",
    "torchao": "quantised",
    "bitsandbytes": "quantised",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
"""Every module that an extra brings and our code imports, with the extra's name in `pyproject.toml`."""


def need(module: str, use: str) -> Any:
    """Import a module of an extra, before the code that works with it.

    Args:
        module: a key of `MODULES`.
        use: what needs it, as the subject of a sentence.

    Raises:
        MissingExtra: it cannot be imported; the fix is the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        why = "is not installed" if absent else f"cannot be imported: {error}"
        raise MissingExtra(f"{use} needs {module}, which {why}", f"run: {install(MODULES[module])}") from None


def install(extra: str = "") -> str:
    """The command that brings an extra (or, with none, every run-time dependency) into this environment.

    Into an environment of uv or pipx too it is added: to install the tool anew would take away the other
    extras, the build of torch that was chosen, and the built-in model.
    """
    target = _source() + (f"[{extra}]" if extra else "")
    editable = " -e" if _direct().get("dir_info", {}).get("editable") else ""
    return f"{pip_install()}{editable} {shlex.quote(target)}"


def pip_install() -> str:
    """The command that puts a package into the environment that this Python runs in."""
    if not find_spec("pip"):
        return f"uv pip install --python {shlex.quote(sys.executable)}"
    a_tools_own = (Path(sys.prefix) / "pipx_metadata.json").exists()  # its pip is not the one on the path
    return f"{shlex.quote(sys.executable)} -m pip install" if a_tools_own else "pip install"


def _source() -> str:
    """What was installed: the folder or file of a local installation, else the name on the index."""
    url = urlsplit(str(_direct().get("url", "")))
    if url.scheme != "file":
        return DISTRIBUTION
    path = unquote(url.path)
    return "." if Path(path) == Path.cwd() else path


def _direct() -> dict[str, Any]:
    """Where pip took the distribution from (PEP 610); empty: from an index."""
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    return dict(json.loads(text)) if text else {}
