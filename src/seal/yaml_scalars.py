"""What a bare word or number of a YAML file is: YAML 1.2, and a mark on what YAML 1.1 would read otherwise.

`010` is 8 to YAML 1.1 and 10 to YAML 1.2, `00576224` is an id to whoever wrote it, `no` a boolean or a land.
Such a scalar is kept as the text that stands in the file, a `Doubtful`. It is taken as text where
a setting is one, read where only one reading fits, and refused elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_CORE = {
    "null": (r"null|Null|NULL|", ["n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        (
            r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(?=[eE]))([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
_WORDS = "yes Yes YES no No NO on On ON off Off OFF ~ None none NONE"
_NUMBERS = (
    r"[-+]?0[xX][0-9a-fA-F_]+|[-+]?0[oO][0-7_]+|[-+]?0[bB][01_]+"
    r"|[-+]?[0-9][0-9_]*(:[0-9]{1,2})*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"
)
_DOUBTFUL = "!doubtful"
_READINGS: dict[str, Any] = {
    **dict.fromkeys(("yes", "on"), True),
    **dict.fromkeys(("no", "off"), False),
    "~": None,
}
NO_READING = object()
"""What a `Doubtful` has that no two readers agree on."""


class Doubtful(str):
    """A bare scalar that YAML's versions read differently, as it stands in the file."""

    __slots__ = ()

    @property
    def is_number(self) -> bool:
        """Whether it is made of digits; else it is a word such as `no`."""
        return self[:1].isdigit() or self[:1] in ("+", "-")

    @property
    def reading(self) -> Any:
        """The one value that it can mean, or `NO_READING`: 16 for 0x10, 1000 for 1_000, True for yes."""
        if not self.is_number:
            return _READINGS.get(self.casefold(), NO_READING)
        try:
            if re.fullmatch(r"[-+]?0[xXoObB]\w+", self):
                return int(self, 0)
            if "_" in self and not re.match(r"[-+]?0\d", self):
                plain = self.replace("_", "")
                return int(plain) if re.fullmatch(r"[-+]?\d+", plain) else float(plain)
        except ValueError:
            pass
        return NO_READING


class Loader(yaml.SafeLoader):
    """Reads bare scalars as described above."""


class Dumper(yaml.SafeDumper):
    """Quotes every text that `Loader` would not read back as that text."""


def _set_up() -> None:
    for kind in (Loader, Dumper):
        kind.yaml_implicit_resolvers = {}
        for name, (pattern, first) in _CORE.items():
            kind.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern})$"), first)
        words = "|".join(map(re.escape, _WORDS.split()))
        starts = sorted({*"-+0123456789", *(word[0] for word in _WORDS.split())})
        kind.add_implicit_resolver(_DOUBTFUL, re.compile(f"^(?:{words}|{_NUMBERS})$"), starts)
    Loader.add_constructor(_DOUBTFUL, lambda _, node: Doubtful(node.value))


_set_up()
