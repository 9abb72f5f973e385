"""Classes of the user's own, named in a config as `package.module:Class` or by an installed package.

A package offers a class under a short name with an entry point, in `pyproject.toml`:

    [project.entry-points."seal.domains"]
    riddles = "seal_riddles:Riddles"
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from seal.errors import ConfigError

DOMAINS, REWARDS, LOADERS = "seal.domains", "seal.rewards", "seal.loaders"
"""Entry-point groups."""


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


def offered(group: str) -> list[str]:
    """Names that installed packages offer in an entry-point group, sorted."""
    return sorted({point.name for point in metadata.entry_points(group=group)})


def load_named(group: str, name: str) -> Any:
    """What an import path names, or what an installed package offers in `group` under `name`.

    Raises:
        ConfigError: there is no such class, two packages offer one, or it cannot be imported.
    """
    if is_import_path(name):
        return load_object(name)
    points = {point.value: point for point in metadata.entry_points(group=group, name=name)}
    if not points:
        known = ", ".join(offered(group)) or "none"
        raise ConfigError(
            f"no installed package offers {name!r} (entry points of {group}: {known})",
            "install the package, or write package.module:Class",
        )
    if len(points) > 1:
        raise ConfigError(f"{name!r} is offered by {' and '.join(sorted(points))}", "write one of them")
    (point,) = points.values()
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name!r} ({point.value}) cannot be loaded: {error}", "repair it") from error


def load_kind(group: str, name: str, what: str, base: type | None = None, method: str = "") -> Any:
    """The class (or object) that `name` stands for, if it is one of `base`, or has `method`.

    Nothing else is ever called: a config file from elsewhere may name any function there is.

    Raises:
        ConfigError: as `load_named`, or it is no such class.
    """
    found = load_named(group, name)
    kind = found if isinstance(found, type) else type(found)
    if base is not None and not issubclass(kind, base):
        raise ConfigError(f"{name} is not a {what}", f"make it a subclass of seal.{base.__name__}")
    if method and not callable(getattr(kind, method, None)):
        raise ConfigError(f"{name} is not a {what}", f"name a class with {method}()")
    return found


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
