"""YAML and JSON files read with the line of every key, so that an error can point at it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seal.errors import ConfigError
from seal.yaml_scalars import Dumper, Loader

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BROKEN = (
    *(yaml.YAMLError, ValueError, LookupError, TypeError),
    *(AttributeError, ArithmeticError, RecursionError),
)
"""What PyYAML raises: its own errors, and those of its constructors for a value that its tag belies."""
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A mapping read from a file, and where its keys stand."""

    name: str
    values: dict[str, Any]
    """What YAML's versions read differently is a `Doubtful`."""
    lines: dict[KeyPath, int]
    """Line (from 1) of every key and list item."""
    problems: tuple[str, ...] = ()
    """Duplicate keys and keys that are not text, each with file and line."""


def read(path: Path) -> Document:
    """Read a `.json` file as JSON and any other as YAML. Raises `ConfigError` with file and line."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "give a readable UTF-8 file") from None
    return parse(text, str(path), as_json=path.suffix.lower() == ".json")


def parse(text: str, name: str, as_json: bool = False) -> Document:
    """Parse `text`; `name` stands for the file in messages."""
    if as_json:
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            cause = f"{name}:{error.lineno}: malformed JSON: {error.msg} (column {error.colno})"
            raise ConfigError(cause, "correct the file") from None
        except (ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, ValueError) else "nested too deeply"
            raise ConfigError(f"{name}:1: malformed JSON: {why}", "correct the file") from None
        try:
            _, node = _compose(
                text.replace("\t", " "), name
            )  # JSON allows tabs between tokens, YAML does not
        except ConfigError:
            node = None
    else:
        values, node = _compose(text, name)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{name}:1: holds {type(values).__name__}, not settings", "write `name: value` lines"
        )
    lines: dict[KeyPath, int] = {}
    problems: list[str] = []
    if node is not None:
        _walk(node, (), lines, problems, name, set())
    values = {key: value for key, value in values.items() if isinstance(key, str)}  # the others are problems
    return Document(name, values, lines, tuple(problems))


def scalar(text: str) -> Any:
    """The value that `text` has in YAML (`3`, `1e-4`, `true`, `[a, b]`); text that is no YAML is itself.

    What YAML's versions read differently is a `Doubtful`.
    """
    try:
        return _tree(yaml.load(text, Loader=Loader))
    except _BROKEN:
        return text


def dump(values: Any) -> str:
    """YAML text that `parse` reads back as the same values."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def _compose(text: str, name: str) -> tuple[Any, yaml.Node | None]:
    loader = None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        return (None if node is None else _tree(loader.construct_document(node))), node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: malformed YAML: {error.problem}", "correct the file") from None
    except _BROKEN as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{name}: malformed YAML: {cause}", "correct the file") from None
    finally:
        if loader is not None:
            loader.dispose()


def _tree(value: Any) -> Any:
    """`value`, unless an alias in it stands within what it names. Raises `ValueError`."""
    json.dumps(value, default=str, skipkeys=True)
    return value


def _walk(
    node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], problems: list[str], name: str, seen: set[int]
) -> None:
    if id(node) in seen:  # an alias: its keys already have their lines
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        own: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                problems.append(f"{name}:{line}: the key {key!r} is not text; put it in quotes")
            if key in own:
                problems.append(f"{name}:{line}: {key!r} is given twice, first on line {own[key]}; keep one")
            own.setdefault(key, line)
            lines.setdefault((*at, key), line)
            _walk(value_node, (*at, key), lines, problems, name, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*at, index)] = item.start_mark.line + 1
            _walk(item, (*at, index), lines, problems, name, seen)
