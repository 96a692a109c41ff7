"""No patient in any log, path, page, sidecar, export or error text: a search for what was planted in the input."""

import base64
import gzip
import json
import zipfile

import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

from tests.robustness.fault_runner import Request
from tests.robustness.identity import PLANTED, found_in, holds, plant, unpacked
from tests.robustness.stages import write_study

pytestmark = pytest.mark.hostile("identity: planted names, ids, dates and UIDs searched in everything written")


def test_the_search_finds_what_is_packed(tmp_path):
    """In a gzip in a base64 in a zip, in 16-bit text, in a name."""
    page = b"<html>" + base64.b64encode(gzip.compress(b"..plantedID4711..")) + b"</html>"
    with zipfile.ZipFile(tmp_path / "report.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("page.html", page)
    (tmp_path / "wide.txt").write_bytes("PLANTEDID4711".encode("utf-16-le"))
    (tmp_path / "plantedid4711.txt").touch()
    (tmp_path / "clean.txt").write_text("PLANTEDID 4711")
    assert len(found_in(tmp_path, {b"PLANTEDID4711"})) == 3


def test_nobody_in_results_of_any_stage(tree, record_property):
    """Every stage's files, its words on the terminal, and the folders where they were run."""
    files = [path for path in tree.results.parent.rglob("*") if path.is_file() and tree.study not in path.parents]
    assert any(path.suffix == ".dcm" for path in files)
    assert any(path.suffix == ".html" for path in files)
    said = "\n".join(reply["out"] + reply["err"] for reply in tree.replies.values()).encode()
    assert not [word for word in tree.planted if holds(said, word)]
    kept = tree.study.rename(tree.study.parent.parent / "study-elsewhere")
    try:
        assert found_in(tree.results.parent, tree.planted) == []
    finally:
        kept.rename(tree.study)
    total = sum(path.stat().st_size for path in files)
    searched = f"{len(tree.planted)} words in {len(files)} files, {total / 1e6:.1f} MB before unpacking"
    record_property("measured", f"{searched}: none found")


HARMS = {
    "cut short": lambda dataset, path: path.write_bytes(path.read_bytes()[:-500]),
    "cut in its header": lambda dataset, path: path.write_bytes(path.read_bytes()[:700]),
    "a name where a number belongs": lambda dataset, path: _save(dataset, path, SliceThickness="Plantedname"),
    "a name as position": lambda dataset, path: _save(dataset, path, ImagePositionPatient=["Plantedname"] * 3),
    "a name as spacing": lambda dataset, path: _save(dataset, path, PixelSpacing=["PLANTEDID4711", "1"]),
    "a name as slope": lambda dataset, path: _save(dataset, path, RescaleSlope="Plantedname"),
    "a name as number of frames": lambda dataset, path: _save(dataset, path, NumberOfFrames="Plantedname"),
    "a name as image type": lambda dataset, path: _save(dataset, path, ImageType=["DERIVED", "PRIMARY", "Plantedname"]),
    "a name as photometric interpretation": lambda dataset, path: _save(
        dataset, path, PhotometricInterpretation="PLANTEDID4711"
    ),
    "a name as rescale type": lambda dataset, path: _save(dataset, path, RescaleType="PLANTEDID4711"),
    "a name as kernel and comment": lambda dataset, path: _save(
        dataset, path, ConvolutionKernel="Plantedname", FrameComments="Plantedname", ContrastBolusAgent="Plantedname"
    ),
    "no series": lambda dataset, path: _save(dataset, path, SeriesInstanceUID=""),
    "another class": lambda dataset, path: _save(dataset, path, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
}


def _save(dataset, path, **tags):
    """Values as they stand, numbers or not."""
    with pydicom.config.disable_value_validation():
        for keyword, value in tags.items():
            tag = tag_for_keyword(keyword)
            dataset[tag] = DataElement(tag, dictionary_VR(tag), value, already_converted=True)
        dataset.save_as(path)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("files", ["one", "all"])
def test_nobody_in_error_texts(runner, tmp_path, harm, files):
    paths = write_study(tmp_path / "study")
    words = plant(paths)
    for path in paths if files == "all" else paths[2:3]:
        HARMS[harm](pydicom.dcmread(path), path)
    out = tmp_path / "out" / "ingest"
    settings = json.dumps({"modality": "ct"})
    argv = ["--study", str(tmp_path / "study"), "--out", str(out), "--settings", settings]
    done = runner(Request("pipeline.ingest", argv, str(out.parent)))
    assert "Traceback" not in done["err"]
    assert not [word for word in words if holds((done["out"] + done["err"]).encode(), word)]
    assert found_in(tmp_path / "out", words) == []


def test_what_is_planted_is_in_the_input(tree):
    content = b"".join(part for path in tree.study.iterdir() for part in unpacked(path.read_bytes()))
    assert all(holds(content, word) for word in tree.planted)
    assert len(tree.planted) > len(PLANTED)
