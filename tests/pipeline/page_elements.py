"""The elements of a page, names that are markup, and the manifest that the index reads."""

import json
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


class Elements(HTMLParser):
    """Start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self._skip = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip -= tag in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self._skip else data


def write_manifest(folder: Path, rows: list[dict]) -> None:
    (folder / "ingest").mkdir(parents=True)
    (folder / "ingest/manifest.json").write_text(json.dumps({"study": folder.name, "series": rows}))
