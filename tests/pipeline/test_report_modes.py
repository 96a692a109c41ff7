"""The page in a browser: wipe, samples, keys, links, orientation, and where JavaScript or WebGL is missing."""

import json

import numpy as np
import pytest
from scipy import ndimage

from data.nifti import write_volume
from tests.pipeline.report_browser import CROSS, changed, choose, drag, on_tile, pixels, settle, tiles
from tests.pipeline.report_series_builder import SAMPLES, SHAPE_ZYX, make_series, run_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def part(page, panel: int, low: float, high: float) -> np.ndarray:
    """Pixels between two shares of the axial tile's width, without its marks."""
    tile = tiles(page, panel)["axial"]
    left, top = (int(value) for value in tile["start"])
    width, height = (size * pixel for size, pixel in zip(tile["size"], tile["pixel"]))
    columns = slice(left + int(low * width) + 4, left + int(high * width) - 4)
    return pixels(page, panel)[top + 30 : top + int(height) - 30, columns]


def test_wipe_shows_one_image_on_each_side_of_the_line(ct):
    choose(ct, "#modes", "Wipe")
    ct.locator("#reset").press("h")
    selects = ct.locator("[data-panel=wipe] header select")
    selects.nth(0).select_option(label="FBP")
    selects.nth(1).select_option(label="Uncertainty (std)")
    slider = ct.locator("#wipe")
    slider.fill("100")
    settle(ct)
    left_whole = part(ct, 0, 0.05, 0.9)
    slider.fill("0")
    settle(ct)
    right_whole = part(ct, 0, 0.05, 0.9)
    assert changed(left_whole, right_whole) > 5
    slider.fill("50")
    settle(ct)
    mixed = part(ct, 0, 0.05, 0.9)
    # The slice's middle, where the line is, within the part from 0.05 to 0.9; its handle is 8 pixels wide on each side.
    middle = round(mixed.shape[1] * 0.45 / 0.85)
    assert changed(left_whole[:, : middle - 12], mixed[:, : middle - 12]) < 0.1
    assert changed(right_whole[:, middle + 12 :], mixed[:, middle + 12 :]) < 0.1
    assert changed(left_whole[:, middle + 12 :], mixed[:, middle + 12 :]) > 5
    drag(ct, on_tile(ct, 0, "axial", 0.5, 0.3), on_tile(ct, 0, "axial", 0.8, 0.3))
    assert ct.evaluate("sliceweave.state.wipe.at") == pytest.approx(0.8, abs=0.01)
    assert slider.input_value() == "80"
    assert changed(left_whole[:, : middle + 12], part(ct, 0, 0.05, 0.9)[:, : middle + 12]) < 0.1
    assert len(ct.locator("[data-panel=wipe] .bar").all()) == 2
    ct.get_by_role("button", name="Swap left and right").click()
    settle(ct)
    texts = [select.locator("option:checked").inner_text() for select in selects.all()]
    assert texts == ["Uncertainty (std)", "FBP"]


def test_difference_beside_the_wipe_is_right_minus_left(ct, report_results):
    choose(ct, "#modes", "Wipe")
    assert ct.locator("[data-panel=difference] .name").inner_text() == "Right − left: PaM posterior mean − TV"
    script = (
        "async () => { const { store, state } = sliceweave; const d = store.difference(state.wipe.a, state.wipe.b); "
        "return Array.from(await store.load(d)).map((v) => v * d.step); }"
    )
    values = np.array(ct.evaluate(script))
    volumes = report_results[1]
    assert np.abs(values.reshape(SHAPE_ZYX) - (volumes["pam_mean"] - volumes["tv"])).max() <= 2


def test_samples_flip_by_buttons_keys_and_by_themselves(ct):
    choose(ct, "#modes", "Samples")
    seen = [part(ct, 0, 0.3, 0.7)]
    for place in range(1, SAMPLES + 1):
        choose(ct, "#flip", str(place))
        seen.append(part(ct, 0, 0.3, 0.7))
    # The builder's samples rise by one std each, the mean lies in the middle: so does the picture's grey.
    grey = [float(picture.mean()) for picture in seen]
    assert grey[1] < grey[2] < grey[0] < grey[3] < grey[4]
    assert ct.locator("[data-panel=samples] .note").inner_text() == f"one of {SAMPLES} draws"
    ct.locator("#reset").focus()
    ct.keyboard.press("n")
    assert ct.evaluate("sliceweave.state.flip") == 0
    ct.keyboard.press("b")
    assert ct.evaluate("sliceweave.state.flip") == SAMPLES
    ct.locator("#play").click()
    shown = set()
    for _ in range(60):
        ct.wait_for_timeout(50)
        shown.add(ct.evaluate("sliceweave.state.flip"))
    # The mean is not among the draws that play.
    assert len(shown) >= 3
    assert 0 not in shown
    assert ct.locator("#play").get_attribute("aria-pressed") == "true"
    ct.locator("#play").click()
    still = ct.evaluate("sliceweave.state.flip")
    ct.wait_for_timeout(900)
    assert ct.evaluate("sliceweave.state.flip") == still


KEYS = {
    "2": ("sliceweave.state.mode", "wipe"),
    "]": ("sliceweave.state.wipe.at", 0.55), "[": ("sliceweave.state.wipe.at", 0.5),
    "3": ("sliceweave.state.mode", "samples"), "1": ("sliceweave.state.mode", "side"),
    "p": ("sliceweave.state.plane", "axial"), "w": ("sliceweave.state.window.name", "Bone"),
    "d": ("sliceweave.state.tool", "window"), "o": ("sliceweave.state.overlay.source?.kind", "std"),
    "f": ("document.querySelectorAll('.panel.large').length", 1), "h": ("sliceweave.state.marks", False),
    "i": ("sliceweave.state.smooth", False), "+": ("sliceweave.state.zoom", 1.2), "0": ("sliceweave.state.zoom", 1),
    " ": ("Boolean(sliceweave.state.playing)", True),
}  # fmt: skip


def test_every_key_of_the_list_does_what_it_says(ct):
    for key, (state, value) in KEYS.items():
        ct.keyboard.press(key)
        settle(ct)
        found = ct.evaluate(state)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), key
    ct.keyboard.press(" ")
    ct.keyboard.press("x")
    assert ct.evaluate("sliceweave.state.wipe.a.label") == "PaM posterior mean"
    ct.keyboard.press("?")
    listed = ct.locator("#keys dt").all_inner_texts()
    assert len(listed) == 18
    assert all(any(key in row.split() for row in listed) for key in KEYS if key != " ")
    before = ct.evaluate(CROSS)
    ct.keyboard.press("ArrowLeft")
    assert ct.evaluate(CROSS) == before, "keys must not move what the list covers"
    ct.keyboard.press("Escape")
    assert not ct.locator("#help").is_visible()


def test_keys_work_after_a_click_on_a_control_but_not_while_typing(ct):
    choose(ct, "#modes", "Wipe")
    ct.keyboard.press("x")
    assert ct.evaluate("sliceweave.state.wipe.a.label") == "PaM posterior mean"
    ct.locator("#level").click()
    ct.keyboard.press("3")
    assert ct.evaluate("sliceweave.state.mode") == "wipe"
    slider = ct.locator("#wipe")
    slider.focus()
    ct.keyboard.press("ArrowRight")
    assert ct.evaluate("sliceweave.state.wipe.at") == pytest.approx(0.51)


def test_a_link_brings_the_view_back(ct, report_results, open_page):
    ct.mouse.click(*on_tile(ct, 0, "axial", 0.3, 0.6))
    choose(ct, "#window", "Bone")
    choose(ct, "#modes", "Wipe")
    choose(ct, "#planes", "Coronal")
    ct.locator("[data-panel=wipe] header select").nth(0).select_option(label="Truth")
    ct.locator("#wipe").fill("25")
    ct.locator("#copy").click()
    ct.wait_for_selector("#toast:not(:empty)")
    fragment = ct.evaluate("location.hash")
    state = (
        "(() => { const { cross, window: w, mode, plane, wipe } = sliceweave.state; "
        "return [cross, w, mode, plane, wipe.a.label, wipe.b.label, wipe.at]; })()"
    )
    expected = ct.evaluate(state)
    other, wrong = open_page(report_results[0] / "reports/c_s_n.html", fragment)
    assert other.evaluate(state) == expected
    assert wrong == []


def test_a_hostile_link_changes_nothing(report_results, open_page):
    nasty = "#at=1e999,<img src=x onerror=alert(1)>,__proto__&window=5,1&mode=constructor&planes=x&wipe=v99,e0,a&zoom="
    page, wrong = open_page(report_results[0] / "reports/c_s_n.html", nasty)
    assert page.evaluate(CROSS) == [size // 2 for size in SHAPE_ZYX[::-1]]
    state = page.evaluate("[sliceweave.state.mode, sliceweave.state.plane, sliceweave.state.zoom]")
    assert state == ["side", "planes", 1]
    assert wrong == []


def test_mr_and_data_without_truth(report_results, open_page, tmp_path):
    make_series(tmp_path / "n", modality="mr", truth=False)
    assert run_page(tmp_path / "n", tmp_path / "page.html") == 0
    for path in (report_results[0] / "reports/m_s_n.html", tmp_path / "page.html"):
        page, wrong = open_page(path)
        assert page.locator("#modes label").all_inner_texts() == ["Side by side", "Wipe", "Samples"]
        assert "niivue" not in path.read_text(encoding="utf-8").lower(), "an MR page must not be able to render a face"
        assert page.locator("#window .segments label").all_inner_texts() == ["Auto", "Full range", "Faint"]
        assert page.locator(".panel").count() == (4 if path.name == "page.html" else 5)
        assert wrong == []


@pytest.mark.hostile("markup in the names of a study on the page")
def test_markup_in_names_stays_text(open_page, tmp_path):
    nasty = "<img src=x onerror=alert(1)>\"'&"
    make_series(tmp_path / "n", note=nasty, **{f"key{nasty}": 1})
    folder = tmp_path / "n/baseline"
    (folder / "fbp.nii.gz").rename(folder / f"{nasty}.nii.gz")
    (folder / f"{nasty}.json").write_text(json.dumps({"seconds": nasty}))
    assert run_page(tmp_path / "n", tmp_path / "page.html", (nasty, nasty, nasty)) == 0
    page, wrong = open_page(tmp_path / "page.html")
    page.locator(".panel > header select").nth(0).select_option(label=nasty)
    choose(page, "#modes", "Wipe")
    settle(page)
    assert page.locator("img").count() == 1
    assert page.locator("h1").inner_text() == 3 * nasty
    assert wrong == []


def test_patients_left_and_front_are_where_a_radiologist_expects_them(open_page, tmp_path):
    """A bright block at the patient's left, front and head, in a sagittal stack of few thick slices."""
    shape = (40, 36, 8)
    affine = np.diag([12.0, 3.0, 3.0, 1.0]) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = 40, 50, -60
    make_series(tmp_path / "n", affine=affine)
    block = np.full(shape, -1000.0, np.float32)
    # x = 6 of 8 runs to the left, y = 4 of 36 is in front, z = 34 of 40 is high.
    block[32:37, 2:7, 6] = 1000
    for path in (tmp_path / "n").glob("**/*.nii.gz"):
        write_volume(path, np.full_like(block, 0.5) if "support" in path.name else block, affine)
    (tmp_path / "n/reconstruct/pam/samples.safetensors").unlink()
    assert run_page(tmp_path / "n", tmp_path / "page.html") == 0
    page, wrong = open_page(tmp_path / "page.html")
    assert page.evaluate("sliceweave.app.all.map((p) => p.name)")[0] == "sagittal"
    page.evaluate("sliceweave.app.moveTo([6, 4, 34])")
    for key in ("h", "i"):
        page.locator("#reset").press(key)
    settle(page)
    letters = {name: tile["letters"] for name, tile in tiles(page, 0).items()}
    assert letters["axial"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert letters["coronal"] == {"left": "R", "right": "L", "top": "S", "bottom": "I"}
    assert letters["sagittal"] == {"left": "A", "right": "P", "top": "S", "bottom": "I"}
    expected = {"axial": ("right", "top"), "coronal": ("right", "top"), "sagittal": ("left", "top")}
    picture = pixels(page, 0)
    for name, tile in tiles(page, 0).items():
        (left, top), size = tile["start"], [n * p for n, p in zip(tile["size"], tile["pixel"])]
        view = picture[int(top) : int(top + size[1]), int(left) : int(left + size[0])].min(axis=2)
        regions, _ = ndimage.label(view > 250)
        rows, columns = np.nonzero(regions == 1 + np.bincount(regions.ravel())[1:].argmax())
        found = ("right" if columns.mean() > size[0] / 2 else "left", "bottom" if rows.mean() > size[1] / 2 else "top")
        assert found == expected[name], name
        # 15 mm of front to back and of foot to head, 12 mm of left to right, whatever the voxels' shape.
        across, down = (np.ptp(axis) + 1 for axis in (columns, rows))
        true = {"axial": 12 / 15, "coronal": 12 / 15, "sagittal": 1.0}[name]
        assert across / down == pytest.approx(true, rel=0.2), name
    assert wrong == []
