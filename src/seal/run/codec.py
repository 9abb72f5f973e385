"""Records as JSON and back: `decode(type(record), encode(record)) == record`."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seal.errors import RunError

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Plain JSON for a record, or for mappings, sequences and scalars that may hold records.

    Numbers that are not finite become the texts "nan", "inf" and "-inf", which JSON can carry.
    Raises `RunError` for what has no JSON form.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return encode(value.value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise RunError(f"a journal needs text as keys, given {list(value)[:3]!r}")
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise RunError(f"a {type(value).__name__} has no JSON form")


def decode(cls: type[T], data: Any) -> T:
    """The `cls` that `encode` turned into `data`; fields added since take their defaults.

    Fields typed `Any` come back as plain JSON. Raises `RunError` when `data` does not fit.
    """
    result: T = _decode(cls, data, cls.__name__)
    return result


def _decode(kind: Any, data: Any, at: str) -> Any:
    if kind is Any:
        return data
    if is_dataclass(kind):
        return _decode_record(kind, data, at)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(args, data, at)
    if origin is Literal and data in args:
        return data
    if origin in (tuple, list) and isinstance(data, list):
        if origin is tuple and args[-1] is not Ellipsis and len(args) != len(data):
            raise _misfit(kind, data, at)
        kinds = [args[0]] * len(data) if origin is list or args[-1] is Ellipsis else args
        return origin(
            _decode(k, item, f"{at}[{i}]") for i, (k, item) in enumerate(zip(kinds, data, strict=True))
        )
    if origin is dict and isinstance(data, dict):
        return {key: _decode(args[1], item, f"{at}.{key}") for key, item in data.items()}
    if kind is float and data in ("nan", "inf", "-inf"):
        return float(data)
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if isinstance(kind, type) and issubclass(kind, Enum) and data in [member.value for member in kind]:
        return kind(data)
    if isinstance(kind, type) and type(data) is kind:
        return data
    raise _misfit(kind, data, at)


def _decode_union(kinds: tuple[Any, ...], data: Any, at: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _decode(kind, data, at)
            except RunError:
                continue
    raise _misfit(kinds, data, at)


def _decode_record(kind: Any, data: Any, at: str) -> Any:
    if not isinstance(data, dict):
        raise _misfit(kind, data, at)
    hints = _hints(kind)
    try:
        return kind(**{key: _decode(hints[key], item, f"{at}.{key}") for key, item in data.items()})
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{at}: not a {kind.__name__}: {error}", "read it with the version that wrote it"
        ) from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _misfit(kind: Any, data: Any, at: str) -> RunError:
    return RunError(f"{at}: expected {getattr(kind, '__name__', kind)}, found {data!r:.60}")
