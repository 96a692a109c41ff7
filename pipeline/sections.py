"""One section of a YAML file as a command's settings, with what the command line says on top."""

from pathlib import Path
from typing import Any

import yaml

from data.errors import InputError
from pipeline.cli import json_object


def section_of(path: Path | None, name: str, settings: str) -> dict[str, Any]:
    """The mapping under `name` in a YAML file, or an empty one without a file; `settings` is a JSON object that wins.

    InputError when the file cannot be read or has no such section.
    """
    if path is None:
        return json_object(settings)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML; name a file with a section '{name}'.") from error
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        raise InputError(f"{path}: has no section '{name}'; configs/train has examples.")
    return content[name] | json_object(settings)
