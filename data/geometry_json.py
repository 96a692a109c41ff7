"""How CT projections were measured, as geometry.json beside them says it: ASTRA's names, millimetres, degrees.

docs/formats/geometry_json.md explains every key and configs/geometry.schema.json holds them. The reader gives the
geometry of operators.ct_geometry and operators.cone_geometry as the plain dictionary of their to_dict:

    {"type": "parallel", "angles_rad": [...], "bins": 560, "bin_mm": 0.2, "offset_mm": 0.0}
    {"type": "fan", ... and "source_axis_mm", "axis_detector_mm"}
    {"type": "parallel_vec" or "fanflat_vec", "vectors": [[6 numbers], ...], "bins": 560}
    {"type": "cone", "angles_rad", "rows", "columns", "row_mm", "column_mm", "source_axis_mm", "axis_detector_mm",
     "column_offset_mm", "row_offset_mm"}
    {"type": "cone_vec", "vectors": [[12 numbers], ...], "rows", "columns"}
"""

import difflib
import functools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator, ValidationError

from data.errors import InputError

SCHEMA = Path(__file__).parent.parent / "configs" / "geometry.schema.json"
NAME = "geometry.json"
MAX_JSON_BYTES = 2**26
MAX_VIEWS = 100_000
# Each value is checked against the schema, which takes some 50 us.
MAX_VALUES = 200_000
AXES = {"views": "views", "bins": "bins", "columns": "bins", "z": "z", "rows": "z", "slices": "z"}
VECTOR_LENGTH = {"parallel_vec": 6, "fanflat_vec": 6, "cone_vec": 12}
SOURCES = ("projections", "flat", "flat_after", "dark")
_KINDS = {"number": "a number", "integer": "a whole number", "string": "text", "array": "a list", "object": "a mapping"}


@dataclass(frozen=True)
class Source:
    """A file (or folder of TIFF files) beside geometry.json; dataset: which array of an .h5 or .mat file."""

    path: Path
    dataset: str | None = None


@dataclass(frozen=True)
class GeometryNotes:
    """geometry.json as it stands, checked against its schema. `beside`: the file itself."""

    beside: Path
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ASTRA's type, with "fan" for fanflat."""
        return "fan" if self.values["type"] in ("fan", "fanflat") else self.values["type"]

    @property
    def cone(self) -> bool:
        return self.kind.startswith("cone")

    def wrong(self, what: str) -> InputError:
        """The error that names the file."""
        return InputError(f"{self.beside}: {what}", "json")


def is_geometry(path: Path) -> bool:
    """Whether a file is geometry.json or NAME.geometry.json, by its name."""
    return path.name == NAME or path.name.endswith("." + NAME)


def read_geometry_notes(path: Path) -> GeometryNotes:
    """Read and check PATH. Raises InputError "json" with one sentence for damage, unknown keys and wrong values."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("too long")
        text = path.read_text(encoding="utf-8")
        if text.count(",") > MAX_VALUES:
            raise InputError(
                f"{path} lists more than {MAX_VALUES} values: give angles_deg or vectors as the name of a file.", "json"
            )
        values = json.loads(text, parse_constant=_no_constant)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: write one beside the projections.", "no-json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file: correct it.", "json") from error
    notes = GeometryNotes(path, values)
    errors = list(_validator().iter_errors(values))
    if errors:
        raise notes.wrong(_sentence(min(errors, key=lambda error: (len(error.path), error.validator != "required"))))
    _check_keys(notes)
    return notes


def source_of(notes: GeometryNotes, key: str) -> Source | None:
    """Where the array under a key lies; None where the key is missing. Raises InputError outside the folder."""
    value = notes.values.get(key)
    if value is None or isinstance(value, int | float):
        return None
    if isinstance(value, str):
        return Source(inside(notes, value))
    if "file" in value:
        return Source(inside(notes, value["file"]), value["dataset"])
    if key == "projections":
        return Source(notes.beside, value["dataset"])
    whole = source_of(notes, "projections")
    return Source(whole.path if whole is not None else notes.beside, value["dataset"])


def inside(notes: GeometryNotes, name: str) -> Path:
    """The path of a file named in geometry.json; it must lie in the folder of geometry.json, or below."""
    home = notes.beside.parent
    if "\0" in name:
        raise notes.wrong("a file's name holds a NUL; correct the name.")
    path = home / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(home.resolve()):
        raise notes.wrong(f"the file {name!r} lies outside its folder; put it beside geometry.json.")
    if not path.exists():
        raise notes.wrong(f"the file {name!r} is not there; correct the name or copy it again.")
    return path


def axes_of(notes: GeometryNotes) -> list[str]:
    """The array's axes under the names views, bins, z. Raises InputError where they make no stack of projections."""
    words = notes.values["axes"].split()
    unknown = [word for word in words if word not in AXES]
    if unknown:
        near = difflib.get_close_matches(unknown[0], AXES, n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"use {', '.join(AXES)}."
        raise notes.wrong(f"axes names '{unknown[0]}', which is not known; {advice}")
    axes = [AXES[word] for word in words]
    needed = {"views", "bins", "z"} if notes.cone else {"views", "bins"}
    if len(set(axes)) != len(axes) or not needed <= set(axes):
        form = "views rows columns" if notes.cone else "views bins"
        raise notes.wrong(f'axes are "{notes.values["axes"]}"; name each axis once, such as "{form}".')
    return axes


def geometry_dict(notes: GeometryNotes, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The geometry of an array (z views bins) in the form of the module's docstring. InputError: counts that differ."""
    rows, views, bins = shape
    if notes.kind in VECTOR_LENGTH:
        geometry = {"type": notes.kind, "vectors": _vectors(notes, views)}
        return geometry | ({"rows": rows, "columns": bins} if notes.cone else {"bins": bins})
    row_mm, column_mm = _pair(notes, "detector_pixel_mm")
    row_offset_mm, column_offset_mm = _pair(notes, "detector_offset_mm", 0.0)
    geometry = {"type": notes.kind, "angles_rad": _angles_rad(notes, views)}
    if notes.kind == "cone":
        geometry |= {"rows": rows, "columns": bins, "row_mm": row_mm, "column_mm": column_mm}
        geometry |= {"column_offset_mm": column_offset_mm, "row_offset_mm": row_offset_mm}
    else:
        geometry |= {"bins": bins, "bin_mm": column_mm, "offset_mm": column_offset_mm}
    return geometry if notes.kind == "parallel" else geometry | _distances(notes)


def slice_mm(notes: GeometryNotes) -> float | None:
    """Distance of the slices of parallel and fan beams: as image.slice_mm says, else the detector's rows at the axis.

    None for vectors, which say nothing of it, and for cone beams.
    """
    said = notes.values.get("image", {}).get("slice_mm")
    if said is not None:
        return float(said)
    if notes.kind not in ("parallel", "fan"):
        return None
    row_mm, _ = _pair(notes, "detector_pixel_mm")
    if notes.kind == "parallel":
        return row_mm
    distances = _distances(notes)
    return row_mm * distances["source_axis_mm"] / sum(distances.values())


def numbers_in(path: Path) -> np.ndarray:
    """The numbers of a text file (blanks, commas or lines between them) or of an .npy file, float64."""
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False), dtype=np.float64)
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("too long")
        lines = [line.split("#")[0].replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [[float(word) for word in line] for line in lines if line]
        return np.array(rows if len({len(row) for row in rows}) == 1 else [number for row in rows for number in row])
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a table of numbers: correct it.", "json") from error


def _check_keys(notes: GeometryNotes) -> None:
    """What depends on the type: which keys it needs and which it cannot use."""
    kind, values = notes.kind, notes.values
    if kind in VECTOR_LENGTH:
        needed, useless = ["vectors"], ["angles_deg", "rotation", "detector_pixel_mm", "detector_offset_mm"]
        useless += ["source_axis_mm", "axis_detector_mm", "source_detector_mm"]
    else:
        needed, useless = ["angles_deg", "detector_pixel_mm"], ["vectors"]
        distances = ["source_axis_mm", "axis_detector_mm", "source_detector_mm"]
        if kind == "parallel":
            useless += distances
        else:
            needed.append("source_axis_mm")
            if ("axis_detector_mm" in values) == ("source_detector_mm" in values):
                raise notes.wrong("give source_detector_mm or axis_detector_mm, the one or the other.")
    for key in needed:
        if key not in values:
            raise notes.wrong(f"type {values['type']} needs {key}; add it.")
    for key in useless:
        if key in values:
            raise notes.wrong(f"type {values['type']} cannot use {key}; take it out.")
    if values["values"] == "counts" and "flat" not in values:
        raise notes.wrong('counts need a flat field: name one as flat, or say values "transmission" or "log".')
    if values["values"] != "counts":
        for key in ("flat", "flat_after", "dark"):
            if key in values:
                raise notes.wrong(f"{key} is for counts; values is \"{values['values']}\", correct one of them.")
    if "flat_after" in values and not isinstance(values["flat"], str | dict):
        raise notes.wrong("flat_after needs a file as flat.")
    axes_of(notes)


def _distances(notes: GeometryNotes) -> dict[str, float]:
    source_axis = float(notes.values["source_axis_mm"])
    axis_detector = notes.values.get("axis_detector_mm")
    if axis_detector is None:
        axis_detector = notes.values["source_detector_mm"] - source_axis
    if axis_detector < 0:
        raise notes.wrong("source_detector_mm is shorter than source_axis_mm; correct one of them.")
    return {"source_axis_mm": source_axis, "axis_detector_mm": float(axis_detector)}


def _pair(notes: GeometryNotes, key: str, default: float | None = None) -> tuple[float, float]:
    """(rows, columns); one number is both pixel sizes, or the offset along the columns."""
    value = notes.values.get(key, default)
    if not np.isfinite(value).all():
        raise notes.wrong(f"{key} is not a finite number; correct it.")
    if isinstance(value, list):
        return float(value[0]), float(value[1])
    return (0.0 if key == "detector_offset_mm" else float(value)), float(value)


def _angles_rad(notes: GeometryNotes, views: int) -> list[float]:
    value = notes.values["angles_deg"]
    if isinstance(value, dict):
        degrees = value.get("first", 0.0) + value["step"] * np.arange(views)
    else:
        degrees = np.asarray(value, float) if isinstance(value, list) else numbers_in(inside(notes, value)).ravel()
    if len(degrees) != views:
        raise notes.wrong(f"angles_deg has {len(degrees)} angles but the projections have {views} views; correct one.")
    if not np.isfinite(degrees).all():
        raise notes.wrong("angles_deg holds a value that is not finite; correct it.")
    sign = -1.0 if notes.values.get("rotation") == "clockwise" else 1.0
    return [sign * math.radians(angle) for angle in degrees.tolist()]


def _vectors(notes: GeometryNotes, views: int) -> list[list[float]]:
    value, length = notes.values["vectors"], VECTOR_LENGTH[notes.kind]
    try:
        rows = numbers_in(inside(notes, value)) if isinstance(value, str) else np.array(value, dtype=np.float64)
        shape = rows.shape
    except ValueError:
        shape = ()
    if shape != (views, length) or not np.isfinite(rows).all():
        raise notes.wrong(f"vectors must be {views} rows (one a view) of {length} finite numbers; correct them.")
    return rows.tolist()


@functools.cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _sentence(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "the file"
    value = error.instance
    match error.validator:
        case "required":
            missing = next(key for key in error.validator_value if key not in value)
            return f"{missing} is missing; add it." if where == "the file" else f"{where} needs {missing}; add it."
        case "additionalProperties":
            known = list(error.schema["properties"])
            key = next(key for key in value if key not in known)
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            advice = f"did you mean '{near[0]}'?" if near else f"the keys are {', '.join(known)}."
            return f"unknown key {key[:60]!r}; {advice}"
        case "enum":
            near = difflib.get_close_matches(str(value), error.validator_value, n=1, cutoff=0.5)
            advice = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(error.validator_value)}."
            return f"{where} is {_short(value)}, which is not known; {advice}"
        case "type":
            return f"{where} must be {_KINDS[error.validator_value]}, not {_short(value)}; correct it."
        case "oneOf":
            return f"{where} is {_short(value)}, which is none of its forms: {error.schema.get('description', '')}"
        case _:
            return f"{where} is {_short(value)}, which is out of range; correct it."


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
