"""A page in a browser: every control does what it says, and nothing complains."""

import numpy as np
import pytest

from pipeline import report_budget
from tests.pipeline.report_browser import (
    CROSS,
    changed,
    choose,
    drag,
    number,
    on_tile,
    pixels,
    read_values,
    settle,
    tiles,
)
from tests.pipeline.report_series_builder import HALF, SAMPLES, SHAPE_ZYX, STD, SUPPORT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PANELS = ["TV", "PaM posterior mean", "Uncertainty (std)", "Detail from the prior", "Error of PaM posterior mean"]
LOAD = "async (name) => Array.from(await sliceweave.store.load(sliceweave.store.find(name)))"


@pytest.mark.interop("write", "HTML page from a file", "Chromium")
def test_opens_with_five_panels_side_by_side(ct, record_property):
    megabytes = ct.evaluate("performance.getEntriesByType('navigation')[0].decodedBodySize / 1e6")
    ready = ct.evaluate("performance.getEntriesByName('ready')[0].startTime / 1000")
    record_property("measured", f"{megabytes:.1f} MB, ready after {ready:.1f} s, no request, no console message")
    menus = ct.locator(".panel > header select")
    assert menus.evaluate_all("(all) => all.map((menu) => menu.selectedOptions[0].textContent)") == PANELS
    for panel, name in enumerate(PANELS):
        # The builder's std and support are constant, so one colour; the others have structure.
        assert pixels(ct, panel).std() > 5, name
    units = [words.split()[-1] for words in ct.locator(".bar").all_inner_texts()]
    assert units == ["HU", "HU", "HU", "%", "HU"]


def test_voxels_are_those_of_the_files_and_the_read_out_names_them(ct, report_results):
    volumes = report_results[1]
    for key in ("tv", "pam_mean", "truth", "pam_sample2"):
        expected = volumes["samples"][1] if key == "pam_sample2" else volumes[key]
        shown = np.array(ct.evaluate(LOAD, key)).reshape(SHAPE_ZYX) * report_budget.CT_STEP_HU
        assert np.abs(shown - expected).max() <= report_budget.CT_STEP_HU / 2
    error = np.array(ct.evaluate(LOAD, "error:tv")) * report_budget.CT_STEP_HU
    assert np.all(error[volumes["truth"].ravel() > -900] == -16)
    i, j, k = ct.evaluate(CROSS)
    read = read_values(ct)
    assert ct.locator("#voxel").inner_text() == f"voxel {i}, {j}, {k}"
    for name, key in {"Truth": "truth", "TV": "tv", "FBP": "fbp", "PaM mean": "pam_mean"}.items():
        assert abs(number(read[name]) - volumes[key][k, j, i]) <= 1.5
    assert number(read["Uncertainty"]) == pytest.approx(STD, abs=1)
    assert read["From the prior"] == f"{100 * (1 - SUPPORT):.0f} %"
    assert number(read["In doubt"]) == pytest.approx(100 * volumes["pam_flag"][k, j, i], abs=1.1)
    low, high = (number(part) for part in ct.locator("#interval-text").inner_text().split(" to "))
    assert [low, high] == pytest.approx([volumes["pam_mean"][k, j, i] + side * HALF for side in (-1, 1)], abs=3)
    words = ct.locator("#words").inner_text()
    assert "The prior decides here · 73 % of the detail is the prior's" in words
    assert "The truth lies in the interval" in words
    assert ct.locator("#interval-plot circle").count() == SAMPLES


def test_crosshair_is_linked_in_three_planes(ct):
    before = [pixels(ct, panel) for panel in range(5)]
    ct.mouse.click(*on_tile(ct, 2, "axial", 0.75, 0.3))
    settle(ct)
    z, y, x = SHAPE_ZYX
    assert ct.evaluate(CROSS) == [int(0.75 * x), int(0.3 * y), z // 2]
    assert all(changed(old, pixels(ct, panel)) > 0.1 for panel, old in enumerate(before))
    at = ct.evaluate(CROSS)
    ct.keyboard.press("ArrowRight")
    ct.keyboard.press("PageUp")
    settle(ct)
    # Increasing x runs to the patient's left here, and increasing z to the head.
    assert ct.evaluate(CROSS) == [at[0] + 1, at[1], at[2] + 1]
    ct.mouse.click(*on_tile(ct, 0, "sagittal", 0.1, 0.9))
    settle(ct)
    assert ct.evaluate(CROSS) == [at[0] + 1, int(0.1 * y), z - 1 - int(0.9 * z)]


def test_drag_wheel_zoom_and_pan(ct):
    drag(ct, on_tile(ct, 1, "axial", 0.2, 0.2), on_tile(ct, 1, "axial", 0.6, 0.7))
    assert ct.evaluate(CROSS)[:2] == [24, 25]
    ct.mouse.wheel(0, 120)
    settle(ct)
    assert ct.evaluate(CROSS)[2] == 5
    ct.mouse.wheel(0, -240)
    settle(ct)
    assert ct.evaluate(CROSS)[2] in (6, 7)
    before = pixels(ct, 0)
    ct.keyboard.down("Control")
    ct.mouse.wheel(0, -60)
    ct.mouse.wheel(0, -60)
    ct.keyboard.up("Control")
    settle(ct)
    zoom = ct.evaluate("sliceweave.state.zoom")
    assert 1.5 < zoom < 3
    assert changed(before, pixels(ct, 0)) > 2
    centre, cross = ct.evaluate("sliceweave.state.centre"), ct.evaluate(CROSS)
    drag(ct, on_tile(ct, 1, "axial", 0.5, 0.5), on_tile(ct, 1, "axial", 0.6, 0.5), key="Shift")
    assert ct.evaluate("sliceweave.state.centre")[0] == pytest.approx(centre[0] - 0.1 * SHAPE_ZYX[2], abs=0.3)
    assert ct.evaluate(CROSS) == cross
    ct.locator("#reset").click()
    settle(ct)
    assert ct.evaluate("sliceweave.state.zoom") == 1
    assert ct.evaluate(CROSS) == [size // 2 for size in SHAPE_ZYX[::-1]]


def test_two_fingers_zoom_and_pan(ct):
    box = ct.locator(".panel canvas").nth(0).bounding_box()
    script = """([x, y]) => {
      const canvas = document.querySelector('.panel canvas');
      const fire = (type, id, dx) => canvas.dispatchEvent(new PointerEvent(type, {
        pointerId: id, pointerType: 'touch', clientX: x + dx, clientY: y, bubbles: true }));
      fire('pointerdown', 11, -20); fire('pointerdown', 12, 20);
      fire('pointermove', 11, -40); fire('pointermove', 12, 40);
      fire('pointerup', 11, -40); fire('pointerup', 12, 40);
    }"""
    ct.evaluate(script, [box["x"] + box["width"] / 2, box["y"] + box["height"] / 3])
    assert ct.evaluate("sliceweave.state.zoom") == pytest.approx(2, abs=0.01)


def test_window_presets_fields_and_right_drag(ct):
    names = ct.locator("#window .segments label").all_inner_texts()
    assert names == ["Lung", "Soft", "Bone", "Brain", "Wide"]
    std = pixels(ct, 2)
    for name, (level, width) in {"Lung": (-600, 1500), "Bone": (400, 1800), "Brain": (40, 80)}.items():
        before = pixels(ct, 1)
        choose(ct, "#window", name)
        assert changed(before, pixels(ct, 1)) > 2
        assert (ct.locator("#level").input_value(), ct.locator("#width").input_value()) == (str(level), str(width))
    assert changed(std, pixels(ct, 2)) < 0.1
    assert ct.locator(".bar").nth(0).inner_text().split() == ["0", "40", "80", "HU"]
    ct.locator("#level").fill("100")
    ct.locator("#width").fill("200")
    ct.locator("#width").press("Enter")
    settle(ct)
    assert ct.evaluate("sliceweave.state.window") == {"name": "", "low": 0, "high": 200}
    start = on_tile(ct, 1, "axial", 0.5, 0.5)
    drag(ct, start, (start[0] + 75, start[1] + 30), button="right")
    assert ct.evaluate("sliceweave.state.window") == {"name": "", "low": -30, "high": 270}
    assert ct.locator("#window input:checked").count() == 0
    ct.locator("#tools-drag label").nth(1).click()
    drag(ct, start, (start[0] - 75, start[1]))
    assert ct.evaluate("sliceweave.state.window.high - sliceweave.state.window.low") == pytest.approx(150)


def test_overlay_lies_over_the_reconstruction_with_threshold_and_opacity(ct):
    tv, plain = pixels(ct, 0), pixels(ct, 1)
    names = ["No overlay", "Uncertainty", "From the prior", "In doubt"]
    assert ct.locator("#overlay-map option").all_inner_texts() == names
    ct.locator("#overlay-map").select_option(label="In doubt")
    settle(ct)
    half = pixels(ct, 1)
    assert changed(plain, half) > 1
    assert changed(tv, pixels(ct, 0)) < 0.1
    # The flag rises from 0 to 80 % along x and the map ends at 80: above the threshold is the right part alone.
    ct.locator("#threshold").fill("75")
    settle(ct)
    tile = tiles(ct, 1)["axial"]
    edge = int(tile["start"][0] + 0.74 * tile["size"][0] * tile["pixel"][0])
    rows = slice(int(tile["start"][1]) + 14, int(tile["start"][1]) + 60)
    difference = np.abs(pixels(ct, 1) - plain)[rows].sum(axis=2)
    assert difference[:, 14 : edge - 4].max() == 0
    assert difference[:, edge + 6 : -20].min() > 0
    assert ct.locator("#threshold-text").inner_text() == "60 %"
    strong = changed(plain, pixels(ct, 1))
    ct.locator("#opacity").fill("15")
    settle(ct)
    assert 0 < changed(plain, pixels(ct, 1)) < strong
    ct.locator("#reset").press("o")
    settle(ct)
    assert changed(plain, pixels(ct, 1)) < 0.1


def test_planes_one_at_a_time_and_panels_enlarged(ct):
    for name in ("Axial", "Coronal", "Sagittal"):
        choose(ct, "#planes", name)
        assert list(tiles(ct)) == [name.lower()]
    choose(ct, "#planes", "All")
    assert sorted(tiles(ct)) == ["axial", "coronal", "sagittal"]
    for tile in tiles(ct).values():
        across, down = (pixel / mm for pixel, mm in zip(tile["pixel"], tile["mm"]))
        assert across == pytest.approx(down), "pixels must keep the voxels' shape"
    ct.get_by_role("button", name="Enlarge this panel").nth(1).click()
    settle(ct)
    assert [box is not None for box in (ct.locator(".panel").nth(n).bounding_box() for n in range(5))] == [
        False, True, False, False, False
    ]  # fmt: skip
    ct.locator(".panel canvas").nth(1).dblclick()
    settle(ct)
    assert all(ct.locator(".panel").nth(n).bounding_box() for n in range(5))


def test_each_panel_can_show_anything(ct):
    menu = ct.locator(".panel > header select").nth(0)
    labels = [text for text in menu.locator("option").all_inner_texts() if text != "TV"]
    assert len(labels) == 1 + SAMPLES + 3 + 1 + 1 + 3
    before = pixels(ct, 0)
    for label in ("Truth", "Sample 3", "Error of FBP", "Detail in doubt"):
        menu.select_option(label=label)
        settle(ct)
        after = pixels(ct, 0)
        assert changed(before, after) > 0.5, label
        assert label in ct.locator(".panel canvas").nth(0).get_attribute("aria-label")
        before = after
