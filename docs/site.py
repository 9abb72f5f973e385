"""What the site has beside docs/: notebooks, pages from other folders, a list of decisions; and links."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "general-knowledge/README.md",
    "experiments/few_shot_learning/README.md",
    "examples/domain-package/README.md",
)
"""Pages of other folders, which keep their path on the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    made = {}
    for name in OUTSIDE:
        at = posixpath.dirname(name)
        made[name] = _moved((ROOT / name).read_text(encoding="utf-8"), at, at)
    for notebook in (ROOT / "docs").glob("*.ipynb"):
        made[f"notebooks/{notebook.stem}.md"] = _moved(_notebook(notebook), "docs", "notebooks")
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    titles = [path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in decisions]
    listed = [f"- [{title}]({path.name})" for title, path in zip(titles, decisions, strict=True)]
    made["decisions/index.md"] = "# Decisions\n\n" + "\n".join(listed) + "\n"
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mend the links of a page of docs/ that lead out of it."""
    if page.file.generated_by:
        return markdown
    here = posixpath.dirname(page.file.src_uri)
    return _moved(markdown, posixpath.join("docs", here), here)


def _moved(text: str, at: str, here: str) -> str:
    """`text` of a file in the folder `at` (from the root), with the links of a page in the site's `here`."""

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        there = posixpath.normpath(posixpath.join(at, target))
        if there == "docs/decisions":
            there = "docs/decisions/index.md"
        if there.startswith("docs/") and there.endswith(".ipynb"):
            there = f"docs/notebooks/{posixpath.basename(there).replace('.ipynb', '.md')}"
        if there == "README.md":
            there = "docs/index.md"
        if not there.startswith("docs/") and there not in OUTSIDE:
            return f"{label} (`{there}`)"  # a file of the repository that is no page
        return f"[{label}]({posixpath.relpath(there.removeprefix('docs/'), here or '.')}{anchor})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", link, text)


def _notebook(path: Path) -> str:
    """A notebook as Markdown, with what its cells printed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        shown = "".join("".join(o.get("text") or o["data"].get("text/plain", "")) for o in cell["outputs"])
        if shown.strip():
            parts.append(f"```text\n{shown.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
