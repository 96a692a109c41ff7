"""The report: what is on a page and in the index, and what must never be."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.nifti import write_volume
from pipeline import (
    figures,
    report_budget,
    report_metrics,
    report_page,
    report_provenance,
    report_uncertainty,
    report_volumes,
)
from pipeline.measurement import write_tensors
from pipeline.report import ASSETS, main
from pipeline.report_provenance import flatten
from pipeline.report_series import load_series
from tests.pipeline.report_series_builder import (
    AFFINE,
    LABELS,
    SAMPLES,
    SHAPE_ZYX,
    SUPPORT,
    make_results,
    make_series,
    run_page,
)

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


class Elements(HTMLParser):
    """Start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self._skip = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip -= tag in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self._skip else data


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A results folder with one CT and one MR page."""
    return make_results(tmp_path_factory.mktemp("results"))[0]


def test_page_needs_nothing_from_outside(results):
    for name in ("reports/c_s_n.html", "reports/m_s_n.html"):
        html = (results / name).read_text(encoding="utf-8")
        elements = Elements(html)
        for tag, attributes in elements.tags:
            for key in ("src", "href", "action", "poster", "data", "srcset", "xlink:href"):
                value = attributes.get(key) or "#"
                assert value.startswith(("#", "data:")) or (tag == "a" and value == "../index.html"), (tag, value)
        style = html[html.index("<style>") : html.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style
        policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
        assert "default-src 'none'" in policy
        assert "http" not in policy


def test_banner_and_metrics_are_on_the_page(results):
    text = Elements((results / "reports/c_s_n.html").read_text(encoding="utf-8")).text
    for words in ("RESEARCH ONLY", "Not a medical device", "How to read this page", "+3.5 dB against TV", "91.0 %"):
        assert words in text


def test_what_can_be_believed_is_said_in_words_and_drawn(results):
    html = (results / "reports/c_s_n.html").read_text(encoding="utf-8")
    text = Elements(html).text
    for words in (
        "Can its uncertainty be believed?",
        "as closely as their noise allows (residual χ² 1.00",
        "take the uncertainty for too small (z² 4.20, 1 is right; their 90 % intervals hold 61 %",
        "Two priors differ by 30 % of the total variance",
        "91.0 % of the voxels lie in their 90 % interval, as stated.",
        "cubes of 4 voxels a side lie in their 90 % interval 71 % of the time, less than stated",
    ):
        assert words in text, words
    states = ["good", "bad", "care", "good", "bad"]
    rows = [a for tag, a in Elements(html).tags if tag == "li" and a.get("class") in report_uncertainty.WORDS]
    # Once as a row of lights in the page's head, each linked to its sentence.
    assert [row["class"] for row in rows] == states * 2
    assert [row["id"] for row in rows[5:]] == [f"check-{place}" for place in range(1, 6)]
    assert [a["href"] for tag, a in Elements(html).tags if a.get("href", "").startswith("#check-")] == [
        f"#check-{place}" for place in range(1, 6)
    ]
    assert [tag for tag, _ in Elements(html).tags].count("svg") >= 3


def test_lights_follow_the_figures():
    light = report_uncertainty.light
    limits = report_uncertainty.RATIO_LIMITS
    found = [light(value, limits) for value in (1.0, 2.0, 0.4, 5.0, 0.1, float("nan"))]
    assert found == ["good", "care", "care", "bad", "bad", "unknown"]


@pytest.mark.parametrize(
    ("heldout", "light", "words"),
    [
        ({"z2": 1.1, "coverage90": 0.9, "noise_share": 0.2}, "good", "to within what they and the noise allow"),
        ({"z2": 1.0, "coverage90": 0.9, "noise_share": 0.99}, "unknown", "cannot judge the samples"),
        ({"z2": 9.0, "coverage90": 0.3, "noise_share": 0.99}, "bad", "too small"),
        ({"z2": 1.1, "coverage90": 0.9, "noise_share": 0.2, "worst_share": 0.6}, "care", "but for a few"),
        ({"z2": 0.5, "coverage90": 0.99, "noise_share": 0.1}, "care", "too large"),
        (None, "unknown", "nothing tests it"),
    ],
)
def test_held_out_data_are_judged_in_plain_words(tmp_path, heldout, light, words):
    make_series(tmp_path / "n", checks={"heldout": heldout})
    series = load_series(tmp_path / "n", LABELS)
    verdict = next(v for v in report_uncertainty.verdicts(series) if v.title == "Prediction of unseen data")
    assert verdict.light == light
    assert words in verdict.sentence


def test_charts_put_values_where_their_axes_say(tmp_path):
    make_series(tmp_path / "n")
    coverage, calibration, blocks = report_uncertainty.charts(load_series(tmp_path / "n", LABELS))
    ticks = {text: place for place, text in coverage.y_ticks}
    x, y, text = coverage.dots[2]
    assert text == "90 % interval: 91.0 % of voxels"
    places = {text: place for place, text in coverage.x_ticks}
    assert (x - places["80 %"]) / (places["95 %"] - places["80 %"]) == pytest.approx(2 / 3)
    assert (ticks["0 %"] - y) / (ticks["0 %"] - ticks["100 %"]) == pytest.approx(0.91)
    # Where the prediction is right the dot lies on the dashed line; here it is above, then below.
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in calibration.lines[0][1].split())
    above = [y < y0 + (x - x0) / (x1 - x0) * (y1 - y0) for x, y, _ in calibration.dots]
    assert above == [True, True, False]
    assert [text for _, text in blocks.x_ticks] == ["1", "2", "4", "8"]
    assert len(blocks.dots) == 4 * 3


def test_maps_are_bright_where_doubt_is_due_and_keep_their_values(tmp_path):
    volumes = make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    np.testing.assert_allclose(series.get("pam_share").array_zyx, 100 * (1 - SUPPORT), rtol=1e-5)
    packed = report_budget.pack_volumes(series, 40)
    step = report_budget.step_of(series, "flag")
    shown = report_volumes.unpack(packed.texts["pam_flag"], SHAPE_ZYX, step)
    assert np.abs(shown - 100 * volumes["pam_flag"]).max() <= 0.51 * step
    assert report_page.viewer_data(series, packed)["ranges"]["flag"] == 80


def test_a_page_without_the_support_stage_is_a_page(tmp_path):
    make_series(tmp_path / "n")
    for name in ("support.nii.gz", "flag.nii.gz", "checks.json", "../../uncertainty_curves.json"):
        (tmp_path / "n/uncertainty/pam" / name).unlink()
    assert run_page(tmp_path / "n", tmp_path / "page.html") == 0
    assert "Can its uncertainty be believed?" not in (tmp_path / "page.html").read_text()


def test_hostile_names_stay_text(tmp_path):
    labels = (f"co{HOSTILE}", f"st{HOSTILE}", f"se{HOSTILE}")
    make_series(tmp_path / "n", note=HOSTILE, **{f"key{HOSTILE}": 1})
    folder = tmp_path / "n/baseline"
    nasty = HOSTILE.replace("/", "")
    shutil.copy(folder / "tv.nii.gz", folder / f"{nasty}.nii.gz")
    (folder / f"{nasty}.json").write_text("{}")
    assert run_page(tmp_path / "n", tmp_path / "page.html", labels) == 0
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not [tag for tag, attributes in elements.tags if any(name.startswith("on") for name in attributes)]
    assert [attributes["src"][:10] for tag, attributes in elements.tags if tag == "img"] == ["data:image"]
    assert all(label in elements.text for label in labels)
    kinds = ("mean", "std", "share", "flag", *(f"sample{place}" for place in range(1, SAMPLES + 1)))
    volumes = [attributes["data-volume"] for tag, attributes in elements.tags if "data-volume" in attributes]
    assert sorted(volumes) == sorted(["fbp", "tv", nasty, "truth", *(f"pam_{kind}" for kind in kinds)])


def test_nothing_of_a_patient_or_a_user_reaches_the_page(tmp_path):
    private = {"PatientName": "Doe^Jane", "source_files": ["/scans/Doe_Jane/1.dcm"], "cache": "/home/jane.doe/x"}
    make_series(tmp_path / "n", nested={"patient_birth_date": "19700101"}, **private)
    (tmp_path / "n/source.json").write_text(json.dumps({"path": "/scans/Doe_Jane"}))
    assert run_page(tmp_path / "n", tmp_path / "page.html") == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8").lower()
    assert not [word for word in ("doe^jane", "doe_jane", "jane.doe", "19700101") if word in html]


def test_flatten_names_nested_values_and_counts_long_lists():
    rows = dict(flatten({"a": {"b": 1.5, "c": [1, 2]}, "long": list(range(30)), "rows": [{"x": 1}], "none": None}))
    assert rows == {"a.b": "1.5", "a.c": "1, 2", "long": "30 entries", "rows": "1 entries"}


def test_rank_of_std_is_among_the_body(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    spread = replace(series.std, array_zyx=series.get("pam_mean").array_zyx + 1000)
    changed = replace(series, images=tuple(spread if image is series.std else image for image in series.images))
    body = spread.array_zyx[series.get("pam_mean").array_zyx > report_page.BODY_HU]
    assert report_page.std_ranks(changed)[9] == pytest.approx(np.median(body))
    assert len(report_page.std_ranks(changed)) == 19


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_mbs": 4}, "unknown setting 'max_mbs'"),
        ({"max_mb": -1}, "max_mb"),
        ({"samples": 1.5}, "samples"),
        ({"solvers": "pam"}, "solvers"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, capsys, options, words):
    assert run_page(tmp_path, tmp_path / "page.html", **options) == 1
    assert words in capsys.readouterr().err


def test_another_grid_and_a_missing_reconstruction_are_refused(tmp_path, capsys):
    make_series(tmp_path / "n")
    shutil.rmtree(tmp_path / "n/uncertainty")
    assert run_page(tmp_path / "n", tmp_path / "page.html") == 1
    assert "no reconstruction to report" in capsys.readouterr().err
    make_series(tmp_path / "o")
    moved = AFFINE.copy()
    moved[0, 3] += 3
    write_volume(tmp_path / "o/baseline/tv.nii.gz", np.zeros(SHAPE_ZYX, np.float32), moved)
    assert run_page(tmp_path / "o", tmp_path / "page.html") == 1
    assert "tv lies on another grid" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_3d_only_where_no_face_can_be(tmp_path):
    head = AFFINE @ np.diag([0.6, 0.6, 1, 1])
    whole_body = AFFINE @ np.diag([1, 1, 12, 1])
    cases = {"trunk": ("ct", AFFINE), "head": ("ct", head), "body": ("ct", whole_body), "mr": ("mr", AFFINE)}
    offered = {}
    for name, (modality, affine) in cases.items():
        make_series(tmp_path / name, modality, affine=affine)
        offered[name] = report_page.shows_3d(load_series(tmp_path / name, LABELS))
    assert offered == {"trunk": True, "head": False, "body": False, "mr": False}


def test_without_truth_there_is_no_error_view(tmp_path):
    make_series(tmp_path / "n", modality="mr", truth=False)
    series = load_series(tmp_path / "n", LABELS)
    assert report_page.opening_panels(series) == ["tv", "pam_mean", "pam_std", "pam_share"]
    html_path = tmp_path / "page.html"
    assert run_page(tmp_path / "n", html_path) == 0
    text = Elements(html_path.read_text(encoding="utf-8")).text
    assert "no ground truth" in text
    assert "image minus truth" not in text


def test_colour_bar_of_differences_fits_them_with_and_without_a_truth(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    # The builder's mean is 6 above the truth and 22 above the best baseline.
    assert report_page.error_range(series) == 6
    without = replace(series, images=tuple(image for image in series.images if image.role != "truth"))
    assert report_page.error_range(without) == 25


def test_measured_data_are_compared_with_a_reference_and_never_with_a_truth(tmp_path):
    make_series(tmp_path / "s/n")
    header = {"modality": "ct", "affine": AFFINE.tolist(), "source": "measured", "units": "HU relative to something"}
    header["warnings"] = [f"a ring at bin 7 in /scans/Doe_Jane/a.tif {HOSTILE}"]
    write_tensors(tmp_path / "s/n/measurement/measurement.safetensors", {"x": np.zeros(1, np.float32)}, header)
    write_manifest(tmp_path / "s", [{"series": "n", "accepted": True, "warnings": ["48 frames of reference"]}])
    series = load_series(tmp_path / "s/n", LABELS)
    assert (series.truth.label, series.unit) == ("Reference", "rel. HU")
    assert run_page(tmp_path / "s/n", tmp_path / "page.html") == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    text = Elements(html).text
    for words in ("measured data · no ground truth", "has noise of its own", "48 frames of reference", "…/a.tif"):
        assert words in text
    assert HOSTILE in text
    assert "image minus truth" not in text.lower()
    assert "Doe_Jane" not in html


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_from_its_ground():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", (ASSETS / "style.css").read_text(encoding="utf-8")))
    for ink in ("text", "soft", "accent", "bad", "warn"):
        for ground in ("ground", "panel", "raised"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["accent-ink"], colours["accent"]) >= 4.5
    assert contrast(colours["warn"], colours["warn-ground"]) >= 4.5


def test_best_baseline_and_best_cells_follow_the_figures(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    assert series.best_baseline.key == "tv"
    columns, rows = report_metrics.table(series)
    psnr = [column.name for column in columns].index("psnr_db")
    assert [row.method for row in rows if row.cells[psnr].best] == ["PaM posterior mean"] * 3
    assert "ssim" not in [column.name for column in columns]


def test_pictures_have_the_patients_right_at_the_left_and_front_on_top():
    array = np.zeros(SHAPE_ZYX, np.float32)
    # With AFFINE, x = 38 is at -180 mm (left) and y = 2 at +160 mm (front); z = 11 is the top slice.
    array[SHAPE_ZYX[0] // 2, 2, 38] = 1
    volume = figures.oriented(array, AFFINE)
    row, column = np.argwhere(figures.plane_slice(volume, "axial"))[0]
    assert (row < SHAPE_ZYX[1] / 2, column > SHAPE_ZYX[2] / 2) == (True, True)
    array = np.zeros(SHAPE_ZYX, np.float32)
    array[11, :, :] = 1
    assert figures.plane_slice(figures.oriented(array, AFFINE), "coronal")[0].all()
    array = np.zeros(SHAPE_ZYX, np.float32)
    array[:, 0, :] = 1
    assert figures.plane_slice(figures.oriented(array, AFFINE), "sagittal")[:, 0].all()


def test_montage_and_thumbnail_are_pictures_with_content(results):
    for name, most in (("c_s_n.png", 4000), ("c_s_n_thumb.png", 1000)):
        picture = Image.open(results / "reports" / name)
        assert 100 < picture.width < most
        assert np.asarray(picture.convert("L")).std() > 20


def test_index_lists_what_is_there_and_says_what_failed(tmp_path):
    results = tmp_path / "results"
    make_series(results / "c/s/n")
    assert run_page(results / "c/s/n", results / "reports/c_s_n.html") == 0
    manifest = [
        {"series": "n", "modality": "ct", "kind": "volume", "accepted": True, "shape_zyx": [12, 36, 40]},
        {"series": "bad", "accepted": False, "reason": "gap", "detail": f"a slice is missing {HOSTILE}"},
        {"series": "late", "accepted": True},
    ]
    write_manifest(results / "c/s", manifest)
    write_manifest(results / "c/empty", [])
    (results / "c/unread/ingest").mkdir(parents=True)
    (results / "logs/c/s").mkdir(parents=True)
    (results / "logs/c/summary.log").write_text("")
    (results / "failures.tsv").write_text(
        "cohort\tstudy\tseries\tstage\tmessage\nc\tunread\t\tingest\t/scans/Doe_Jane: no series found; see /a/b.dcm\n"
    )
    assert main(["index", "--results", str(results), "--out", str(results / "index.html")]) == 0
    elements = Elements((results / "index.html").read_text(encoding="utf-8"))
    links = {attributes["href"] for tag, attributes in elements.tags if tag == "a"}
    assert "reports/c_s_n.html" in links
    assert all((results / link.partition("#")[0]).exists() for link in links)
    assert "reports/c_s_n.html#check-2" in links
    for words in (
        "RESEARCH ONLY", "1 series in 1 cohort, 4 not reconstructed", "31.5 dB", "+3.5 dB against TV", "12 slices",
        f"left out: a slice is missing {HOSTILE}", "the measure stage has left no result", "no image series was found",
        "ingest: (folder): no series found; see …/b.dcm",
    ):  # fmt: skip
        assert words in elements.text
    assert "Doe_Jane" not in elements.text
    assert all(a["src"].startswith("data:image/jpeg;base64,") for tag, a in elements.tags if tag == "img")


def write_manifest(folder: Path, rows: list[dict]) -> None:
    (folder / "ingest").mkdir(parents=True)
    (folder / "ingest/manifest.json").write_text(json.dumps({"study": folder.name, "series": rows}))


def test_index_of_nothing_is_a_page_and_of_no_folder_an_error(tmp_path, capsys):
    assert main(["index", "--results", str(tmp_path), "--out", str(tmp_path / "index.html")]) == 0
    assert "nothing to show yet" in (tmp_path / "index.html").read_text()
    assert main(["index", "--results", str(tmp_path / "none"), "--out", str(tmp_path / "i.html")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_report_imports_no_torch():
    code = "import sys, pipeline.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_vendored_viewer_is_the_one_its_note_names():
    folder = ASSETS / "vendor/niivue"
    digest = hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest()
    assert digest in (folder / "VERSION.txt").read_text()
    assert "BSD 2-Clause" in (folder / "LICENSE").read_text()


def test_paths_are_withheld_and_addresses_and_units_are_not():
    withhold = report_provenance.withhold_paths
    assert withhold("see /scans/Doe_Jane/a.dcm: torn; /home/jane is full") == "see …/a.dcm: torn; (folder) is full"
    for text in ("0.02 /mm", "https://creativecommons.org/licenses/by/4.0/", "and/or", "1/mm"):
        assert withhold(text) == text
