"""Where a reconstruction comes from, as headings with (name, value) pairs, without anything private."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from data.errors import InputError
from pipeline import provenance as facts
from pipeline.report_names import method_name

PRIVATE_KEY = re.compile(
    r"patient|birth|accession|institution|physician|referring|station|(study|series|acquisition|content)_?(date|time)"
    r"|instance_?uid|description|source_?(file|path)|hostname|username|^files?$|^paths?$",
    re.IGNORECASE,
)
LOCAL_PATH = re.compile(r"^(/|~|\.\./|file:|\\\\|[A-Za-z]:[\\/])")
MAX_LIST = 8


def provenance(folder: Path, solvers: list[str], header: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Headings in the order of the page: software and input, each solver's run, prior and uncertainty, and so on.

    header: the measurement's metadata. Folders and files that are not there are left out.
    """
    gathered = facts.gather(folder, folder.parent / "ingest" / folder.name, {}, None)
    checksum = gathered.pop("Measurement", {}).get("Sha256")
    gathered.pop("Warnings", None)
    sections: dict[str, Any] = {"Software and input": gathered | {"MeasurementSha256": checksum}}
    for solver in solvers:
        run = read_json(folder / "reconstruct" / solver / "run.json")
        card = run.pop("prior", None)
        sections[f"Reconstruction: {method_name(solver)}"] = run
        sections[f"Prior: {method_name(solver)}"] = _prior_card(card)
        sections[f"Uncertainty: {method_name(solver)}"] = read_json(
            folder / "uncertainty" / solver / "uncertainty.json"
        )
    sections["Measurement"] = {name: value for name, value in header.items() if name != "affine"}
    for path in sorted((folder / "baseline").glob("*.json")):
        sections[f"Baseline: {method_name(path.stem)}"] = read_json(path)
    flat = {title: list(flatten(section)) for title, section in sections.items()}
    return {title: rows for title, rows in flat.items() if rows}


def warnings_of(folder: Path, header: dict[str, Any]) -> tuple[str, ...]:
    """What the ingest and measure stages warned of, without paths; header: the measurement's metadata."""
    manifest = read_json(folder.parent / "ingest" / "manifest.json").get("series")
    rows = manifest if isinstance(manifest, list) else []
    row = next((row for row in rows if isinstance(row, dict) and row.get("series") == folder.name), {})
    found = [*(row.get("warnings") or []), *(header.get("warnings") or [])]
    return tuple(dict.fromkeys(withhold_paths(text) for text in found if isinstance(text, str)))


def withhold_paths(text: str) -> str:
    """Absolute paths, which may name a person, as the file's name, or as "(folder)" where there is no file's name.

    Addresses of the web and units such as "/mm" stay as they are.
    """

    def short(match: re.Match) -> str:
        name = PurePosixPath(match.group())
        if match.group().startswith("http") or (len(name.parts) < 3 and not name.suffix):
            return match.group()
        return f"…/{name.name}" if name.suffix else "(folder)"

    return re.sub(r"https?://\S+|(?<![\w.…])/[^\s:;,'\"]+", short, text)


def _prior_card(value: Any) -> dict[str, Any]:
    """The card as recorded with the run, or read from prior.json where the run names the prior's folder."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        return {}
    return {"folder": value} | read_json(Path(value) / "prior.json")


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of nested JSON. Keys that could carry a person's data are left out, local paths withheld."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not PRIVATE_KEY.search(str(key)):
                yield from flatten(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and (len(value) > MAX_LIST or any(isinstance(item, dict | list) for item in value)):
        yield name, f"{len(value)} entries"
    elif isinstance(value, list):
        yield name, ", ".join(_text(item) for item in value)
    elif value is not None:
        yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return (
        f"(local path) {PurePath(text).name}"
        if _is_shipped_weight(text)
        else ("(local path withheld)" if LOCAL_PATH.match(text) else withhold_paths(text))
    )


def _is_shipped_weight(text: str) -> bool:
    """Whether an absolute path ends in models/weights/<name>: that name says which prior, and nothing of the user."""
    return bool(LOCAL_PATH.match(text)) and PurePath(text).parts[-3:-1] == ("models", "weights")


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON; delete it and run its stage again.") from error
    return value if isinstance(value, dict) else {}
