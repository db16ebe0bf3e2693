"""Writes the widgets of the panels into Docs/window.md, from their .ui files: python Tools/window_names.py."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "Docs" / "window.md"
PANELS = ("Import", "Preview", "Training", "Inference", "Evaluation")
BEGIN, END = "<!-- from the .ui files: python Tools/window_names.py -->", "<!-- end of what the tool writes -->"

# Layout and plain texts, which nobody touches and no script needs.
UNTOUCHED = {"QWidget", "QFrame", "QSplitter", "QStackedWidget", "Line"}


def rows(file: Path) -> list[tuple[str, str]]:
    """Return the names of a panel's widgets with their tooltips, in the order of the file."""
    found = []
    for widget in ET.parse(file).getroot().iter("widget"):  # noqa: S314 - our own files
        kind, name = widget.get("class", ""), widget.get("name", "")
        tooltip = widget.findtext("property[@name='toolTip']/string", "")
        if (
            kind not in UNTOUCHED
            and name != f"{file.stem[:1].lower()}{file.stem[1:]}"
            and (tooltip or kind != "QLabel")
        ):
            title = widget.findtext("property[@name='title']/string", "") or widget.findtext(
                "property[@name='text']/string", ""
            )
            found.append((name, plain(tooltip or title)))
    return found


def plain(text: str) -> str:
    """Return a tooltip as one line of Markdown."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).replace("|", "/").split())


def section() -> str:
    """Return the tables of all panels."""
    parts = []
    for panel in PANELS:
        file = ROOT / "LungSegmentation" / "Resources" / "UI" / f"{panel}Panel.ui"
        if file.is_file():
            table = "".join(f"| `{name}` | {text} |\n" for name, text in rows(file))
            parts.append(f"## {panel}\n\n| name | what |\n|---|---|\n{table}")
    return "\n".join(parts)


def main() -> None:
    """Write the section, in place of the former one."""
    text = PAGE.read_text(encoding="utf-8")
    head = text.partition(BEGIN)[0].rstrip("\n")
    PAGE.write_text(f"{head}\n\n{BEGIN}\n\n{section()}\n{END}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
