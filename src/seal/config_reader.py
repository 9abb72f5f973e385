"""Settings from presets, YAML or JSON files, and flags, checked by a schema.

Unknown keys and values out of range are refused, all at once, each with file and line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from seal import yaml_lines
from seal.errors import ConfigError
from seal.yaml_lines import Document, KeyPath
from seal.yaml_scalars import NO_READING, Doubtful

Schema = TypeVar("Schema", bound=BaseModel)


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("seal") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML text of a preset. Raises `ConfigError` for an unknown name."""
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}? The presets are " if near else "choose one of "
        raise ConfigError(f"no preset is called {name!r}", hint + ", ".join(names))
    return (resources.files("seal") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def read(
    schema: type[Schema],
    path: str | Path | None = None,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Schema:
    """Settings from a preset, over them a YAML or JSON file, over them `overrides`.

    Args:
        schema: what there is to be set.
        path: a file; it may name its base with `preset: NAME`.
        preset: name of a preset; goes before the one that the file names.
        overrides: values by dotted name, such as `{"inner.epochs": 3}`.

    Raises:
        ConfigError: with every mistake, one a line, each with file and line where it has one.
    """
    file = yaml_lines.read(Path(path)) if path is not None else None
    problems = list(file.problems) if file else []
    settings: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    named = file.values.pop("preset", None) if file else None
    base = preset or named
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(
                f"preset must be a name, given {base!r}", "choose one of " + ", ".join(preset_names())
            )
        _merge(settings, origins, yaml_lines.parse(preset_text(base), f"preset {base}"))
    if file:
        _merge(settings, origins, file)
    for name, value in (overrides or {}).items():
        keys = tuple(name.split("."))
        _put(settings, keys, value)
        origins[keys] = "flag"
    settings = _settled(settings, schema, (), origins, problems)
    try:
        config = schema.model_validate(settings)
    except ValidationError as error:
        problems += [_explain(one, schema, origins) for one in error.errors()]
    if problems:
        problems.sort(key=_line)
        head = "" if len(problems) == 1 else f"{len(problems)} settings are wrong\n  "
        raise ConfigError(head + "\n  ".join(problems))
    return config


def _line(problem: str) -> int:
    number = re.match(r".*?:(\d+): ", problem)
    return int(number[1]) if number else 0


def _merge(settings: dict[str, Any], origins: dict[KeyPath, str], document: Document) -> None:
    """Lay a document over `settings`: mappings merge, everything else replaces."""

    def over(target: dict[str, Any], source: dict[str, Any]) -> None:
        for key, value in source.items():
            if isinstance(value, dict) and isinstance(target.get(key), dict):
                over(target[key], value)
            else:
                target[key] = value

    over(settings, document.values)
    origins.update({at: f"{document.name}:{line}" for at, line in document.lines.items()})


def _put(settings: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        if not isinstance(settings.get(key), dict):
            settings[key] = {}
        settings = settings[key]
    settings[keys[-1]] = value


def _settled(
    value: Any, schema: type[BaseModel], at: KeyPath, origins: Mapping[KeyPath, str], problems: list[str]
) -> Any:
    """`value` with every `Doubtful` in it as the text or value that the setting takes.

    Where that cannot be told it is left out, and said among `problems`.
    """
    if isinstance(value, dict):
        settled = {key: _settled(each, schema, (*at, key), origins, problems) for key, each in value.items()}
        return {key: each for key, each in settled.items() if each is not NO_READING}
    if isinstance(value, list | tuple):
        parts = [_settled(each, schema, (*at, i), origins, problems) for i, each in enumerate(value)]
        return [each for each in parts if each is not NO_READING]
    if not isinstance(value, Doubtful):
        return value
    kinds = _kinds(schema, at)
    absent = type(None) in kinds
    if not kinds:
        return str(value)  # an unknown setting, which is refused as such
    if str in kinds and (value.is_number or not (absent or value == "~")):
        return str(value)
    if not kinds & {str, Any} and value.reading is not NO_READING:
        return value.reading
    if Any in kinds and value == "~":
        return None
    problems.append(f"{_where(at, origins)}{'.'.join(map(str, at))}: {_doubt(value, kinds)}")
    return NO_READING


def _doubt(value: Doubtful, kinds: set[Any]) -> str:
    """What to write instead of `value`, where it cannot be told what is meant."""
    quotes = ", or put it in quotes" if kinds & {str, Any} else ""
    if value.is_number:
        return f"{value} is another number to other readers of YAML; write plain digits{quotes}"
    if value.reading in (True, False):
        return f"{value} is a truth to some readers of YAML and a text to others; write " + (
            f"null{quotes}" if str in kinds else f"true or false{quotes}"
        )
    return f"{value} is nothing to some readers of YAML and a text to others; write null{quotes}"


def _kinds(schema: type[BaseModel], at: KeyPath) -> set[Any]:
    """The types that a setting takes, the parts of unions one by one; none for an unknown setting."""
    kinds: set[Any] = {schema}
    for key in at:
        kinds = {part for kind in kinds for part in _parts(_below(kind, key))}
    return kinds


def _below(kind: Any, key: str | int) -> Any:
    """The type of what stands under `key` in a value of type `kind`; None where there is no such key."""
    if kind is Any:
        return Any
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[str(key)].annotation if key in kind.model_fields else None
    inside = get_args(kind)
    if get_origin(kind) is dict:
        return inside[1]
    return inside[0] if get_origin(kind) is tuple and isinstance(key, int) else None


def _parts(kind: Any) -> set[Any]:
    if kind is None:
        return set()
    if get_origin(kind) is Annotated:
        return _parts(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return {part for each in get_args(kind) for part in _parts(each)}
    return {kind}


def _where(at: KeyPath, origins: Mapping[KeyPath, str]) -> str:
    """`file:line: ` of a setting, or of the nearest one above or else below it."""
    above = (at[:i] for i in range(len(at), 0, -1) if at[:i] in origins)
    below = (key for key in origins if key[: len(at)] == at)
    found = next(above, None) or next(below, None)
    return f"{origins[found]}: " if found is not None else ""


def _explain(error: Any, schema: type[BaseModel], origins: Mapping[KeyPath, str]) -> str:
    """One line for one of pydantic's errors: where, which setting, what is wrong, what was given."""
    loc: KeyPath = error["loc"]
    where = _where(loc, origins)
    name = ".".join(map(str, loc))
    if error["type"] == "extra_forbidden":
        return f"{where}unknown setting {name!r}{_nearest(schema, loc)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = repr(error["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    about = f"{name}: " if name else ""
    bare = error["type"] == "string_type" and isinstance(error["input"], bool | int | float)
    fix = "; put it in quotes" if bare else ""
    told = not isinstance(error["input"], dict) and "password" not in message  # a secret is not shown again
    return f"{where}{about}{message}" + (f", given {shown}{fix}" if told else "")


def _sections(schema: type[BaseModel]) -> dict[str, type[BaseModel]]:
    kinds = {name: field.annotation for name, field in schema.model_fields.items()}
    return {
        name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


def _nearest(schema: type[BaseModel], loc: KeyPath) -> str:
    """`; did you mean X?` for an unknown setting: a sibling with a like name, else one of another section."""
    *parents, key = map(str, loc)
    sections = _sections(schema)
    model = sections.get(parents[0], schema) if parents else schema
    near = difflib.get_close_matches(key, model.model_fields, 1)
    if near:
        return f"; did you mean {'.'.join([*parents, near[0]])}?"
    homes = {"": schema, **sections}
    everywhere = {f"{home}.{name}".lstrip("."): name for home, m in homes.items() for name in m.model_fields}
    close = difflib.get_close_matches(key, set(everywhere.values()), 1, cutoff=0.75)
    found = [full for full, name in everywhere.items() if close and name == close[0]]
    return f"; did you mean {' or '.join(found)}?" if found else "; see `seal init` for all settings"
