"""Records as JSON and back: `decode(type(record), encode(record)) == record`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

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
    try:
        found: T = _adapter(cls).validate_python(data)  # type: ignore[arg-type]
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join([cls.__name__, *map(str, first["loc"])])
        raise RunError(
            f"{at}: {first['msg'].lower()}, found {first['input']!r:.60}",
            "read it with the version that wrote it",
        ) from None


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)
