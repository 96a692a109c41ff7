"""From a mapping (YAML, JSON) to a frozen settings dataclass, with errors a user can act on."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Settings = TypeVar("Settings")


class SettingsError(ValueError):
    """A setting that does not exist or has an impossible value; the message is one sentence for the user."""


def settings_from_dict(settings_class: type[Settings], values: Mapping[str, Any], where: str = "") -> Settings:
    """Build `settings_class` from `values`; missing keys keep their defaults, numbers are converted.

    Raises SettingsError for unknown keys (naming the nearest known one), wrong types and values the class refuses.
    """
    label = f"{where}: " if where else ""
    hints = typing.get_type_hints(settings_class)
    known = [item.name for item in dataclasses.fields(settings_class)]
    converted = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(known) or 'none'}."
            raise SettingsError(f"{label}unknown setting '{key}', {hint}")
        converted[key] = _convert(value, hints[key], f"{label}{key}")
    try:
        return settings_class(**converted)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"{label}{error}") from error


def require(condition: bool, message: str) -> None:
    """Raise SettingsError(message) unless `condition`; for __post_init__ of settings classes."""
    if not condition:
        raise SettingsError(message)


def _convert(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        if type(None) in options:
            return None
    elif bool in options:
        if isinstance(value, bool):
            return value
    elif str in options:
        if isinstance(value, str):
            return value
    elif not isinstance(value, bool):
        target = next((option for option in options if option in (int, float)), None)
        number = _number(value)
        if target is float and number is not None:
            return number
        if target is int and number is not None and number == int(number):
            return int(number)
    names = " or ".join("null" if option is type(None) else option.__name__ for option in options)
    raise SettingsError(f"{where}: expected {names}, got {value!r}.")


def _number(value: Any) -> float | None:
    """Finite number; YAML reads 1e5 as text, so text that spells a number counts."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
