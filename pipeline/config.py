"""The workflow's plan: cohorts with their studies, and each stage's settings, from a checked config.

Defaults come from configs/default.yaml, then the config's own `defaults`, then the cohort. Lists are replaced, mappings
are merged. Relative folders are looked up from the working directory, then from the repository.
"""

import copy
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.errors import InputError
from data.geometry_json import is_geometry
from pipeline.config_check import check, nearest, plain
from pipeline.paths import label

DEFAULTS = Path(__file__).parent.parent / "configs" / "default.yaml"
# Endings and beginnings of names that a folder of study folders may hold beside them.
_PAPERS = (".md", ".txt", ".json", ".tsv", ".csv", ".yaml", ".yml", ".pdf", ".html", ".xml", ".bib", ".cff", ".log")
_PAPER_NAMES = ("readme", "license", "licence", "citation", "notice", "changes", "checksum", "sha256sum")


@dataclass(frozen=True)
class Cohort:
    """One cohort: its merged config section and its studies, label to folder."""

    name: str
    modality: str
    sections: Mapping[str, Any]
    studies: Mapping[str, Path]

    @property
    def baselines(self) -> list[str]:
        return list(self.sections["baselines"])

    @property
    def solvers(self) -> list[str]:
        return list(self.sections["solvers"])


@dataclass(frozen=True)
class Training:
    """What `train` is given: the folder of volumes, where the prior goes, settings, and the card's licence text."""

    volumes: Path
    out: Path
    settings: Mapping[str, Any]
    license: str

    def settings_json(self) -> str:
        return json.dumps(self.settings, sort_keys=True)


@dataclass(frozen=True)
class Plan:
    """Everything the rules ask of the config."""

    cohorts: Mapping[str, Cohort]
    training: Training | None

    @property
    def studies(self) -> list[tuple[str, str]]:
        """(cohort, study label) pairs in the config's order."""
        return [(cohort.name, study) for cohort in self.cohorts.values() for study in cohort.studies]

    def settings(self, stage: str, cohort: str, method: str | None = None, **labels: str) -> str:
        """The stage's settings as canonical JSON: nothing in it that the stage does not depend on."""
        return json.dumps(_stage_settings(self.cohorts[cohort], stage, method, labels), sort_keys=True)


def load(config: Mapping[str, Any], repository: Path, source: str = "config") -> Plan:
    """The plan of a config as Snakemake holds it. Raises InputError with one sentence; `source` names the file."""
    own = plain(config)
    check(own, source)
    defaults = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))["defaults"]
    training = _training(own, repository, source) if "train" in own else None
    cohorts = {
        name: _cohort(name, section, own, defaults, repository, source)
        for name, section in (own.get("cohorts") or {}).items()
    }
    return Plan(cohorts, training)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: `over` wins, mappings in both are merged, everything else is replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def find_studies(folder: Path) -> dict[str, Path]:
    """Study folders by label: the folder's subfolders, or the folder itself when it holds scans directly."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if any(entry.is_file() and not _is_paper(entry) for entry in entries):
        return {label(folder.resolve().name): folder}
    return {label(entry.name): entry for entry in entries if entry.is_dir()}


def fingerprint(folder: Path) -> str:
    """Changes when a file of the study is added, removed, renamed or written; hidden files do not count."""
    digest = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(root, name) for name in sorted(files) if not name.startswith(".")):
            state = path.lstat()
            digest.update(
                f"{path.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="replace")
            )
    return digest.hexdigest()[:16]


def accepted_series(ingest: Path) -> list[str]:
    """Labels of the series that a study's manifest.json accepts, in its order."""
    manifest = json.loads((ingest / "manifest.json").read_text(encoding="utf-8"))
    return [row["series"] for row in manifest["series"] if row["accepted"]]


def wants_gpu(device: str) -> bool:
    """Whether a device setting means a GPU on this machine; auto means one where an NVIDIA driver shows one."""
    return device.startswith("cuda") or (device == "auto" and any(Path("/dev").glob("nvidia[0-9]*")))


def stages_find_python(repository: Path | str) -> None:
    """Let `python -m pipeline.STAGE` mean the interpreter that runs now, from any working directory.

    Modules are looked up in the repository, never in the working directory: a numpy.py there is not ours.
    """
    folder, modules = str(Path(sys.executable).parent), os.environ.get("PYTHONPATH")
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(repository), modules]))
    os.environ["PYTHONSAFEPATH"] = "1"


def _stage_settings(cohort: Cohort, stage: str, method: str | None, labels: Mapping[str, str]) -> dict[str, Any]:
    sections, modality = cohort.sections, {"modality": cohort.modality}
    methods = {"baselines": cohort.baselines, "solvers": cohort.solvers}
    match stage:
        case "ingest" | "measure":
            return modality | sections[stage]
        case "baseline":
            return modality | (sections.get("baseline") or {}).get(method, {})
        case "reconstruct":
            section = dict(sections["reconstruct"])
            own = (section.pop("overrides", None) or {}).get(method)
            return section | ({"overrides": {method: own}} if own else {})
        case "uncertainty":
            return dict(sections["uncertainty"])
        case "evaluate" | "report":
            return dict(sections.get(stage, {})) | methods
        case "export":
            identity = {"cohort": cohort.name, "config_hash": _config_hash(sections), **labels}
            return sections[stage] | modality | methods | identity
    raise KeyError(stage)


def _config_hash(sections: Mapping[str, Any]) -> str:
    """SHA-256 over every section that a series' export depends on; the prior counts by its folder's name."""
    kept = {key: value for key, value in sections.items() if key not in ("studies", "evaluate", "report")}
    reconstruct = kept["reconstruct"] | {"prior": Path(kept["reconstruct"]["prior"]).name}
    text = json.dumps(kept | {"reconstruct": reconstruct}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _cohort(name: str, section: Mapping, own: Mapping, defaults: Mapping, repository: Path, source: str) -> Cohort:
    modality = section["modality"]
    sections = merge(merge(defaults[modality], (own.get("defaults") or {}).get(modality, {})), section)
    folder = sections.get("studies") or own.get("studies")
    if not folder:
        raise InputError(
            f"{source}: cohort {name} names no studies; add --config studies=/path/to/folder to the command."
        )
    studies = _studies(folder, name, repository)
    sections["reconstruct"]["prior"] = _prior(sections["reconstruct"]["prior"], name, repository)
    return Cohort(name, modality, sections, studies)


def _studies(folder: str, cohort: str, repository: Path) -> dict[str, Path]:
    path = _find(folder, repository)
    if path is None:
        raise InputError(f"cohort {cohort}: the studies folder {folder} does not exist; check --config studies=.")
    if not path.is_dir():
        raise InputError(f"cohort {cohort}: {folder} is a file; give the folder that holds the study folders.")
    try:
        studies = find_studies(path)
    except OSError as error:
        raise InputError(f"cohort {cohort}: the studies folder {folder} cannot be read: {error.strerror}.") from error
    if not studies:
        raise InputError(f"cohort {cohort}: the studies folder {folder} is empty; put one folder a study into it.")
    return studies


def _prior(folder: str, cohort: str, repository: Path) -> str:
    path = _find(folder, repository)
    if path is not None and (path / "prior.json").is_file():
        return str(path)
    shipped = [str(p.parent.relative_to(repository)) for p in repository.glob("models/weights/*/prior.json")]
    advice = nearest(folder, shipped) if shipped else "train one with configs/train."
    raise InputError(f"cohort {cohort}: reconstruct.prior {folder} holds no prior.json; {advice}")


def _training(own: Mapping, repository: Path, source: str) -> Training:
    section = dict(own["train"])
    volumes = section.pop("volumes", None) or own.get("volumes")
    if not volumes:
        raise InputError(f"{source}: train names no volumes; add --config volumes=/path/to/folder to the command.")
    path = _find(volumes, repository)
    if path is None or not path.is_dir():
        raise InputError(f"train: the volumes folder {volumes} does not exist; check --config volumes=.")
    out = Path(section.pop("out", f"runs/train/{section['modality']}/prior"))
    return Training(path, out, section, section.pop("license", "see the training volumes"))


def _find(folder: str, repository: Path) -> Path | None:
    """The folder as given from the working directory, else from the repository, else None."""
    given = Path(folder).expanduser()
    candidates: Sequence[Path] = (given, repository / given)
    return next((path for path in candidates if path.exists()), None)


def _is_paper(path: Path) -> bool:
    name = path.name.lower()
    return not is_geometry(path) and (name.endswith(_PAPERS) or name.startswith(_PAPER_NAMES))
