"""The report: what is on a page and in the index, and what must never be."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.nifti import write_volume
from pipeline import (
    report_metrics,
    report_page,
    report_provenance,
    report_uncertainty,
)
from pipeline.measurement import write_tensors
from pipeline.report import ASSETS
from pipeline.report_provenance import flatten
from pipeline.report_series import load_series
from tests.pipeline.page_elements import HOSTILE, Elements, write_manifest
from tests.pipeline.report_series_builder import (
    AFFINE,
    LABELS,
    SAMPLES,
    SHAPE_ZYX,
    make_results,
    make_series,
    run_page,
)


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


def test_best_baseline_and_best_cells_follow_the_figures(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    assert series.best_baseline.key == "tv"
    columns, rows = report_metrics.table(series)
    psnr = [column.name for column in columns].index("psnr_db")
    assert [row.method for row in rows if row.cells[psnr].best] == ["PaM posterior mean"] * 3
    assert "ssim" not in [column.name for column in columns]


def test_montage_and_thumbnail_are_pictures_with_content(results):
    for name, most in (("c_s_n.png", 4000), ("c_s_n_thumb.png", 1000)):
        picture = Image.open(results / "reports" / name)
        assert 100 < picture.width < most
        assert np.asarray(picture.convert("L")).std() > 20


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
