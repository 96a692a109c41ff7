"""Cone beams through the stages: simulated measurement, problem in normalised units, baselines, held-out views."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.nifti import read_volume, write_volume
from data.volume import Volume
from operators.cone_astra import astra_cuda_available
from operators.cone_geometry import ConeBeam, ConeVectors, VolumeGrid, cone_from_dict, views_through_voxels
from operators.cone_projector import ConeProjector
from operators.ct_geometry import view_angles
from pipeline import baseline, ingest, measure, problem_cone
from pipeline.measure_cone import field_of_view_radius_mm, make_cone_beam, simulate_cone
from pipeline.measure_ct import hold_out_views
from pipeline.measurement import read_measurement, write_measurement
from pipeline.problem import load_problem, with_start
from pipeline.problem_cone import make_projector
from pipeline.report_names import method_name
from pipeline.report_page import facts
from pipeline.settings import CtMeasureSettings
from solvers.classical.fbp import FbpSettings
from solvers.classical.fdk import backproject_cone
from tests.operators.ellipsoids import Ellipsoid, line_integrals, voxels

MU = 0.0192
SHAPES = (
    Ellipsoid((1.0, -2.0, 3.0), (26.0, 20.0, 13.0), 0.3, 1.0),
    Ellipsoid((-8.0, 3.0, 7.0), (7.0, 6.0, 5.0), 0.0, 0.4),
)
SETTINGS = CtMeasureSettings(
    beam="cone", views=24, range_deg=360.0, working_matrix=24, photons=1e6, model_error=0.02, source_axis_mm=150.0,
    axis_detector_mm=75.0, rows=18,
)  # fmt: skip


@pytest.fixture(scope="module")
def volume() -> Volume:
    density = voxels(SHAPES, VolumeGrid(12, 48, 48, 1.5, 3.0), fine=2)
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    return Volume((1000 * (density - 1)).astype(np.float32), affine, (3.0, 1.5, 1.5))


@pytest.fixture(scope="module")
def measured(volume):
    return simulate_cone(volume, SETTINGS, "chest")


@pytest.fixture(scope="module")
def folder(measured, tmp_path_factory):
    place = tmp_path_factory.mktemp("cone")
    write_measurement(place, with_start(hold_out_views(measured[0], 3)))
    return place


def test_simulated_projections_are_the_ellipsoids(measured):
    measurement, _ = measured
    beam = ConeBeam.from_dict(measurement.metadata["beam"])
    assert beam.shape == (24, 18, 36) == measurement.tensors["line_integrals"].shape
    assert beam.row_mm == pytest.approx(3.0 * 1.5)
    exact = MU * line_integrals(SHAPES, beam)
    ours = measurement.tensors["line_integrals"]
    error, *turned = (
        np.linalg.norm(a - exact) / np.linalg.norm(exact) for a in (ours, ours[:, ::-1], ours[:, :, ::-1])
    )
    # Voxels of 1.5 x 1.5 x 3 mm: the silhouette's. An axis the wrong way round is worse.
    assert error < 0.09
    assert min(turned) > 0.2


def test_noise_is_that_of_the_photons(volume):
    clean, noisy = (simulate_cone(volume, replace(SETTINGS, photons=p), "x")[0].tensors for p in (1e12, 2e4))
    difference = noisy["line_integrals"] - clean["line_integrals"]
    bright = clean["line_integrals"] > 0.3
    expected = np.exp(clean["line_integrals"][bright]) / 2e4
    assert (difference[bright] ** 2).mean() == pytest.approx(expected.mean(), rel=0.05)


def test_problem_is_normalised_and_its_truth_fits(folder, measured):
    problem, units = load_problem(folder)
    assert problem.y.shape == (21, 18, 36)
    assert not problem.slicewise
    truth = torch.from_numpy(measured[1] / 1000)
    # Counts are many and voxels coarse: what the working grid cannot express is covered by the model's error alone.
    assert problem.chi2(truth) < 10
    assert problem.chi2(truth.flip(0)) > 20 * problem.chi2(truth)
    assert problem.chi2(truth.flip(1)) > 20 * problem.chi2(truth)
    assert units.heldout.error(truth) < 0.03
    v = torch.randn(problem.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        v = problem.A.gram(v / v.norm())
    assert float(v.norm()) == pytest.approx(1, abs=0.03)
    assert float((problem.x_init - truth).norm() / truth.norm()) < 0.3
    assert 0.3 <= problem.sigma_init <= 1


@pytest.mark.skipif(astra_cuda_available(), reason="there is a CUDA device, which is used")
def test_astras_kernels_without_cuda_are_replaced_in_one_sentence(measured, capsys):
    problem_cone._say_no_cuda.cache_clear()
    grid, beam = (measured[0].metadata[key] for key in ("grid", "beam"))
    for _ in range(2):
        projector = make_projector(VolumeGrid.from_dict(grid), cone_from_dict(beam), "astra")
        assert type(projector) is ConeProjector
    assert capsys.readouterr().err.count("the built-in projector is used.") == 1


def test_joined_slices_are_means_in_their_place(volume):
    joined, truth = simulate_cone(volume, replace(SETTINGS, join_slices=5, rows=None), "chest")
    plain, whole = simulate_cone(volume, replace(SETTINGS, rows=None), "chest")
    assert truth.shape == (2, 24, 24)
    np.testing.assert_allclose(truth, whole[:10].reshape(2, 5, 24, 24).mean(1), rtol=1e-5)
    assert joined.metadata["spacing_mm"] == pytest.approx([15.0, 3.0, 3.0])
    # Slice 0 is centred on native slice 2.
    expected = np.array(plain.metadata["affine"]) @ [0, 0, 2, 1]
    np.testing.assert_allclose(np.array(joined.metadata["affine"]) @ [0, 0, 0, 1], expected)
    with pytest.raises(InputError, match=r"measure\.join_slices"):
        simulate_cone(volume, replace(SETTINGS, join_slices=13), "chest")


@pytest.mark.parametrize(("beam", "words"), [("cone", ["cone beam"]), ("fanflat", ["fan beam"]), ("parallel", [])])
def test_the_pages_head_names_the_beam(beam, words):
    rows = [("beam.type", beam), ("settings.views", "60")]
    series = SimpleNamespace(
        modality="ct", shape_zyx=(2, 3, 4), spacing_mm=(1.0, 1.0, 1.0), measured=False, truth=1,
        provenance={"Measurement": rows},
    )  # fmt: skip
    assert facts(series, (1, 1, 1))[3:] == [*words, "60 views"]
    assert method_name("fdk") == "FDK"


def test_a_second_reading_finds_the_start_and_the_norm(folder):
    measurement = read_measurement(folder)
    assert {"operator_norm", "sigma_init"} <= set(measurement.metadata)
    first, second = load_problem(folder)[0], load_problem(folder)[0]
    assert torch.equal(first.x_init, second.x_init)
    assert measurement.tensors["start"].shape == (12, 24, 24)


@pytest.mark.parametrize("method", ["fdk", "fbp", "cgls"])
def test_baselines_reconstruct(folder, measured, method, tmp_path):
    baseline.run(folder, method, tmp_path / "x.nii.gz", {"iterations": 12} if method == "cgls" else {})
    hu = read_volume(tmp_path / "x.nii.gz").array_zyx
    inside = measured[1][4:8] > -50
    assert np.abs(hu[4:8][inside] - measured[1][4:8][inside]).mean() < (180 if method != "cgls" else 120)
    assert json.loads((tmp_path / "x.json").read_text())["heldout_error"] < 0.2


def test_held_out_views_leave_no_trace(measured):
    split = hold_out_views(measured[0], 3)
    beams = [ConeBeam.from_dict(split.metadata[key]) for key in ("beam", "heldout_beam")]
    whole = ConeBeam.from_dict(measured[0].metadata["beam"])
    assert sorted(beams[0].angles_rad + beams[1].angles_rad) == sorted(whole.angles_rad)
    place = whole.angles_rad.index(beams[1].angles_rad[1])
    expected = measured[0].tensors["line_integrals"][place]
    np.testing.assert_array_equal(split.tensors["heldout_line_integrals"][1], expected)


def test_shifted_detector_sees_more_in_a_full_turn():
    grid = VolumeGrid(8, 24, 24, 3.0, 3.0)
    centred, shifted = (
        make_cone_beam(replace(SETTINGS, bins=16, rows=None, column_offset_mm=offset), grid) for offset in (0.0, 20.0)
    )
    assert centred.rows == 8
    radii = [field_of_view_radius_mm(beam, 360.0) for beam in (centred, shifted)]
    assert radii[0] == pytest.approx(150 * np.sin(np.arctan2(36, 225)))
    assert radii[1] == pytest.approx(150 * np.sin(np.arctan2(56, 225)))
    assert field_of_view_radius_mm(shifted, 200.0) < radii[0]
    share = views_through_voxels(grid, shifted)
    distance = np.hypot(*np.meshgrid(*[(np.arange(24) - 11.5) * 3.0] * 2))
    assert share[4][distance < radii[1]].min() > 0.4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source_axis_mm": 20.0}, "measure.source_axis_mm"),
        ({"simulation_model": "line"}, "measure.simulation_model"),
        ({"reconstruction_model": "strip"}, "measure.reconstruction_model"),
        ({"rows": 0}, "measure.rows"),
        ({"column_offset_mm": 1e4}, "measure.column_offset_mm"),
        ({"working_matrix": None, "simulation_model": "linear"}, "must differ"),
    ],
)
def test_settings_that_cannot_be_are_named(volume, change, words):
    with pytest.raises(InputError, match=words):
        simulate_cone(volume, replace(SETTINGS, **change), "chest")


def test_fdk_on_a_fan_beam_is_refused_in_one_sentence(volume, tmp_path):
    section = {"modality": "ct", "beam": "fan", "views": 8, "range_deg": 360, "working_matrix": 24}
    series = tmp_path / "series"
    series.mkdir()
    write_volume(series / "volume.nii.gz", volume.array_zyx[:2], volume.affine, np.float32, "")
    measurement, _ = measure.measure(series, section)
    write_measurement(tmp_path, with_start(measurement))
    with pytest.raises(InputError, match="fdk reconstructs cone beams alone"):
        baseline.run(tmp_path, "fdk", tmp_path / "x.nii.gz", {})


def write_scan(folder, beam, values, **extra):
    """Projections (views rows columns) and their geometry.json."""
    folder.mkdir(parents=True)
    np.save(folder / "projections.npy", values.astype(np.float32))
    geometry = {"axes": "views rows columns", "values": "log", "mu_water_per_mm": MU}
    if isinstance(beam, ConeBeam):
        geometry |= {
            "type": "cone",
            "angles_deg": np.rad2deg(beam.angles_rad).tolist(),
            "detector_pixel_mm": [beam.row_mm, beam.column_mm],
            "source_axis_mm": beam.source_axis_mm,
            "axis_detector_mm": beam.axis_detector_mm,
        }
    else:
        geometry |= {"type": "cone_vec", "vectors": beam.vectors().tolist()}
    (folder / "geometry.json").write_text(json.dumps(geometry | extra))


def ingested(study, out):
    assert ingest.main(["--study", str(study), "--out", str(out), "--settings", "{}"]) == 0
    return next(out.glob("*/projections.safetensors")).parent


@pytest.mark.interop("read", "geometry.json, cone and cone_vec", "ellipsoids in closed form")
@pytest.mark.parametrize("kind", ["cone", "cone_vec"])
def test_measured_projections_end_where_the_object_is(kind, tmp_path, record_property):
    """The detector lies 5 mm off what the file says of a circle: the axis of rotation is found from the data."""
    scanner = ConeBeam(view_angles(60, 360.0, 4.0), 27, 56, 3.6, 2.4, 150.0, 75.0, column_offset_mm=5.0)
    values = MU * line_integrals(SHAPES, scanner)
    said = ConeVectors(scanner.vectors().tolist(), 27, 56) if kind == "cone_vec" else scanner
    write_scan(tmp_path / "study", said, values)
    settings = {"modality": "ct", "source": "measured", "working_matrix": 24}
    measurement, reference = measure.measure(ingested(tmp_path / "study", tmp_path / "ingest"), settings)
    assert reference is None
    if kind == "cone":
        assert measurement.metadata["beam"]["column_offset_mm"] == pytest.approx(5.0, abs=0.4)
    assert measurement.tensors["line_integrals"].shape == (58, 27, 56)
    grid = VolumeGrid.from_dict(measurement.metadata["grid"])
    projections = torch.from_numpy(measurement.tensors["line_integrals"])
    density = backproject_cone(projections, grid, cone_from_dict(measurement.metadata["beam"]), FbpSettings()) / MU
    hu = 1000 * (density.numpy() - 1)
    truth = 1000 * (voxels(SHAPES, grid) - 1)
    correlation = float(np.corrcoef(hu.ravel(), truth.ravel())[0, 1])
    inside = voxels((replace(SHAPES[0], axes=(20.0, 14.0, 7.0)),), grid) == 1
    record_property("measured", f"correlation with the truth {correlation:.3f}")
    assert correlation > 0.95
    assert np.median(hu[inside]) == pytest.approx(np.median(truth[inside]), abs=60)


def test_fewer_views_of_a_scan_have_the_whole_as_reference(tmp_path):
    scanner = ConeBeam(view_angles(48, 360.0), 30, 56, 3.2, 2.4, 150.0, 75.0)
    write_scan(tmp_path / "study", scanner, MU * line_integrals(SHAPES, scanner), image={"matrix": 24, "slices": 14})
    settings = {"modality": "ct", "source": "measured", "views": {"every": 4}, "holdout_views": 2}
    measurement, reference = measure.measure(ingested(tmp_path / "study", tmp_path / "ingest"), settings)
    assert reference.shape == (14, 24, 24)
    beams = [ConeBeam.from_dict(measurement.metadata[key]) for key in ("beam", "heldout_beam")]
    assert (beams[0].views, beams[1].views) == (10, 2)
    kept = sorted(beams[0].angles_rad + beams[1].angles_rad)
    np.testing.assert_allclose(kept, view_angles(48, 360.0)[::4], atol=1e-9)
    assert measurement.metadata["reference"] == {"method": "fdk", "views": 48}


def test_an_object_that_goes_on_gets_a_higher_volume(tmp_path):
    tall = (Ellipsoid((0.0, 0.0, 0.0), (20.0, 20.0, 400.0), 0.0, 1.0),)
    scanner = ConeBeam(view_angles(40, 360.0), 20, 56, 2.4, 2.4, 150.0, 75.0)
    heights = []
    for name, shapes in (("tall", tall), ("short", SHAPES[1:])):
        write_scan(tmp_path / name, scanner, MU * line_integrals(shapes, scanner))
        series = ingested(tmp_path / name, tmp_path / f"ingest_{name}")
        measurement, _ = measure.measure(series, {"modality": "ct", "source": "measured", "working_matrix": 32})
        heights.append(VolumeGrid.from_dict(measurement.metadata["grid"]).height_mm)
    assert heights[1] == pytest.approx(20 * 1.6, abs=3)
    assert heights[0] > 1.2 * heights[1]
