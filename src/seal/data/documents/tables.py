"""Files whose records are passages: JSON, JSON lines, CSV and Parquet, with questions where they have any."""

from __future__ import annotations

from pathlib import Path

from seal.data.documents.readers import check_size
from seal.data.formats import Passage, read_passages


def read_table(path: Path) -> list[Passage]:
    """The passages in `path`, as `seal.data.formats` reads them.

    Raises:
        DataError: the file cannot be read, or a record is malformed; file and place are named.
    """
    check_size(path)
    return read_passages(path)
