"""What a study folder holds: DICOM series, NIfTI volumes, raw k-space, and what is none of these."""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from data.dicom_frames import Frame, OtherObject, looks_like_dicom, read_frames
from data.dicom_series import group_frames, refuse_unusable
from data.errors import InputError
from data.kspace import SUFFIXES
from data.reasons import REASONS


@dataclass(frozen=True)
class Finding:
    """One series of a study.

    name: never from a patient attribute; a file's path for NIfTI and k-space. modality: "ct", "mr", or "" where the
    files do not say. kind: "dicom", "nifti", "kspace" or "other". error: why it cannot be taken, as headers tell.
    """

    name: str
    modality: str
    kind: str
    files: tuple[Path, ...]
    frames: tuple[Frame, ...] = ()
    error: InputError | None = None


def find_series(study: Path) -> list[Finding]:
    """All series below a folder, in a stable order. Symbolic links that leave the folder are not followed."""
    if not study.is_dir():
        raise InputError(f"{study} is not a folder: give the folder of one study.")
    frames: list[Frame] = []
    others: list[OtherObject] = []
    findings: list[Finding] = []
    for path in _files(study):
        name = path.relative_to(study).as_posix()
        lower = path.name.lower()
        if lower.endswith((".nii", ".nii.gz")):
            findings.append(Finding(name[: lower.rindex(".nii") - len(lower)], "", "nifti", (path,)))
        elif lower.endswith(SUFFIXES):
            beside = tuple(notes for notes in (path.with_suffix(".json"),) if notes.is_file())
            findings.append(Finding(name[: name.rindex(".")], "mr", "kspace", (path, *beside)))
        elif looks_like_dicom(path):
            _sort_dicom(path, frames, others, findings)
        elif lower.endswith((".dcm", ".ima")):
            error = InputError(f"{path} is empty or not DICOM: copy it again or remove it.", "undecodable")
            findings.append(Finding(_hashed("file", name), "", "other", (path,), error=error))
    return sorted([*findings, *_volumes(frames), *_grouped(others)], key=lambda finding: (finding.kind, finding.name))


def _files(study: Path) -> Iterator[Path]:
    """Regular files in sorted order; hidden ones, and links to outside the study, are left alone."""
    home = study.resolve()
    for folder, folders, names in os.walk(study, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith(".") or (path.is_symlink() and not path.resolve().is_relative_to(home)):
                continue
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except OSError:
                continue
            if regular:
                yield path


def _sort_dicom(path: Path, frames: list[Frame], others: list[OtherObject], findings: list[Finding]) -> None:
    try:
        described = read_frames(path)
    except InputError as error:
        findings.append(Finding(_hashed("file", path.name), "", "other", (path,), error=error))
        return
    if isinstance(described, OtherObject):
        others.append(described)
    else:
        frames.extend(described)


def _volumes(frames: list[Frame]) -> Iterator[Finding]:
    for group in group_frames(frames):
        error = None
        try:
            refuse_unusable(group)
        except InputError as refused:
            error = refused
        files = tuple(dict.fromkeys(frame.path for frame in group.frames))
        yield Finding(group.name, group.modality, "dicom", files, group.frames, error)


def _grouped(others: list[OtherObject]) -> Iterator[Finding]:
    rows = defaultdict(list)
    for other in others:
        rows[other.series_uid, other.reason].append(other.path)
    for (series_uid, reason), files in rows.items():
        error = InputError(REASONS[reason].text, reason)
        yield Finding(_hashed("other", series_uid), "", "other", tuple(files), error=error)


def _hashed(stem: str, text: str) -> str:
    return stem + sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
