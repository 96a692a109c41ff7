"""Whose the exported series are: nothing of the patient by default, pseudonyms by key, everything when it is kept."""

import gzip
import json
import re
from datetime import date
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.uid import UID

from data.dicom_deidentify import MAX_SHIFT_DAYS, Kept, Pseudonyms, may_show_face
from data.dicom_frames import quiet
from tests.data import dicom_builder as build
from tests.pipeline.export_builder import PLANTED, export, make, slices

PLANTED_DATE, PLANTED_NUMBER = "19470611", "77.7712"
TEXT = {"LO", "SH", "PN", "ST", "LT", "UT", "UC", "UR", "AE", "CS"}
DATES = {"DA": PLANTED_DATE, "DT": f"{PLANTED_DATE}112233", "TM": "112233.471", "AS": "077Y"}
# What reading an image needs, and what says that it is none.
NEEDED = {
    "SpecificCharacterSet", "NumberOfFrames", "RescaleType", "PerFrameFunctionalGroupsSequence", "FrameType",
    "PixelDataProviderURL", "ModalityLUTSequence", "LossyImageCompression", "ImageType", "Modality",
    "PhotometricInterpretation", "PixelPresentation",
}  # fmt: skip
# Numbers of the technique that the allow-list has.
TECHNIQUE = {"KVP", "RepetitionTime", "EchoTime", "EffectiveEchoTime", "InversionTime", "FlipAngle"}
TECHNIQUE |= {"MagneticFieldStrength"}


def plant(dataset: Dataset, deep: bool = True) -> None:
    """Put the planted value into every attribute of the standard that holds text, a date, a number or a sequence."""
    own = set(dataset.dir()) - {"PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID"}
    own -= {"AccessionNumber", "Manufacturer", "PatientSex"}
    for tag, (vr, vm, _, retired, keyword) in DicomDictionary.items():
        skipped = tag < 0x00080000 or retired or not keyword or keyword.startswith("Pixel")
        if skipped or keyword in own | NEEDED | TECHNIQUE:
            continue
        if vr in TEXT:
            setattr(dataset, keyword, PLANTED[:16])
        elif vr in DATES:
            setattr(dataset, keyword, DATES[vr])
        elif vr == "DS" and vm == "1":
            setattr(dataset, keyword, PLANTED_NUMBER)
        elif vr == "SQ" and deep:
            item = Dataset()
            item.PatientName, item.InstitutionName, item.PatientBirthDate = PLANTED, PLANTED, PLANTED_DATE
            item.ReferencedSOPInstanceUID = "1.2.3.4747"
            setattr(dataset, keyword, [item])
    block = dataset.private_block(0x0013, PLANTED, create=True)
    block.add_new(0x10, "LO", PLANTED)
    block.add_new(0x11, "UN", PLANTED.encode())


def planted(study: Path) -> None:
    for path in study.iterdir():
        dataset = pydicom.dcmread(path)
        plant(dataset)
        for group in dataset.get("PerFrameFunctionalGroupsSequence", ()):
            content = Dataset()
            content.FrameComments, content.FrameAcquisitionDateTime = PLANTED, DATES["DT"]
            group.FrameContentSequence = [content]
        dataset.save_as(path)


def uids(study: Path) -> set[str]:
    """All UIDs of the source but those that the standard registers."""
    found = set()
    for path in study.iterdir():
        for element in pydicom.dcmread(path, stop_before_pixels=True).iterall():
            if element.VR == "UI" and not str(element.value).startswith("1.2.840.10008."):
                found.add(str(element.value))
    return found


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("kind", ["dicom", "enhanced"])
@pytest.mark.hostile("patient, physician, institution, device and private values in every attribute of the source")
def test_nothing_of_the_source_is_exported(tmp_path, capfd, record_property, modality, kind):
    results, ingested, _ = make(tmp_path, build.Series(modality), kind, planted)
    study = tmp_path / "study"
    count = len(pydicom.dcmread(next(study.iterdir()), stop_before_pixels=True))
    assert count > 1500
    asked = ["std", "parametric_map", "point", "lower", "upper", "baseline"]
    assert export(results, ingested, results / "export", modality=modality.lower(), dicom_series=asked) == 0
    forbidden = [PLANTED[:16], PLANTED_DATE, PLANTED_NUMBER, "1.2.3.4747", "112233.471", "077Y", *uids(study)]
    files = [path for path in (results / "export").rglob("*") if path.is_file()]
    for path in files:
        assert PLANTED not in str(path.relative_to(results))
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        # Pixels may hold any byte: numbers are looked for outside them.
        text = content if path.suffix != ".dcm" else header_bytes(path)
        for word in forbidden:
            assert word.lower().encode() not in text.lower(), (path.name, word)
        assert b"/home/" not in content
    said = capfd.readouterr()
    assert PLANTED[:16] not in said.out + said.err
    record_property("measured", f"{count} attributes planted, none in {len(files)} files")


def header_bytes(path: Path) -> bytes:
    """The file without its pixels."""
    dataset = pydicom.dcmread(path)
    pixels = dataset.get("PixelData") or dataset.get("FloatPixelData")
    return path.read_bytes().replace(pixels, b"")


def test_only_the_allow_list_is_there(tmp_path):
    results, ingested, _ = make(tmp_path, build.Series("MR"), "dicom", planted)
    assert export(results, ingested, results / "export", modality="mr") == 0
    for name in ("pam_reconstruction", "pam_std"):
        for dataset in slices(results / "export" / "dicom" / name):
            assert len(dataset) < 70
            assert not [element for element in dataset.iterall() if element.tag.is_private]
            assert (str(dataset.PatientBirthDate), dataset.StudyTime, dataset.AccessionNumber) == ("", "", "")
            assert re.fullmatch("SW[0-9A-F]{16}", dataset.PatientID)
            assert dataset.PatientIdentityRemoved == "YES"
            codes = [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence]
            assert codes == ["113100", "113107"]
            assert dataset.LongitudinalTemporalInformationModified == "MODIFIED"


def study_of(patient: str, day: str) -> Dataset:
    header = Dataset()
    with quiet():
        header.PatientID, header.StudyDate = patient, day
    header.StudyInstanceUID = f"1.2.3.{sum(map(ord, patient + day))}"
    return header


def days(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


def test_a_patients_studies_stay_together():
    mapped, other = Pseudonyms(b"k" * 32), Pseudonyms(b"K" * 32)
    first, second, stranger = study_of("A1", "20200301"), study_of("A1", "20210301"), study_of("A2", "20200301")
    assert mapped.patient(first) == mapped.patient(second) != mapped.patient(stranger)
    assert mapped.patient(first) != other.patient(first)
    assert (days(mapped.shifted(second)) - days(mapped.shifted(first))).days == 365
    moved = (days("20200301") - days(mapped.shifted(first))).days
    assert 1 <= moved <= MAX_SHIFT_DAYS
    assert mapped.shifted(first) != mapped.shifted(stranger)
    assert mapped.uid("1.2.3") == mapped.uid("1.2.3") != other.uid("1.2.3")
    assert mapped.uid("1.2.3") != mapped.uid("1.2.4")
    assert re.fullmatch(r"2\.25\.[1-9][0-9]{1,38}", mapped.uid("1.2.3"))
    assert "kkkk" not in repr(mapped)


@given(st.text(max_size=64), st.text(max_size=64), st.dates(date(1930, 1, 1)), st.dates(date(1930, 1, 1)))
def test_any_id_and_date_are_mapped(patient, uid, first, second):
    mapped, header = Pseudonyms(b"k" * 32), Dataset()
    with quiet():
        header.StudyInstanceUID, header.PatientID = "1.2.3", patient
    assert len(mapped.uid(uid)) <= 64
    assert UID(mapped.uid(uid)).is_valid
    assert re.fullmatch("SW[0-9A-F]{16}", mapped.patient(header))
    moved = []
    for day in (first, second):
        header.StudyDate = day.isoformat().replace("-", "")
        moved.append(days(mapped.shifted(header)))
    assert moved[0] - moved[1] == first - second


def test_studies_without_a_patient_are_kept_apart_and_odd_dates_removed():
    mapped = Pseudonyms(b"k" * 32)
    first, second = study_of("", "20200301"), study_of(" ", "20210301")
    assert mapped.patient(first) != mapped.patient(second)
    for text in ("", "2020", "20201399", "00010101", "yesterday"):
        assert mapped.shifted(study_of("A1", text)) == ""
    described = Dataset()
    mapped.describe(described, study_of("A1", ""))
    assert described.LongitudinalTemporalInformationModified == "REMOVED"


NAMES = {
    "latin": ("ISO_IR 100", "Müller^Jörg"),
    "utf-8": ("ISO_IR 192", "山田^太郎"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    "none": (None, "Doe^Jane"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["dicom", "enhanced"])
def test_keep_brings_patient_and_study_back_where_they_came_from(tmp_path, capfd, name, kind):
    charset, patient = NAMES[name]
    tags = {"PatientName": patient, "PatientID": "4711", "IssuerOfPatientID": "H", "PatientBirthDate": "19470611"}
    tags |= {"PatientSex": "F", "PatientAge": "073Y", "StudyDescription": "Thorax", "AccessionNumber": "A9"}
    tags |= {"InstitutionName": PLANTED, "OperatorsName": PLANTED, "DeviceSerialNumber": PLANTED}
    tags |= {"SpecificCharacterSet": charset} if charset else {}
    results, ingested, _ = make(tmp_path, build.Series(tags=tags), kind)
    assert export(results, ingested, results / "export", deidentify="keep") == 0
    assert "113102" not in capfd.readouterr().out
    assert not (tmp_path / "key").exists()
    original = pydicom.dcmread(next((tmp_path / "study").iterdir()))
    for folder in ("pam_reconstruction", "pam_std", "pam_std_map"):
        for dataset in slices(results / "export" / "dicom" / folder):
            for keyword in (*tags, "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "StudyTime"):
                if keyword not in ("InstitutionName", "OperatorsName", "DeviceSerialNumber"):
                    assert dataset[keyword].value == original[keyword].value, keyword
            assert "InstitutionName" not in dataset
            assert PLANTED not in str(dataset)


def test_keep_drops_what_is_private_and_survives_values_that_are_wrong(tmp_path):
    def prepare(study):
        for path in study.iterdir():
            dataset = pydicom.dcmread(path)
            code = Dataset()
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99H", "Thorax"
            code.private_block(0x0013, PLANTED, create=True).add_new(0x10, "LO", PLANTED)
            dataset.ProcedureCodeSequence, dataset.PatientWeight = [code], "70"
            dataset.save_as(path)
            path.write_bytes(path.read_bytes().replace(b"DS\x02\x0070", b"DS\x02\x007x"))

    results, ingested, _ = make(tmp_path, build.Series(), prepare=prepare)
    assert export(results, ingested, results / "export", deidentify="keep") == 0
    for name in ("pam_std", "pam_std_map"):
        dataset = slices(results / "export" / "dicom" / name)[0]
        assert dataset.ProcedureCodeSequence[0].CodeMeaning == "Thorax"
        assert PLANTED not in str(dataset)
        assert "PatientID" in dataset


def test_false_means_keep(tmp_path):
    results, ingested, _ = make(tmp_path, build.Series(tags={"PatientID": "4711"}))
    for name, value in (("false", False), ("keep", "keep")):
        assert export(results, ingested, tmp_path / name, deidentify=value) == 0
    files = [path.relative_to(tmp_path / "keep") for path in (tmp_path / "keep").rglob("*") if path.is_file()]
    for path in files:
        assert (tmp_path / "keep" / path).read_bytes() == (tmp_path / "false" / path).read_bytes()
    assert isinstance(Kept(), Kept)


@pytest.mark.parametrize(
    ("part", "shows"), [("HEAD", True), (None, True), ("", True), ("CHEST", False), ("chest ", False), ("NECK", True)]
)
def test_faces(part, shows):
    assert may_show_face(part) is shows


def test_a_face_is_warned_of_in_log_sidecar_and_header(tmp_path, capfd):
    for part, warned in (("HEAD", True), ("CHEST", False)):
        results, ingested, _ = make(tmp_path / part, build.Series("MR", tags={"BodyPartExamined": part}))
        capfd.readouterr()
        assert export(results, ingested, results / "export", modality="mr") == 0
        assert ("113102" in capfd.readouterr().out) is warned
        text = (results / "export" / "dataset_description.json").read_text(encoding="utf-8")
        facts = json.loads(text)["GeneratedBy"][0]["Provenance"]
        assert any("113102" in warning for warning in facts["Warnings"]) is warned
        for name in ("pam_reconstruction", "pam_std_map"):
            dataset = slices(results / "export" / "dicom" / name)[0]
            assert dataset.RecognizableVisualFeatures == ("YES" if warned else "NO")
