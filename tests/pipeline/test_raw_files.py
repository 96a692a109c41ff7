"""Raw MR files through ingest and measure: one acquisition in several forms, and what a scanner's file has in it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.kspace import read_kspace
from operators.coils import simulate_sensitivities
from operators.fourier import fft2
from pipeline.ingest import ingest, ingest_settings
from pipeline.ingest import main as ingest_main
from pipeline.ingest_kspace import read_series
from pipeline.measure import main as measure_main
from pipeline.measurement import read_measurement
from pipeline.problem import load_problem
from tests.data.raw_builder import Scan, Writer, write_cartesian, write_fastmri
from tests.operators.helpers import seeded, write_cfl
from tests.operators.test_mri import phantom

DEMO = Path(__file__).parents[2] / "data" / "demo" / "kspace" / "brain8coil"
NOISE, CALIBRATION = 19, 20


def measured(study: Path, out: Path, capsys, **section):
    """The measurement of the one series of a study, through both stages' command lines."""
    assert ingest_main(["--study", str(study), "--out", str(out / "ingest"), "--settings", '{"modality": "mr"}']) == 0
    manifest = json.loads((out / "ingest" / "manifest.json").read_text())["series"]
    series = out / "ingest" / next(row["series"] for row in manifest if row["accepted"])
    values = json.dumps({"source": "measured"} | section)
    assert measure_main(["--input", str(series), "--out", str(out / "m"), "--settings", values]) == 0
    return read_measurement(out / "m"), manifest, capsys.readouterr().out


def forms_of_the_demo(folder: Path) -> None:
    """The middle of the shipped eight-coil scan in every form; in ISMRMRD as 3D lines of one sample, each by itself."""
    kspace = np.ascontiguousarray(np.load(DEMO / "kspace.npy")[:, 83:147, 62:118])
    for form in ("array", "ismrmrd", "fastmri", "bart"):
        (folder / form).mkdir(parents=True)
    np.save(folder / "array" / "kspace.npy", kspace)
    notes = json.loads((DEMO / "kspace.json").read_text(encoding="utf-8")) | {"shape": list(kspace.shape)}
    (folder / "array" / "kspace.json").write_text(json.dumps(notes), encoding="utf-8")
    scan = Scan((1, 56, 64), (1.0, 56.0, 64.0), axes=((0, 0, 1), (1, 0, 0), (0, 1, 0)))
    with Writer(folder / "ismrmrd" / "scan.h5", scan) as writer:
        for y, x in zip(*np.nonzero(np.abs(kspace).sum(0)), strict=True):
            writer.line(kspace[:, y, x][:, None], kspace_encode_step_1=int(x), kspace_encode_step_2=int(y))
    write_fastmri(folder / "fastmri" / "scan.h5", kspace[None], Scan((64, 56, 1), (64.0, 56.0, 1.0)))
    write_cfl(folder / "bart" / "scan", kspace.transpose(2, 1, 0)[:, :, None])


@pytest.mark.interop("read", "one scan as array, ISMRMRD, fastMRI and BART", "ismrmrd-python, h5py, BART's format")
def test_one_real_scan_in_four_forms_is_one_measurement(tmp_path, capsys, record_property):
    forms_of_the_demo(tmp_path / "studies")
    found = {}
    for form in ("array", "ismrmrd", "fastmri", "bart"):
        found[form], _, _ = measured(tmp_path / "studies" / form, tmp_path / form, capsys)
    first = found.pop("array")
    worst = 0.0
    for other in found.values():
        assert other.tensors.keys() == first.tensors.keys()
        for name, array in first.tensors.items():
            worst = max(worst, float(np.abs(other.tensors[name].astype(np.complex64) - array).max()))
    record_property("measured", f"largest difference {worst:g} in k-space, masks, coil maps and start")
    assert worst == 0


COILS, ROWS, COLUMNS, SLICES = 12, 64, 48, 2


def write_scanner_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(image (z y x), mix of the coils) of a scan as scanners write it.

    A correlated noise scan, twice oversampled readouts, every second line but the first quarter (partial Fourier),
    calibration lines apart, a navigator, and the patient's name in the header.
    """
    image = np.stack([phantom((ROWS, COLUMNS)).numpy(), 0.7 * phantom((ROWS, COLUMNS)).numpy()])
    wide = np.zeros((SLICES, ROWS, 2 * COLUMNS), np.complex64)
    wide[..., COLUMNS // 2 : COLUMNS // 2 + COLUMNS] = 100 * image
    maps = simulate_sensitivities(COILS, wide.shape, seeded(1))
    rng = np.random.default_rng(0)

    def white(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    mix = np.eye(COILS) + 0.1 * white(COILS, COILS)
    kspace = fft2(maps * torch.from_numpy(wide)[:, None]).numpy()
    scan = Scan(
        (2 * COLUMNS, ROWS, 1), (192.0, 128.0, 4.0), recon_matrix=(COLUMNS, ROWS, 1), recon_mm=(96.0, 128.0, 4.0)
    )
    with Writer(path, scan) as writer:
        writer.line(mix @ white(COILS, 4000), [NOISE])
        writer.line(white(COILS, 2 * COLUMNS), [23])
        for z in range(SLICES):
            for y in range(ROWS):
                line = kspace[z, :, y] + mix @ white(COILS, 2 * COLUMNS)
                if abs(y - ROWS // 2) < 12:
                    writer.line(line, [CALIBRATION], slice=z, kspace_encode_step_1=y)
                if y >= ROWS // 4 and y % 2 == 0:
                    writer.line(line, slice=z, kspace_encode_step_1=y)
    return 100 * image, mix


@pytest.mark.interop("read", "ISMRMRD .h5 with noise, calibration, oversampling, partial Fourier", "ismrmrd-python")
def test_a_scanners_file_is_prepared_and_reconstructed(tmp_path, capsys, record_property):
    (tmp_path / "study").mkdir()
    image, _ = write_scanner_file(tmp_path / "study" / "meas.h5")
    measurement, manifest, log = measured(tmp_path / "study", tmp_path, capsys, coil_energy=0.999)
    for words in (
        f"oversampling along x removed: {2 * COLUMNS} to {COLUMNS}",
        f"prewhitened with 4000 noise samples of each of {COILS} coils",
        "noise from the noise scan",
        f"{COILS} coils compressed to",
        "coil sensitivities from separate calibration lines",
    ):
        assert words in log
    assert measurement.metadata["preparation"][0] == f"oversampling along x removed: {2 * COLUMNS} to {COLUMNS}"
    assert set(measurement.metadata["noise"]["sigma_per_coil"]) == {1.0}
    assert manifest[0]["warnings"] == ["1 navigator acquisitions were left out"]
    assert measurement.shape_zyx == (SLICES, ROWS, COLUMNS)
    problem, units = load_problem(tmp_path / "m")
    found, inside = units.to_physical(problem.x_init), image > 0
    scale = (found[inside] @ image[inside]) / (image[inside] @ image[inside])
    error = np.linalg.norm(found / scale - image) / np.linalg.norm(image)
    chi2 = problem.chi2(problem.x_init)
    record_property("measured", f"CG-SENSE within {100 * error:.0f} % of the truth, chi2 {chi2:.2f}")
    assert error < 0.15
    assert 0.5 < chi2 < 1.5
    for path in (tmp_path / "ingest").rglob("*"):
        assert path.is_dir() or b"PLANTED" not in path.read_bytes()


def test_contrasts_become_series_and_whole_kspace_is_thinned_with_a_truth(tmp_path, capsys):
    (tmp_path / "study").mkdir()
    maps = simulate_sensitivities(4, (1, 48, 48), seeded(1))
    clean = fft2(maps * phantom((48, 48)).to(torch.complex64)).numpy()[0]
    noise = 0.01 * np.random.default_rng(0).normal(size=(2, *clean.shape, 2)) @ [1, 1j]
    with Writer(tmp_path / "study" / "echoes.h5", Scan((48, 48, 1), (96.0, 96.0, 4.0))) as writer:
        for echo in range(2):
            for y in range(48):
                writer.line((clean + noise[echo])[:, y] / (1 + echo), contrast=echo, kspace_encode_step_1=y)
    rows = ingest(tmp_path / "study", tmp_path / "both", ingest_settings({"modality": "mr"}))
    assert [row["accepted"] for row in rows] == [True, True]
    measurement, _, log = measured(
        tmp_path / "study", tmp_path, capsys, undersample=True, acceleration=2, calibration_fraction=0.25
    )
    assert "thinned to" in log
    mask = measurement.tensors["mask"] | measurement.tensors["heldout_mask"]
    assert all(row.all() or not row.any() for row in mask)
    assert (tmp_path / "m" / "truth.nii.gz").is_file()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_lines_in_any_order_land_on_their_place(tmp_path, data):
    """Random matrix, centre counter, echo position and order of time: what was written is what is read."""
    columns, rows = data.draw(st.integers(4, 12)), data.draw(st.integers(4, 12))
    lowest = data.draw(st.integers(0, rows - 2))
    first = data.draw(st.integers(0, columns // 2 - 1))
    order = data.draw(st.permutations(range(lowest, rows)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kspace = (rng.normal(size=(2, rows, columns)) + 1j * rng.normal(size=(2, rows, columns))).astype(np.complex64)
    centre = max(rows // 2 - lowest, 0)
    shift = rows // 2 - centre
    kept = [y for y in order if y >= shift]
    scan = Scan((columns, rows, 1), (columns * 2.0, rows * 2.0, 4.0), centre=(centre, 0))
    with Writer(tmp_path / "scan.h5", scan) as writer:
        for y in kept:
            writer.line(kspace[:, y, first:], centre=columns // 2 - first, kspace_encode_step_1=y - shift)
    expected = np.zeros_like(kspace)
    expected[:, kept, first:] = kspace[:, kept, first:]
    np.testing.assert_array_equal(read_kspace(tmp_path / "scan.h5").array[0], expected)


def test_the_slab_of_a_config_cuts_everything_that_belongs_to_slices(tmp_path):
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(4, 2, 10, 12)) + 1j * rng.normal(size=(4, 2, 10, 12))).astype(np.complex64)
    (tmp_path / "study").mkdir()
    write_cartesian(tmp_path / "study" / "scan.h5", kspace, Scan((12, 10, 1), (240.0, 200.0, 4.0)))
    values = ingest_settings({"modality": "mr", "slices": [1, 3]})
    rows = ingest(tmp_path / "study", tmp_path / "out", values)
    series = read_series(tmp_path / "out" / rows[0]["series"])
    np.testing.assert_array_equal(series.array, kspace[1:3])
    assert series.affine[2, 3] == pytest.approx(5.0)
    assert series.phase_axis == "y"


def test_a_noise_scan_that_is_not_finite_is_refused_when_it_is_read(tmp_path):
    (tmp_path / "study").mkdir()
    with Writer(tmp_path / "study" / "scan.h5", Scan((12, 10, 1), (240.0, 200.0, 4.0))) as writer:
        writer.line(np.full((2, 64), np.nan), [NOISE])
        for y in range(10):
            writer.line(np.full((2, 12), y + 1j), kspace_encode_step_1=y)
    with pytest.raises(InputError) as caught:
        ingest(tmp_path / "study", tmp_path / "out", ingest_settings({"modality": "mr"}))
    assert caught.value.reason == "nan"
