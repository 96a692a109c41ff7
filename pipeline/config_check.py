"""Checks a config against configs/schema.yaml and says the first thing wrong with it in one sentence."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from data.errors import InputError
from solvers.registry import SOLVERS

SCHEMA = Path(__file__).parent.parent / "configs" / "schema.yaml"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}
_TEXT_KEYS = {"studies", "volumes", "prior", "out", "license", "held_out"}
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping of keys to values",
    "array": "a list",
    "null": "null",
}


def plain(value: Any) -> Any:
    """Nested dicts and lists without YAML's and Snakemake's own types.

    YAML 1.1 takes 1e5 for text, and Snakemake's --config takes every value inside {...} for text; what reads as a
    number, true, false or null becomes that, except under keys that hold text.
    """
    if isinstance(value, Mapping):
        return {str(key): item if key in _TEXT_KEYS else plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    return _WORDS.get(text, value)


def check(config: Mapping[str, Any], source: str) -> None:
    """InputError with one sentence when the config does not fit the schema; `source` says where it came from."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    schema["$defs"]["solver_name"] = {"enum": list(SOLVERS)}
    errors = sorted(_leaves(Draft202012Validator(schema).iter_errors(config)), key=_order)
    if errors:
        raise InputError(f"{source}: {_sentence(errors[0], schema)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that helps with a misspelt word: the nearest known one, or all of them."""
    known = sorted(str(k) for k in known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known) or 'none'}."


def _leaves(errors: Iterable[ValidationError]) -> Iterable[ValidationError]:
    """The errors below oneOf and propertyNames wrappers are less clear than the wrapper itself; if/then are not."""
    for error in errors:
        if error.validator in ("then", "else", "$ref") and error.context:
            yield from _leaves(error.context)
        else:
            yield error


def _order(error: ValidationError) -> tuple:
    """Shallow before deep, so that a wrong modality is said before the settings that do not suit it."""
    rank = {"required": 0, "enum": 1, "additionalProperties": 2}.get(error.validator, 1)
    return (len(error.absolute_path), rank, [str(p) for p in error.absolute_path])


def _sentence(error: ValidationError, schema: dict) -> str:
    where = _where(error.absolute_path)
    value = error.instance
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = next(key for key in value if key not in known)
            place = f" in {where}" if where else ""
            return f"unknown key '{unknown}'{place}; {nearest(unknown, known)}"
        case "required":
            missing = next(key for key in error.validator_value if key not in value)
            choices = schema["$defs"]["cohort"]["properties"].get(missing, {}).get("enum", [])
            return f"{where} lacks the key '{missing}'" + (f"; give it as {' or '.join(choices)}." if choices else ".")
        case "enum":
            choices = [("null" if c is None else str(c)) for c in error.validator_value]
            return f"{where} is '{value}', which is not known; {nearest(value, choices)}"
        case "type":
            kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
            return f"{where} must be {' or '.join(_TYPES[k] for k in kinds)}, not {value!r}."
        case "pattern" | "propertyNames":
            return _name_sentence(where, value)
        case "const":
            return f"{where} must be {error.validator_value!r}, not {value!r}."
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            bound = {
                "minimum": "at least",
                "maximum": "at most",
                "exclusiveMinimum": "more than",
                "exclusiveMaximum": "less than",
            }[error.validator]
            return f"{where} must be {bound} {error.validator_value:g}, not {value:g}."
        case "minItems" if not value:
            return f"{where} must not be empty."
        case "uniqueItems":
            return f"{where} names something twice: {', '.join(map(str, value))}."
        case "oneOf" if where.endswith("slices"):
            return f"{where} must be null or two whole numbers [first, last], not {value!r}."
        case _:
            return f"{where}: {error.message}."


def _name_sentence(where: str, value: Any) -> str:
    if where.endswith("device"):
        return f"{where} must be auto, cpu, cuda or cuda:N, not '{value}'."
    return f"{where or 'cohorts'}: '{value}' cannot be a name here; use letters, digits and underscores."


def _where(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
