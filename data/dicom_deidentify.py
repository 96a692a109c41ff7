"""Whose a derived series is: pseudonyms by key (PS3.15 annex E, basic profile by allow-list), or the patient kept.

Nothing is taken out of a copy of the source: a derived data set starts empty, and only what this module and
data.dicom_derived put into it is there. Private attributes and sequences of the source never are.
"""

import hmac
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from data.dicom_frames import quiet
from data.errors import InputError

MIN_KEY_CHARACTERS = 32
MAX_SHIFT_DAYS = 3652
METHOD = "sliceweave: allow-list, keyed pseudonyms and UIDs, dates shifted"
PROFILE = (
    Code("113100", "DCM", "Basic Application Confidentiality Profile"),
    Code("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
# Patient, patient study and general study modules (PS3.3): what an archive compares between the series of a study.
KEPT = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC",
    "ReferencedPatientSequence", "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence", "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence", "PatientBirthDate", "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar", "PatientAlternativeCalendar",
    "PatientSex", "QualityControlSubject", "StrainDescription", "StrainNomenclature", "StrainStockSequence",
    "StrainAdditionalInformation", "StrainCodeSequence", "GeneticModificationsSequence", "OtherPatientIDs",
    "OtherPatientNames", "OtherPatientIDsSequence", "ReferencedPatientPhotoSequence", "EthnicGroup",
    "EthnicGroupCodeSequence", "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription",
    "PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole",
    "ResponsibleOrganization", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "LongitudinalTemporalInformationModified",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize",
    "PatientSizeCodeSequence", "PatientBodyMassIndex", "MeasuredAPDimension", "MeasuredLateralDimension",
    "PatientWeight", "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus", "AdditionalPatientHistory",
    "PregnancyStatus", "LastMenstrualDate", "PatientSexNeutered", "ReasonForVisit", "ReasonForVisitCodeSequence",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence", "PatientState",
    "StudyDate", "StudyTime", "AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence",
    "StudyDescription", "ProcedureCodeSequence", "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy", "PhysiciansReadingStudyIdentificationSequence", "ReferencedStudySequence",
    "StudyID", "RequestingService", "RequestingServiceCodeSequence", "ReasonForPerformedProcedureCodeSequence",
)  # fmt: skip
EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip
NOT_THE_HEAD = {
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "BREAST", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "ELBOW", "FOOT", "HAND",
    "HEART", "HIP", "KNEE", "LIVER", "LSPINE", "PELVIS", "PROSTATE", "SHOULDER", "TSPINE", "WRIST",
}  # fmt: skip
FACE = (
    "the surface of a head can be rendered as a face, which may identify the patient, and pixels are exported as they"
    " are (DICOM option 113102, clean recognizable visual features, is not applied)"
)


@dataclass(frozen=True)
class Kept:
    """The patient and the study as the source names them, for re-import where it came from."""

    def uid(self, source_uid: str) -> str:
        return source_uid

    def describe(self, dataset: Dataset, header: Dataset) -> None:
        """Put the attributes of patient and study into a data set, but for values that cannot be read."""
        _blank(dataset, header.StudyInstanceUID)
        for keyword in KEPT:
            if keyword in header:
                with quiet(), suppress(ValueError, TypeError, OverflowError):
                    dataset[keyword] = deepcopy(header[keyword])
        dataset.remove_private_tags()


@dataclass(frozen=True)
class Pseudonyms:
    """The same key gives the same pseudonym, UIDs and shift of dates, so that a patient's studies stay together.

    Without the key nobody can tell which UID or patient a pseudonym stands for; with it, a guess can be checked.
    """

    key: bytes = field(repr=False)

    def uid(self, source_uid: str) -> str:
        """A UID under 2.25 (ISO/IEC 9834-8) in place of a UID."""
        return f"2.25.{UUID(bytes=self._digest('uid', str(source_uid))[:16], version=4).int}"

    def patient(self, header: Dataset) -> str:
        """The pseudonym; studies without a PatientID are patients of their own."""
        return f"SW{self._digest('patient', *self._patient(header))[:8].hex().upper()}"

    def shifted(self, header: Dataset) -> str:
        """The study's date moved into the past by the patient's own number of days; empty for none or a wrong one."""
        days = 1 + int.from_bytes(self._digest("days", *self._patient(header))[:8]) % MAX_SHIFT_DAYS
        text = str(header.get("StudyDate", "") or "")
        try:
            moved = date.fromisoformat(f"{text[:4]}-{text[4:6]}-{text[6:8]}") - timedelta(days=days)
        except (ValueError, OverflowError):
            return ""
        return moved.isoformat().replace("-", "")

    def describe(self, dataset: Dataset, header: Dataset) -> None:
        """Put pseudonym, shifted date and what was done into a data set."""
        _blank(dataset, self.uid(header.StudyInstanceUID))
        dataset.PatientID = self.patient(header)
        dataset.PatientName = f"SLICEWEAVE^{dataset.PatientID}"
        dataset.StudyDate = self.shifted(header)
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = METHOD
        dataset.DeidentificationMethodCodeSequence = [coded(code) for code in PROFILE]
        dataset.LongitudinalTemporalInformationModified = "MODIFIED" if dataset.StudyDate else "REMOVED"

    def _patient(self, header: Dataset) -> tuple[str, ...]:
        own = str(header.get("PatientID", "") or "").strip()
        return (own, str(header.get("IssuerOfPatientID", "") or "")) if own else ("", str(header.StudyInstanceUID))

    def _digest(self, *parts: str) -> bytes:
        return hmac.new(self.key, "\0".join(parts).encode("utf-8", "surrogateescape"), sha256).digest()


Identity = Kept | Pseudonyms


def read_key(path: Path, warn: Callable[[str], None]) -> bytes:
    """The key in a file, made on first use for the owner alone. InputError for a file that is no key.

    A key file is text of at least 32 characters; spaces around it do not count. Several processes may ask at once.
    """
    if not path.exists():
        _make_key(path, warn)
    try:
        key = path.read_bytes().strip()
        shared = stat.S_IMODE(path.stat().st_mode) & 0o077
    except OSError as error:
        raise InputError(f"export.key_file: {path} cannot be read ({error.strerror}); name another file.") from error
    if len(key) < MIN_KEY_CHARACTERS:
        raise InputError(
            f"export.key_file: {path} holds fewer than {MIN_KEY_CHARACTERS} characters; name another file, or one"
            " that is not there yet, and a key is made."
        )
    if shared:
        warn(f"others may read the key {path}: chmod 600 it")
    return key


def may_show_face(body_part: str | None) -> bool:
    """True unless the body part is known and is not the head."""
    return str(body_part or "").strip().upper() not in NOT_THE_HEAD


def coded(code: Code) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _blank(dataset: Dataset, study_uid: str) -> None:
    dataset.StudyInstanceUID = study_uid
    for keyword in EMPTY:
        setattr(dataset, keyword, "")


def _make_key(path: Path, warn: Callable[[str], None]) -> None:
    """Write a new key beside its name and link it there: whoever comes second reads the first one's key."""
    temporary = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            handle.write(secrets.token_hex(32) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            temporary.rename(path)
        warn(f"a new key for pseudonyms was made, {path}: keep it, and do not pass it on with the results")
    except OSError as error:
        raise InputError(f"export.key_file: {path} cannot be written ({error.strerror}); name another.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
