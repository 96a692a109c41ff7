"""Where a reconstruction comes from, as headings with (name, value) pairs, without anything private."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from data.errors import InputError
from pipeline.report_names import method_name

PRIVATE_KEY = re.compile(
    r"patient|birth|accession|institution|physician|referring|station|(study|series|acquisition|content)_?(date|time)"
    r"|instance_?uid|description|source_?(file|path)|hostname|username|^files?$|^paths?$",
    re.IGNORECASE,
)
LOCAL_PATH = re.compile(r"^(/|~|\.\./|file:|\\\\|[A-Za-z]:[\\/])")
MAX_LIST = 8


def provenance(folder: Path, solvers: list[str], header: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    sections: dict[str, Any] = {}
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
        else ("(local path withheld)" if LOCAL_PATH.match(text) else text)
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
