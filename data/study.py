"""What a study folder holds: DICOM series, volumes and measured data in other forms, and what is none of these."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from data.dicom_frames import Frame, OtherObject, looks_like_dicom, read_frames
from data.dicom_series import Policies, group_frames, refuse_unusable
from data.errors import InputError
from data.kspace import SUFFIXES as KSPACE_SUFFIXES
from data.kspace import is_kspace, kspace_files, kspace_parts
from data.metaimage import metaimage_files
from data.nifti import image_beside, is_pair, volumes_in
from data.nrrd import nrrd_files
from data.projections import claims as claims_projections
from data.projections import projection_files
from data.reasons import REASONS


@dataclass(frozen=True)
class Finding:
    """One series of a study.

    name: never from a patient attribute; a file's path for all but DICOM. modality: "ct", "mr", or "" where the
    files do not say. kind: "dicom", "other", or the kind of a form in FORMS. error: why it cannot be taken, as far as
    headers tell. part: which of several series in one file. notes: what was done to make it one series, in words for
    the manifest.
    """

    name: str
    modality: str
    kind: str
    files: tuple[Path, ...]
    frames: tuple[Frame, ...] = ()
    error: InputError | None = None
    part: str = ""
    notes: tuple[str, ...] = ()


def _any_content(_path: Path) -> bool:
    return True


def _no_others(_path: Path) -> tuple[Path, ...]:
    return ()


def _one_part(_path: Path, _policies: Policies) -> tuple[str, ...]:
    return ("",)


def _kspace_parts(path: Path, _policies: Policies) -> tuple[str, ...]:
    return kspace_parts(path)


def _nifti_parts(path: Path, policies: Policies) -> tuple[str, ...]:
    """One part a volume of a 4D file, counted from 1, where the policies split what is measured so often."""
    count = volumes_in(path)
    if policies.on_repeat != "split" or not 1 < count <= policies.max_repeats:
        return ("",)
    return tuple(f"v{number:0{len(str(count))}d}" for number in range(1, count + 1))


@dataclass(frozen=True)
class Form:
    """A way to keep a series in files, known by the name of one of them.

    suffixes: lower case. claims: a cheap look at that file, which never raises, where the name is not enough. beside:
    paths of further files that belong to the series if they are there; they make no series of their own. parts: names
    of the series in that file under the policies, ("",) for one; never raises.
    """

    kind: str
    modality: str
    suffixes: tuple[str, ...]
    claims: Callable[[Path], bool] = _any_content
    beside: Callable[[Path], tuple[Path, ...]] = _no_others
    parts: Callable[[Path, Policies], tuple[str, ...]] = _one_part


FILES_WORTH_A_BAR = 500
# The first form that claims a file has it. pipeline.ingest.TAKERS has one function for each kind.
FORMS = (
    Form("nifti", "", (".nii.gz", ".nii"), parts=_nifti_parts),
    Form("nifti", "", (".hdr",), is_pair, image_beside, _nifti_parts),
    Form("nrrd", "", (".nrrd", ".nhdr"), beside=nrrd_files),
    Form("metaimage", "", (".mha", ".mhd"), beside=metaimage_files),
    Form("projections", "ct", (".json", ".mat"), claims_projections, projection_files),
    Form("kspace", "mr", KSPACE_SUFFIXES, is_kspace, kspace_files, _kspace_parts),
)


def find_series(study: Path, policies: Policies | None = None) -> list[Finding]:
    """All series below a folder, in a stable order. Symbolic links that leave the folder are not followed.

    Reads the header of each DICOM file once and no pixels, unless two planes of a series share a place.
    """
    if not study.is_dir():
        raise InputError(f"{study} is not a folder: give the folder of one study.")
    frames: list[Frame] = []
    others: list[OtherObject] = []
    paths = list(_files(study))
    policies = policies or Policies()
    findings, claimed = _formed(study, paths, policies)
    rest = [path for path in paths if path not in claimed]
    for path in tqdm(rest, desc="headers", unit="file", mininterval=1, disable=len(rest) < FILES_WORTH_A_BAR):
        name = path.relative_to(study).as_posix()
        try:
            _look_at(path, frames, others)
        except InputError as error:
            findings.append(Finding(_hashed("file", name), "", "other", (path,), error=error))
    series = [*findings, *_volumes(frames, policies), *_grouped(others)]
    return sorted(series, key=lambda finding: (finding.kind, finding.name))


def _look_at(path: Path, frames: list[Frame], others: list[OtherObject]) -> None:
    """Add what a file holds to one of the lists. Raises InputError where it is damaged DICOM."""
    if looks_like_dicom(path):
        described = read_frames(path)
        if isinstance(described, OtherObject):
            others.append(described)
        else:
            frames.extend(described)
    elif path.name.lower().endswith((".dcm", ".ima")):
        raise InputError(f"{path} is empty or not DICOM: copy it again or remove it.", "undecodable")


def _formed(study: Path, paths: list[Path], policies: Policies) -> tuple[list[Finding], set[Path]]:
    """(the series that FORMS know, all files of theirs)."""
    there = set(paths)
    heads = [(path, form) for path in paths if (form := _form_of(path)) is not None]
    beside = {path: tuple(other for other in form.beside(path) if other in there) for path, form in heads}
    parts = {other for others in beside.values() for other in others}
    findings = []
    for path, form in heads:
        if path in parts:
            continue
        name = path.relative_to(study).as_posix()
        suffix = next(suffix for suffix in form.suffixes if name.lower().endswith(suffix))
        stem, files = name[: -len(suffix)], (path, *beside[path])
        for part in form.parts(path, policies):
            findings.append(
                Finding(f"{stem}-{part}" if part else stem, form.modality, form.kind, files, part=part)
            )
    return findings, parts | set(beside)


def _form_of(path: Path) -> Form | None:
    name = path.name.lower()
    return next((form for form in FORMS if name.endswith(form.suffixes) and form.claims(path)), None)


def _files(study: Path) -> Iterator[Path]:
    """Regular files in sorted order; hidden ones, and links to outside the study, are left alone."""
    home = study.resolve()
    for folder, folders, names in os.walk(study, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if not name.startswith(".") and _regular_inside(path, home):
                yield path


def _regular_inside(path: Path, home: Path) -> bool:
    """Whether a path is a file, or a link to one that lies in the study; links in a circle are neither."""
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            return False
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError):
        return False


def _volumes(frames: list[Frame], policies: Policies) -> Iterator[Finding]:
    for group in group_frames(frames, policies):
        error = None
        try:
            refuse_unusable(group)
        except InputError as refused:
            error = refused
        files = tuple(dict.fromkeys(frame.path for frame in group.frames))
        yield Finding(group.name, group.modality, "dicom", files, group.frames, error, notes=group.notes)


def _grouped(others: list[OtherObject]) -> Iterator[Finding]:
    rows = defaultdict(list)
    for other in others:
        rows[other.series_uid, other.reason, other.what].append(other.path)
    for (series_uid, reason, what), files in rows.items():
        error = InputError(f"{REASONS[reason].text} ({what})" if what else REASONS[reason].text, reason)
        yield Finding(_hashed("other", series_uid + what), "", "other", tuple(files), error=error)


def _hashed(stem: str, text: str) -> str:
    return stem + sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
