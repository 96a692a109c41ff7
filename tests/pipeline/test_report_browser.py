"""A page in a browser: it shows its volumes, its controls work, and MR is never rendered in 3D."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import report_page
from tests.pipeline.report_series_builder import HALF, SHAPE_ZYX, STD, SUPPORT, make_results

BROWSER_FLAGS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, dict]:
    """(results folder with one CT and one MR page, volumes of the CT series)."""
    return make_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def chromium():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A function that opens a page's file, waits until its viewer is ready, and returns (page, what went wrong)."""
    opened = []

    def open_file(path: Path):
        page, wrong = chromium.new_page(viewport={"width": 1366, "height": 768}), []
        opened.append(page)
        page.set_default_timeout(120_000)
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-status=ready]", state="attached")
        return page, wrong

    yield open_file
    for page in opened:
        page.close()


def pixels(page, view: int) -> np.ndarray:
    """(rows columns rgb) of a view's canvas on the screen."""
    shot = page.locator(".view canvas").nth(view).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def settle(page) -> None:
    page.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 250))")


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_ct_page_in_a_browser(results, open_page):
    page, wrong = open_page(results[0] / "reports/c_s_n.html")
    assert page.locator(".view").count() == 4
    for view in range(4):
        assert pixels(page, view).std() > 5, f"view {view} is blank"
    before = pixels(page, 1)
    page.locator("#window label", has_text="Bone").first.click()
    settle(page)
    assert np.abs(pixels(page, 1) - before).mean() > 2
    assert page.locator("#level").input_value() == "400"
    check_values(page, results[1])
    check_linked_crosshair(page)
    check_linked_pan(page)
    check_overlays(page, results[1])
    page.locator(".view select").nth(0).select_option("truth")
    settle(page)
    assert "Truth" in page.locator(".view canvas").nth(0).get_attribute("aria-label")
    page.locator("#planes label", has_text="3D").click()
    settle(page)
    assert page.evaluate("sliceweave.views[1].nv.opts.sliceType") == 4
    assert wrong == []


def check_values(page, volumes: dict) -> None:
    """The page's voxels are the files' to within half a step, and the read-out names those under the crosshair."""
    for key in ("tv", "pam_mean", "truth"):
        shown = page.evaluate("async (key) => Array.from(await sliceweave.store.get(key))", key)
        shown = np.array(shown).reshape(SHAPE_ZYX) * report_page.CT_STEP_HU
        assert np.abs(shown - volumes[key]).max() <= report_page.CT_STEP_HU / 2
    error = page.evaluate("async () => Array.from(await sliceweave.store.get('error:tv'))")
    inside = volumes["truth"].ravel() > -900
    assert np.all(np.array(error)[inside] * report_page.CT_STEP_HU == -16)
    i, j, k = page.evaluate("sliceweave.views[0].voxel()")
    values = {"Truth": "truth", "TV": "tv", "PaM mean": "pam_mean"}
    items = "[...document.querySelectorAll('#readout div')].map((item) => [...item.children].map((c) => c.textContent))"
    read = dict(page.evaluate(items))
    assert read["Voxel"] == f"{i}, {j}, {k}"
    for name, key in values.items():
        assert abs(float(read[name].removesuffix(" HU").replace(",", "")) - volumes[key][k, j, i]) <= 1.0
    assert read["Uncertainty (std)"] == f"± {STD:.0f} HU"
    assert read["Detail from the prior"] == f"{100 * (1 - SUPPORT):.0f} %"
    assert abs(float(read["Detail in doubt"].removesuffix(" %")) - 100 * volumes["pam_flag"][k, j, i]) < 0.8
    mean = volumes["pam_mean"][k, j, i]
    assert read["90 % interval"].startswith(f"{mean - HALF:.0f} to {mean + HALF:.0f} HU, truth inside")


def check_overlays(page, volumes: dict) -> None:
    """Each map can lie over the reconstruction, changes the picture, and is alone with the image."""
    choice = page.locator("#overlay-map")
    assert choice.locator("option").all_inner_texts() == [
        "Uncertainty (std)", "Detail from the prior", "Detail in doubt"
    ]  # fmt: skip
    seen = [pixels(page, 1)]
    for key in ("pam_flag", "pam_share", "pam_std"):
        choice.select_option(key)
        settle(page)
        assert page.evaluate("sliceweave.views[1].nv.volumes.length") == 2
        assert page.evaluate("[sliceweave.views[1].laid, sliceweave.state.overlay.key]") == [key, key]
        assert all(np.abs(pixels(page, 1) - before).mean() > 1 for before in seen)
        seen.append(pixels(page, 1))
    page.locator("#opacity").fill("0")
    settle(page)
    assert np.abs(pixels(page, 1) - seen[0]).mean() < 1
    shown = np.array(page.evaluate("async () => Array.from(await sliceweave.store.get('pam_flag'))"))
    assert np.abs(shown.reshape(SHAPE_ZYX) * 0.5 - 100 * volumes["pam_flag"]).max() <= 0.26


def check_linked_crosshair(page) -> None:
    """A click in one view moves the crosshair of all; arrow keys move it by one voxel to the patient's left."""
    box = page.locator(".view canvas").nth(2).bounding_box()
    start = page.evaluate("sliceweave.views[0].voxel()")
    page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 0.4 * box["height"])
    settle(page)
    at = page.evaluate("sliceweave.views.map((view) => view.voxel())")
    assert at == [at[2]] * 4
    assert at[0] != start
    page.keyboard.press("ArrowRight")
    settle(page)
    moved = page.evaluate("sliceweave.views.map((view) => view.voxel())")
    assert moved == [[at[0][0] + 1, at[0][1], at[0][2]]] * 4


def check_linked_pan(page) -> None:
    """Shift and drag shifts every view by the same way and leaves the crosshair where it was."""
    box = page.locator(".view canvas").nth(1).bounding_box()
    before = page.evaluate("sliceweave.views[0].voxel()")
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.45 * box["height"], steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    settle(page)
    pans = page.evaluate("sliceweave.views.map((view) => [...view.nv.scene.pan2Dxyzmm])")
    assert pans == [pans[0]] * 4
    assert np.abs(pans[0][:3]).max() > 1
    assert page.evaluate("sliceweave.views[0].voxel()") == before
    page.locator("#reset").click()
    settle(page)
    assert page.evaluate("sliceweave.views.map((view) => [...view.nv.scene.pan2Dxyzmm])") == [[0, 0, 0, 1]] * 4


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_mr_page_never_renders_in_3d(results, open_page):
    page, wrong = open_page(results[0] / "reports/m_s_n.html")
    assert page.locator("#planes label").all_inner_texts() == ["Three planes", "Axial", "Coronal", "Sagittal"]
    canvas = page.locator(".view canvas").nth(1)
    canvas.click()
    state = "[sliceweave.views[1].nv.opts.sliceType, sliceweave.views[1].nv.opts.multiplanarShowRender]"
    for key in ("v", "V", "c", "p", "v", "v", "v"):
        page.keyboard.press(key)
        page.wait_for_timeout(80)
        assert page.evaluate(state) == [3, 0]
    for plane, slice_type in {"Axial": 0, "Coronal": 1, "Sagittal": 2, "Three planes": 3}.items():
        page.locator("#planes label", has_text=plane).click()
        assert page.evaluate(state) == [slice_type, 0]
    page.evaluate("sliceweave.state.plane = 'render'; sliceweave.views.forEach((view) => view.layout())")
    assert page.evaluate(state) == [0, 0]
    assert wrong == []
