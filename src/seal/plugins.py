"""Classes of the user's own, named in a config as `package.module:Class`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from seal.errors import ConfigError


def is_import_path(name: str) -> bool:
    """Whether `name` has the form `package.module:Name`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(p.isidentifier() for p in module.split("."))


def load_object(path: str) -> Any:
    """What `package.module:Name` names; modules in the working directory are found too.

    Raises:
        ConfigError: the path is malformed, or the module or the name does not exist.
    """
    if not is_import_path(path):
        raise ConfigError(f"{path!r} is not an import path", "write it as package.module:Class")
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"cannot import {module_name!r}: {error}", "check the path") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"module {module_name!r} has no {attribute!r}", "check the name after the colon")
    return getattr(module, attribute)


def taken(factory: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those `options` that the signature of `factory` takes; an instance takes none."""
    if not callable(factory):
        return {}
    accepted = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    return {k: v for k, v in options.items() if takes_any or k in accepted}


def build(factory: Any, **options: Any) -> Any:
    """Call `factory` with those `options` that its signature takes; an instance is returned as it is."""
    return factory(**taken(factory, options)) if callable(factory) else factory
