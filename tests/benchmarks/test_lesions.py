from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from benchmarks.lesion_model import Lesion, auc, distance_inside, insert, random_places, remove
from benchmarks.lesion_places import (
    CONTRASTS,
    DIAMETERS_MM,
    Phantom,
    Removal,
    contrast_unit,
    find_removals,
    make_phantom,
    tissue_masks,
)
from benchmarks.lesion_scores import (
    Blob,
    Scene,
    blobs,
    empty_places,
    lesion_rows,
    map_score,
    sized_score,
    structures,
    warning_aucs,
)
from solvers.matched_filter import blurred_ball, matched_filter, profile

SPACING = (2.0, 1.5, 1.5)
SHAPE = (13, 96, 96)


def thorax():
    """HU: a body of 40 HU with two lungs of -850 HU about a spine, in air, and a little texture."""
    _, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    volume = np.full(SHAPE, -1000.0)
    volume[np.broadcast_to(((y - 48) / 44) ** 2 + ((x - 48) / 46) ** 2 < 1, SHAPE)] = 40.0
    for centre in (28, 68):
        volume[np.broadcast_to(((y - 40) / 26) ** 2 + ((x - centre) / 15) ** 2 < 1, SHAPE)] = -850.0
    return (volume + np.random.default_rng(0).normal(0, 2, SHAPE)).astype(np.float32)


def scene_with(lesions=(), removals=(), original=None, changed=None):
    original = thorax() if original is None else original
    changed = insert(original, lesions, SPACING) if changed is None else changed
    phantom = Phantom(original, changed, tuple(lesions), tuple(removals))
    return Scene(phantom, tissue_masks(original, "ct", SPACING), SPACING, 1.0, 0)


NODULE = Lesion((6, 40, 28), 8.0, 400.0, "lung")
FAINT = Lesion((6, 80, 48), 6.0, -40.0, "soft")


def test_the_blurred_ball_has_the_volume_of_the_ball_and_is_half_at_its_surface():
    r = np.linspace(0, 12, 24001)
    for edge in (0.2, 0.8, 1.5):
        f = blurred_ball(r, 4.0, edge)
        assert np.trapezoid(4 * np.pi * r**2 * f, r) == pytest.approx(4 / 3 * np.pi * 4.0**3, rel=1e-4)
        assert (np.diff(f) <= 1e-12).all()
    assert blurred_ball(np.array([0.0, 4.0]), 4.0, 0.1) == pytest.approx([1.0, 0.5], abs=0.02)


def test_the_blurred_ball_is_the_convolution_with_a_gaussian():
    step, edge, radius = 0.25, 0.6, 2.0
    axis = np.arange(-20, 21) * step
    distance = np.sqrt(sum(g**2 for g in np.meshgrid(axis, axis, axis, indexing="ij")))
    blurred = ndimage.gaussian_filter((distance <= radius).astype(float), edge / step, truncate=6)
    np.testing.assert_allclose(blurred, blurred_ball(distance, radius, edge), atol=0.02)


@pytest.mark.parametrize("diameter", DIAMETERS_MM)
@pytest.mark.parametrize("spacing", [SPACING, (1.0, 0.7, 0.7), (3.0, 1.5, 1.5)])
def test_a_lesion_on_the_grid_keeps_its_volume(diameter, spacing):
    p = profile(diameter, spacing, 0.5 * spacing[2])
    assert p.sum() * np.prod(spacing) == pytest.approx(np.pi / 6 * diameter**3, rel=0.04)
    assert all(side % 2 == 1 for side in p.shape)
    assert 0 <= p.min() <= p.max() <= 1


def test_insertion_adds_contrast_times_volume_and_is_cut_at_the_border():
    empty = np.zeros(SHAPE)
    inside = insert(empty, [NODULE], SPACING)
    assert inside.sum() * np.prod(SPACING) == pytest.approx(400 * np.pi / 6 * 8**3, rel=0.04)
    corner = insert(empty, [replace(NODULE, centre=(0, 0, 0))], SPACING)
    assert corner.sum() < 0.3 * inside.sum()
    assert corner.shape == SHAPE


@pytest.mark.parametrize("diameter", DIAMETERS_MM)
def test_the_filter_measures_contrast_and_ignores_level_and_slope(diameter):
    f = matched_filter(diameter, SPACING)
    lesion = replace(NODULE, diameter_mm=diameter, contrast=-73.0)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    volume = insert(5.0 * z - 3.0 * y + 2.0 * x + 700, [lesion], SPACING)
    assert f.amplitude(volume)[lesion.centre] == pytest.approx(-73.0, rel=1e-3)
    assert np.abs(f.amplitude(np.full(SHAPE, 123.0))).max() < 1e-6
    response = f.amplitude(volume)
    for place in [(6, 40, 28), (0, 3, 95), (12, 95, 0)]:
        assert f.at(volume, place) == pytest.approx(response[place], abs=1e-6)


def test_the_filters_response_to_white_noise_has_the_variance_of_least_squares():
    f = matched_filter(6.0, SPACING)
    noise = np.random.default_rng(0).normal(0, 10, (24, 80, 80))
    assert f.amplitude(noise)[6:-6, 10:-10, 10:-10].std() == pytest.approx(10 * np.sqrt((f.weights**2).sum()), rel=0.05)


def test_auc_is_the_mann_whitney_statistic():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 9, 40), generator.integers(0, 7, 30)
    expected = stats.mannwhitneyu(a, b).statistic / (40 * 30)
    assert auc(a, b) == pytest.approx(expected)
    assert auc([2.0], [1.0, 1.5]) == 1.0
    assert np.isnan(auc([], [1.0]))


def test_random_places_are_seeded_inside_and_apart():
    mask = np.zeros(SHAPE, bool)
    mask[2:11, 20:60, 20:60] = True
    places = random_places(mask, 12, 15.0, SPACING, np.random.default_rng(3), [(6, 40, 40)])
    again = random_places(mask, 12, 15.0, SPACING, np.random.default_rng(3), [(6, 40, 40)])
    assert places == again
    assert all(mask[place] for place in places)
    everything = np.array([*places, (6, 40, 40)]) * SPACING
    distances = np.linalg.norm(everything[:, None] - everything[None], axis=2)
    assert distances[~np.eye(len(everything), dtype=bool)].min() >= 15.0


def test_lesions_lie_in_their_tissue_with_their_whole_ball():
    volume = thorax()
    phantom = make_phantom(volume, "ct", SPACING, 1, 5, np.random.default_rng(0))
    masks = tissue_masks(volume, "ct", SPACING)
    assert masks["lung"].sum() > 0.75 * (volume < -700)[:, 10:-10, 14:-14].sum() * 0.9
    assert not (masks["lung"] & masks["soft"]).any()
    assert {lesion.tissue for lesion in phantom.lesions} == {"lung", "soft"}
    for lesion in phantom.lesions:
        assert distance_inside(masks[lesion.tissue], SPACING)[lesion.centre] > lesion.diameter_mm / 2
    difference = np.abs(phantom.changed - volume) > 0.5
    assert ndimage.label(difference)[1] == len(phantom.lesions)


def test_a_free_nodule_is_found_and_taken_out_and_a_vessel_at_the_wall_is_not():
    volume = insert(thorax(), [replace(NODULE, contrast=900.0)], SPACING)
    volume[5:7, 44:47, 55:84] = 30.0
    lung = tissue_masks(volume, "ct", SPACING)["lung"]
    found = find_removals(volume, lung, SPACING, 10, np.random.default_rng(0))
    assert len(found) == 1
    assert found[0][NODULE.centre]
    out = remove(volume, found[0], SPACING, 4.0)
    response = matched_filter(8.0, SPACING).amplitude
    assert abs(response(out)[NODULE.centre]) < 0.15 * response(volume)[NODULE.centre]
    np.testing.assert_array_equal(out[:, 60:], volume[:, 60:])


def test_recovery_is_one_for_the_truth_zero_when_lost_and_the_share_that_is_kept():
    scene = scene_with([NODULE, FAINT])
    truth, plain = scene.phantom.changed, scene.phantom.original
    half = plain + 0.5 * (truth - plain)
    for image, expected in ((truth, 1.0), (half, 0.5), (plain, 0.0)):
        rows = lesion_rows(scene, image, plain)
        assert [row["recovery"] for row in rows] == pytest.approx([expected, expected], abs=1e-6)
    rows = lesion_rows(scene, truth, plain)
    assert [row["detection"] for row in rows] == [1.0, 1.0]
    assert min(row["cnr"] for row in rows) > 10


def test_a_lost_lesion_is_detected_by_chance_alone():
    generator = np.random.default_rng(0)
    places = random_places(scene_with().room("lung"), 12, 14.0, SPACING, generator)
    lesions = [Lesion(place, 4.0, 400.0, "lung") for place in places]
    scene = scene_with(lesions)
    noisy = scene.phantom.original + generator.normal(0, 100, SHAPE)
    values = [row["detection"] for row in lesion_rows(scene, noisy, noisy)]
    assert np.mean(values) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / len(values)))


def test_a_removed_structure_that_comes_back_counts_as_not_recovered():
    before = insert(thorax(), [NODULE], SPACING)
    removal = Removal(NODULE.centre, 8.0, 400.0, "lung")
    scene = scene_with(removals=[removal], original=before, changed=thorax())
    assert lesion_rows(scene, before, before)[0]["recovery"] == pytest.approx(0)
    right = lesion_rows(scene, scene.phantom.changed, before)[0]
    assert right["recovery"] == pytest.approx(1)
    assert right["kind"] == "removed"
    assert right["detection"] == 1.0


def counts(scene, image):
    return {t: {k: len(b) for k, b in kinds.items()} for t, kinds in structures(scene, image).items()}


def test_structures_are_sorted_into_correct_false_and_missed():
    scene = scene_with([NODULE, FAINT])
    truth = scene.phantom.changed
    right = counts(scene, truth)
    assert right["lung"] == {"correct": 1, "false": 0, "missed": 0}
    assert right["soft"] == {"correct": 1, "false": 0, "missed": 0}
    extra = insert(truth, [Lesion((6, 40, 68), 6.0, 500.0, "lung")], SPACING)
    assert counts(scene, extra)["lung"] == {"correct": 1, "false": 1, "missed": 0}
    lost = insert(scene.phantom.original, [FAINT], SPACING)
    assert counts(scene, lost)["lung"] == {"correct": 0, "false": 0, "missed": 1}
    assert counts(scene, lost)["soft"]["correct"] == 1


def test_one_structure_is_one_blob_of_about_its_size():
    for diameter in DIAMETERS_MM:
        lesion = replace(NODULE, diameter_mm=diameter, contrast=800.0)
        scene = scene_with([lesion])
        found = blobs(scene, scene.responses(scene.phantom.changed), "lung", 1)
        assert len(found) == 1
        assert np.linalg.norm(np.subtract(found[0].place, lesion.centre) * SPACING) <= 2.0
        assert found[0].diameter_mm == pytest.approx(diameter, rel=0.6)


KINDS = ("correct", "false", "missed")
FALSE = Lesion((6, 40, 68), 6.0, 500.0, "lung")


MISSED = replace(NODULE, centre=(6, 24, 68))


@pytest.fixture(scope="module")
def one_of_each():
    """(scene, found, empty) of a reconstruction with one correct, one false and one missed structure in the lung."""
    scene = scene_with([NODULE, MISSED])
    image = insert(scene.phantom.original, [NODULE, FALSE], SPACING)
    return scene, structures(scene, image), empty_places(scene, image)


def warnings_of(one_of_each, at_false, at_correct, at_missed, elsewhere):
    """AUCs of a map with these values at a false, a correct and a missed structure and at all other places."""
    scene, found, empty = one_of_each
    score = np.full(SHAPE, elsewhere)
    for lesion, value in ((FALSE, at_false), (NODULE, at_correct), (MISSED, at_missed)):
        z, y, x = lesion.centre
        score[z - 3 : z + 4, y - 6 : y + 7, x - 6 : x + 7] = value
    return warning_aucs(found, empty, map_score(scene, score))


def test_a_map_is_judged_apart_where_something_is_shown_and_where_nothing_is(one_of_each):
    assert {kind: len(places) for kind, places in one_of_each[1]["lung"].items()} == dict.fromkeys(KINDS, 1)
    assert warnings_of(one_of_each, 2.0, 1.0, 1.0, 0.0)["false"] == 1.0
    assert warnings_of(one_of_each, 1.0, 2.0, 1.0, 0.0)["false"] == 0.0
    assert warnings_of(one_of_each, 1.0, 1.0, 2.0, 0.0)["missed"] > 0.95
    assert warnings_of(one_of_each, 1.0, 1.0, -1.0, 0.0)["missed"] < 0.05
    same = warnings_of(one_of_each, 1.0, 1.0, 1.0, 1.0)
    assert same == {"both": 0.5, "false": 0.5, "missed": 0.5, "alike": 0.5}


def test_a_score_of_the_size_alone_says_nothing_among_places_of_one_size(one_of_each):
    _, found, empty = one_of_each
    by_size = sized_score({diameter: np.full(SHAPE, -diameter) for diameter in DIAMETERS_MM})
    assert warning_aucs(found, empty, by_size)["alike"] == 0.5
    assert warning_aucs(found, empty, by_size)["missed"] > 0.5


def test_alike_is_the_auc_within_tissue_and_size_weighted_by_pairs():
    def blob(size, value):
        return Blob((value, 0, 0), size, 0.0)

    found = {"lung": {"correct": [blob(4.0, 1), blob(4.0, 3)], "false": [blob(4.0, 2)], "missed": [blob(8.0, 9)]}}
    empty = {"lung": [blob(8.0, 1), blob(8.0, 2), blob(8.0, 10), blob(12.0, 0)]}
    aucs = warning_aucs(found, empty, lambda b: b.place[0])
    assert aucs["alike"] == pytest.approx((1 / 2 * 2 + 2 / 3 * 3) / 5)
    assert aucs["false"] == 0.5
    assert aucs["missed"] == pytest.approx(3 / 4)


def test_empty_places_hold_nothing_in_truth_or_reconstruction():
    scene = scene_with([NODULE])
    image = insert(scene.phantom.changed, [FALSE], SPACING)
    centres = np.array([NODULE.centre, FALSE.centre])
    places = np.array([blob.place for blob in empty_places(scene, image)["lung"]])
    assert len(places) > 20
    assert np.linalg.norm((places[:, None] - centres) * SPACING, axis=2).min() > 3.0


def head():
    """Signal of an MR head: an ellipsoid of 40 about a core of 100 (white matter), brighter to one side."""
    _, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    volume = np.where((y / 44) ** 2 + (x / 44) ** 2 < 1, 40.0, 0.0)
    volume[(y / 36) ** 2 + (x / 36) ** 2 < 1] = 100.0
    return (volume * (1 + 0.1 * x / 48) + np.random.default_rng(0).normal(0, 0.2, SHAPE)).astype(np.float32)


def test_mr_lesions_are_shares_of_the_signal_about_them():
    volume = head()
    phantom = make_phantom(volume, "mr", SPACING, 2, 5, np.random.default_rng(0))
    assert not phantom.removals
    assert {lesion.tissue for lesion in phantom.lesions} == {"white"}
    assert {lesion.relative for lesion in phantom.lesions} == set(CONTRASTS["white"])
    for lesion in phantom.lesions:
        x = lesion.centre[2] - (SHAPE[2] - 1) / 2
        assert lesion.contrast / lesion.relative == pytest.approx(100 * (1 + 0.1 * x / 48), rel=0.02)
    masks = tissue_masks(volume, "mr", SPACING)
    scene = Scene(phantom, masks, SPACING, contrast_unit(volume, masks, "mr"), 0)
    assert scene.unit == pytest.approx(100, rel=0.03)
    rows = lesion_rows(scene, phantom.changed, phantom.original)
    assert [row["recovery"] for row in rows] == pytest.approx([1.0] * len(rows))
    assert {row["contrast"] for row in rows} == set(CONTRASTS["white"])
    assert scene.signs("white") == (-1, 1)
