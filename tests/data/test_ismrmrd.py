"""ISMRMRD files, written by ismrmrd-python."""

import h5py
import numpy as np
import pytest

from data.errors import InputError
from data.ismrmrd import is_ismrmrd, ismrmrd_parts
from data.kspace import read_kspace
from tests.data.ismrmrd_builder import SCAN, complex_noise, reason
from tests.data.raw_builder import Scan, Writer, header_xml, ismrmrd, write_cartesian

FLAG = {"noise": 19, "calibration": 20, "both": 21, "reverse": 22, "navigator": 23, "phasecorr": 24}


@pytest.mark.interop("read", "ISMRMRD .h5", "ismrmrd-python")
@pytest.mark.parametrize("matrix", [(12, 10), (11, 9)])
def test_multislice_multicoil_lines_are_put_where_they_were(tmp_path, record_property, matrix):
    kspace = complex_noise((3, 2, matrix[1], matrix[0]))
    scan = Scan((*matrix, 1), (240.0, 200.0, 4.0))
    path = write_cartesian(tmp_path / "scan.h5", kspace, scan)
    read = read_kspace(path)
    assert is_ismrmrd(path)
    assert ismrmrd_parts(path) == ("",)
    np.testing.assert_array_equal(read.array, kspace)
    assert read.spacing_mm == pytest.approx((5.0, 200 / matrix[1], 240 / matrix[0]))
    assert read.mask.all()
    assert read.averages == 1
    record_property("measured", "largest difference 0, 3 slices, 2 coils")


@pytest.mark.interop("read", "ISMRMRD .h5", "ismrmrd-python")
def test_oblique_slices_lie_in_the_patient_as_their_heads_say(tmp_path, record_property):
    angle = np.deg2rad(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    axes = [tuple(turn[:, column]) for column in range(3)]
    scan = Scan((12, 10, 1), (240.0, 200.0, 4.0), axes=tuple(axes), position=(3.0, -7.0, 11.0))
    read = read_kspace(write_cartesian(tmp_path / "scan.h5", complex_noise((3, 1, 10, 12)), scan))
    lps_to_ras = np.array([-1, -1, 1])
    worst = 0.0
    for z in range(3):
        centre = np.array(scan.position) + z * 5.0 * np.array(axes[2])
        corner = centre - 6 * 20.0 * np.array(axes[0]) - 5 * 20.0 * np.array(axes[1])
        for index, lps in (((6, 5, z), centre), ((0, 0, z), corner)):
            worst = max(worst, float(np.abs(read.affine @ [*index, 1] - [*(lps_to_ras * lps), 1]).max()))
    assert worst < 1e-4
    record_property("measured", f"slice corners within {worst:.0e} mm")


def test_slices_stored_out_of_order_are_sorted_along_their_normal(tmp_path):
    kspace = complex_noise((3, 1, 10, 12))
    with Writer(tmp_path / "scan.h5", Scan((12, 10, 1), (240.0, 200.0, 4.0), distance_mm=-5.0)) as writer:
        for z in (1, 0, 2):
            for y in range(10):
                writer.line(kspace[z, :, y], slice=z, kspace_encode_step_1=y)
    read = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_array_equal(read.array, kspace[::-1])
    assert read.affine[2, 2] == pytest.approx(5.0)


def test_uneven_and_turned_slices_are_refused(tmp_path):
    line = complex_noise((1, 12))
    for name, change in (("gap", {"position": (0, 0, 3.0)}), ("mixed", {"axes": ((0, 1, 0), (-1, 0, 0), (0, 0, 1))})):
        path = tmp_path / f"{name}.h5"
        with Writer(path, SCAN) as writer:
            for z in range(4):
                if z == 3:
                    writer.scan = Scan(SCAN.matrix, SCAN.field_mm, **change)
                writer.line(line, slice=z, kspace_encode_step_1=5)
        assert reason(path) == name


def test_partial_fourier_lines_and_echoes_keep_their_place(tmp_path):
    """Lines 4 to 9 with counters from 0 and an echo whose first three samples are missing: nothing is shifted."""
    kspace = complex_noise((1, 2, 10, 12))
    with Writer(tmp_path / "scan.h5", Scan((12, 10, 1), (240.0, 200.0, 4.0), centre=(1, 0))) as writer:
        for y in range(4, 10):
            writer.line(kspace[0][:, y, 3:], centre=3, kspace_encode_step_1=y - 4)
    read = read_kspace(tmp_path / "scan.h5")
    expected = kspace.copy()
    expected[:, :, :4] = expected[..., :3] = 0
    np.testing.assert_array_equal(read.array, expected)
    np.testing.assert_array_equal(read.mask, np.abs(expected[0, 0]) > 0)


def test_samples_to_discard_and_backward_readouts(tmp_path):
    kspace = complex_noise((1, 2, 10, 12))
    padded = np.pad(kspace, ((0, 0), (0, 0), (0, 0), (2, 3)), constant_values=99)
    with Writer(tmp_path / "scan.h5", SCAN) as writer:
        for y in range(10):
            if y % 2:
                backward = np.ascontiguousarray(kspace[0, :, y, ::-1])
                writer.line(backward, [FLAG["reverse"]], kspace_encode_step_1=y)
            else:
                writer.line(padded[0, :, y], discard=(2, 3), centre=8, kspace_encode_step_1=y)
    read = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_array_equal(read.array, kspace)
    assert any("phase correction" in text for text in read.warnings)


def test_repeats_are_averaged_and_counted(tmp_path):
    kspace = complex_noise((3, 1, 10, 12))
    with Writer(tmp_path / "scan.h5", SCAN) as writer:
        for average in range(3):
            for y in range(10):
                writer.line(kspace[average][:, y], average=average, kspace_encode_step_1=y)
    read = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_allclose(read.array[0], kspace.mean(axis=0), atol=1e-6)
    assert read.averages == 3


def test_contrasts_and_repetitions_are_volumes_of_their_own(tmp_path):
    kspace = complex_noise((2, 2, 1, 10, 12))
    with Writer(tmp_path / "scan.h5", SCAN) as writer:
        for contrast in range(2):
            for repetition in range(2):
                for y in range(10):
                    line = kspace[contrast, repetition][:, y]
                    writer.line(line, contrast=contrast, repetition=repetition, kspace_encode_step_1=y)
    parts = ismrmrd_parts(tmp_path / "scan.h5")
    assert parts == tuple(f"contrast{c}-repetition{r}" for c in range(2) for r in range(2))
    for index, part in enumerate(parts):
        read = read_kspace(tmp_path / "scan.h5", part)
        np.testing.assert_array_equal(read.array[0], kspace.reshape(4, 1, 10, 12)[index])
    assert reason(tmp_path / "scan.h5") == "mixed"


def test_what_is_no_image_data_is_left_out_and_noise_and_calibration_are_kept_apart(tmp_path):
    """Noise at 10 us with a receiver that passes 0.8 of it, data at 5 us: sqrt(10 / 5 / 0.8) as strong in the data."""
    kspace, noise, lines = complex_noise((1, 2, 10, 12)), complex_noise((2, 64), 1), complex_noise((2, 10, 12), 2)
    with Writer(tmp_path / "scan.h5", Scan((12, 10, 1), (240.0, 200.0, 4.0), bandwidth=0.8)) as writer:
        writer.line(noise, [FLAG["noise"]], dwell_us=10.0)
        writer.line(complex_noise((2, 12), 3), [FLAG["navigator"]])
        writer.line(complex_noise((2, 12), 3), [FLAG["phasecorr"]])
        for y in range(10):
            if y in (4, 5, 6):
                writer.line(lines[:, y], [FLAG["calibration"]], kspace_encode_step_1=y)
            writer.line(kspace[0, :, y], [FLAG["both"]] if y == 5 else [], kspace_encode_step_1=y)
    read = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_array_equal(read.array, kspace)
    np.testing.assert_array_equal(read.calibration[0][:, 4:7], lines[:, 4:7])
    assert not read.calibration[0][:, :4].any()
    np.testing.assert_allclose(read.noise, noise * np.sqrt(10 / 5 / 0.8), rtol=1e-6)
    assert {"1 navigator acquisitions were left out", "1 phase-correction acquisitions were left out"} <= set(
        read.warnings
    )


def test_readout_oversampling_is_told(tmp_path):
    scan = Scan((24, 10, 1), (480.0, 200.0, 4.0), recon_matrix=(12, 10, 1), recon_mm=(240.0, 200.0, 4.0))
    read = read_kspace(write_cartesian(tmp_path / "scan.h5", complex_noise((1, 1, 10, 24)), scan))
    assert read.keep == (10, 12)


@pytest.mark.hostile("XML entity bomb in an ISMRMRD header")
@pytest.mark.parametrize("kind", ["bomb", "file", "words", "matrix", "missing"])
def test_headers_that_are_hostile_or_damaged(tmp_path, kind):
    path = write_cartesian(tmp_path / "scan.h5", complex_noise((1, 1, 10, 12)), SCAN)
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
    secret = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    huge = header_xml(Scan((10**6, 10, 1), (1.0, 1.0, 1.0)))
    texts = {"bomb": bomb, "file": secret, "words": b"PLANTED", "matrix": huge, "missing": b"<ismrmrdHeader/>"}
    with h5py.File(path, "a") as handle:
        handle["dataset/xml"][0] = texts[kind]
    assert reason(path) == "undecodable"


@pytest.mark.hostile("ISMRMRD heads that claim other sizes than the data have")
def test_heads_that_claim_what_is_not_there(tmp_path):
    path = write_cartesian(tmp_path / "scan.h5", complex_noise((1, 1, 10, 12)), SCAN)
    for field, value, expected in (("number_of_samples", 60000, "truncated"), ("active_channels", 0, "mixed")):
        with h5py.File(path, "a") as handle:
            record = handle["dataset/data"][4]
            record["head"][field] = value
            handle["dataset/data"][4] = record
        assert reason(path) == expected


def test_lines_beyond_the_matrix_and_files_without_images(tmp_path):
    with Writer(tmp_path / "far.h5", SCAN) as writer:
        writer.line(complex_noise((1, 12)), kspace_encode_step_1=40)
    assert reason(tmp_path / "far.h5") == "shape"
    with Writer(tmp_path / "none.h5", SCAN) as writer:
        writer.line(complex_noise((1, 12)), [FLAG["noise"]])
    assert reason(tmp_path / "none.h5") == "no-samples"


def test_links_out_of_the_file_are_not_followed(tmp_path):
    write_cartesian(tmp_path / "secret.h5", complex_noise((1, 1, 10, 12)), SCAN)
    with h5py.File(tmp_path / "scan.h5", "w") as handle:
        handle["dataset"] = h5py.ExternalLink("secret.h5", "/dataset")
    assert not is_ismrmrd(tmp_path / "scan.h5")
    with pytest.raises(InputError):
        read_kspace(tmp_path / "scan.h5")


def test_the_builder_writes_what_ismrmrd_python_reads(tmp_path):
    path = write_cartesian(tmp_path / "scan.h5", complex_noise((1, 2, 10, 12)), SCAN)
    with ismrmrd.Dataset(str(path), mode="r") as dataset:
        assert dataset.number_of_acquisitions() == 10


@pytest.mark.hostile("ISMRMRD data set that claims two million acquisitions and stores none")
def test_acquisitions_that_are_claimed_and_not_stored(tmp_path):
    path = write_cartesian(tmp_path / "scan.h5", complex_noise((1, 1, 10, 12)), SCAN)
    with h5py.File(path, "a") as handle:
        dtype = handle["dataset/data"].dtype
        del handle["dataset/data"]
        handle.create_dataset("dataset/data", (2**21,), chunks=(1024,), dtype=dtype)
    assert reason(path) in ("too-large", "truncated")
