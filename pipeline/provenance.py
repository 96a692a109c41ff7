"""Where an export comes from: facts for sidecars, dataset_description.json and DICOM, and checksums.

    python -m pipeline.provenance check FOLDER     compare a folder with its SHA256SUMS
    python -m pipeline.provenance sums FOLDER      write SHA256SUMS for every export and table below a study's folder

Facts are taken from what the stages recorded; what none recorded is left out. They hold no path, no user's name and
nothing from patient attributes. `sha256sum -c SHA256SUMS` checks the same files, but cannot see those that were added.
"""

import argparse
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from data.atomic import write_text
from data.errors import InputError
from pipeline.cli import json_object, main_wrapper
from pipeline.measurement import FILE_NAME, file_digest, read_metadata

SUMS = "SHA256SUMS"
PACKAGES = ("numpy", "nibabel", "pydicom", "highdicom")
REPOSITORY = Path(__file__).parents[1]
RUN_KEYS = ("seed", "device", "versions", "units", "network_calls", "seconds", "peak_mem_mb", "chi2", "sigma_init")
STUDY_FILES = ("*/export/**/*", "*/metrics.tsv", "ingest/manifest.*", "summary.tsv")


def gather(series_dir: Path, ingested: Path, section: dict[str, Any], benchmarks: Path | None) -> dict[str, Any]:
    """Facts that all outputs of a series share; CamelCase keys as in BIDS sidecars.

    Software, Input (kind, number of files, SHA-256 over their contents), Measurement, ConfigSha256, Stages (seconds and
    peak memory from Snakemake's benchmarks), Warnings.
    """
    row = _manifest_row(ingested)
    facts = {
        "Software": software(),
        "Input": _present(
            Kind=row.get("kind"), Files=row.get("files"), Sha256=row.get("source_hash"),
            Reoriented=row.get("reoriented"),
        ),
        "Measurement": _measurement(series_dir / "measurement" / FILE_NAME),
        "ConfigSha256": section.get("config_hash"),
        "Stages": _stages(benchmarks),
        "Warnings": [*(row.get("warnings") or []), *_warnings(series_dir / "measurement" / FILE_NAME)],
    }  # fmt: skip
    return _present(**facts) | {"Warnings": facts["Warnings"]}


def of_method(series_dir: Path, method: str) -> dict[str, Any]:
    """Facts about one solver's run or one baseline: settings, seed, device, prior with its weights' checksum, alarm."""
    run = _read(series_dir / "reconstruct" / method / "run.json")
    if not run:
        run = _read(series_dir / "baseline" / f"{method}.json")
        return _present(Method=method, Settings=pathless(run.get("settings")), **_runs(run))
    prior = run.get("prior")
    card = prior if isinstance(prior, dict) else {"name": prior}
    alarm = _read(series_dir / "alarm" / method / "alarm.json")
    uncertainty = _read(series_dir / "uncertainty" / method / "uncertainty.json")
    return _present(
        Method=method,
        Settings=pathless(run.get("solver_settings")),
        Reconstruct=pathless(run.get("settings")),
        Samples=uncertainty.get("samples"),
        Interval=uncertainty.get("interval"),
        Prior=_present(Name=pathless(card.get("name")), WeightsSha256=card.get("sha256")),
        Alarm=_present(Verdict=alarm.get("verdict"), Sentence=alarm.get("sentence")),
        **_runs(run),
    )


def sentence(facts: dict[str, Any], method: dict[str, Any]) -> str:
    """The same facts as one text of at most 1,024 ASCII characters, for DICOM's ContributionDescription.

    Times and memory are left to the sidecars: the same run twice must give the same objects under the same UIDs.
    """
    prior = method.get("Prior", {})
    words = [
        f"{method['Method']}",
        f"prior {prior['Name']} (weights sha256 {prior.get('WeightsSha256', 'unknown')})" if prior else "",
        f"seed {method['Seed']}" if "Seed" in method else "",
        f"{method['Samples']} samples" if "Samples" in method else "",
        f"{method['NetworkCalls']} network calls" if "NetworkCalls" in method else "",
        f"on {method['Device']}" if "Device" in method else "",
        f"input sha256 {facts['Input']['Sha256']}" if "Sha256" in facts.get("Input", {}) else "",
        f"measurement sha256 {facts['Measurement']['Sha256']}" if "Measurement" in facts else "",
        f"config sha256 {facts['ConfigSha256']}" if "ConfigSha256" in facts else "",
        *(f"warning: {warning}" for warning in facts.get("Warnings", [])),
    ]
    text = "; ".join(word for word in words if word)
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:1024]


@cache
def software() -> dict[str, Any]:
    """Name, version (git describe in a clone, else the package's) and the packages that write the export."""
    packages = {"python": platform.python_version()}
    packages |= {name: metadata.version(name) for name in PACKAGES}
    return {"Name": "sliceweave", "Version": version(), "Packages": packages}


@cache
def version() -> str:
    try:
        released = metadata.version("sliceweave")
    except metadata.PackageNotFoundError:
        released = "0.1.0"
    if not (REPOSITORY / ".git").exists():
        return released
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--tags", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return released
    described = done.stdout.strip()
    return f"{released}+git.{described}" if done.returncode == 0 and described else released


def pathless(value: Any) -> Any:
    """The value with every path in it cut down to its last part."""
    if isinstance(value, dict):
        return {key: pathless(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [pathless(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and "/" in value.replace(" / ", " ") else value


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """FOLDER/SHA256SUMS as sha256sum writes it, for files below the folder, sorted by name."""
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    write_text(folder / SUMS, "".join(f"{file_digest(folder / name)}  {name}\n" for name in names))


def study_files(study: Path) -> list[Path]:
    """What the checksums of a study cover: its exports, tables and manifest."""
    found = {path for pattern in STUDY_FILES for path in study.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(study).parts))


def check(folder: Path) -> list[str]:
    """What differs from FOLDER/SHA256SUMS, a line each: changed, missing, and files of an export that it does not name.

    InputError where there are no readable checksums.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        named = {line[66:]: line[:64] for line in lines}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / SUMS} cannot be read: give the folder of an export or of a study.") from error
    if not named or not all(len(value) == 64 and name for name, value in named.items()):
        raise InputError(f"{folder / SUMS} is damaged: export the series again.")
    found = []
    for name, value in named.items():
        path = folder / name
        if not path.is_file():
            found.append(f"missing: {name}")
        elif file_digest(path) != value:
            found.append(f"changed: {name}")
    present = study_files(folder) if any("/export/" in name for name in named) else folder.rglob("*")
    extra = {path.relative_to(folder).as_posix() for path in present if path.is_file()} - {*named, SUMS}
    return found + [f"not in {SUMS}: {name}" for name in sorted(extra)]


def _manifest_row(ingested: Path) -> dict[str, Any]:
    rows = _read(ingested.parent / "manifest.json").get("series") or []
    return next((row for row in rows if row.get("series") == ingested.name), {})


def _measurement(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    header = read_metadata(path)
    known = {key: pathless(header[key]) for key in ("source", "settings", "noise", "preparation") if key in header}
    return {"Sha256": file_digest(path)} | {key.title(): value for key, value in known.items()}


def _warnings(path: Path) -> list[str]:
    return list(read_metadata(path).get("warnings") or []) if path.is_file() else []


def _stages(benchmarks: Path | None) -> dict[str, Any]:
    """Seconds and largest resident memory of every stage that has finished, as Snakemake measured them."""
    stages = {}
    for path in sorted(benchmarks.glob("*.jsonl")) if benchmarks else ():
        if path.stem in ("export", "page", "evaluate"):
            continue
        try:
            row = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
            stages[path.stem] = {"Seconds": float(row["s"]), "PeakMemoryMiB": float(row["max_rss"])}
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return stages


def _runs(run: dict[str, Any]) -> dict[str, Any]:
    """A run's record under BIDS-like names."""
    names = {"peak_mem_mb": "PeakMemoryMiB", "network_calls": "NetworkCalls", "versions": "Packages"}
    return {names.get(key, key.title().replace("_", "")): run[key] for key in RUN_KEYS if run.get(key) is not None}


def _present(**items: Any) -> dict[str, Any]:
    return {key: value for key, value in items.items() if value not in (None, {}, [])}


def _read(path: Path) -> dict[str, Any]:
    return json_object(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.provenance", description="Checksums of exports.")
    parser.add_argument("command", choices=("check", "sums"))
    parser.add_argument("folder", type=Path, help="an export's folder (check), or a study's (check, sums)")
    arguments = parser.parse_args(argv)
    if arguments.command == "sums":
        write_sums(arguments.folder, study_files(arguments.folder))
        return 0
    differences = check(arguments.folder)
    print("\n".join(differences) or f"{arguments.folder}: every file is as it was written")
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
