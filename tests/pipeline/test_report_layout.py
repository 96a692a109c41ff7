"""The page in a browser: it fits the screen, can be walked through by keyboard, and says what a browser lacks."""

import json

import pytest

from pipeline.report import main
from tests.pipeline.report_browser import choose, pixels
from tests.pipeline.report_series_builder import SHAPE_ZYX

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1440, 900), (1366, 625)])
def test_viewing_part_fits_a_laptop_and_nothing_overlaps(report_results, open_page, width, height):
    for name in ("c", "m"):
        page, wrong = open_page(
            report_results[0] / f"reports/{name}_s_n.html", viewport={"width": width, "height": height}
        )
        for mode in ("Side by side", "Wipe", "Samples"):
            choose(page, "#modes", mode)
            places = {}
            for selector in (".banner", "header.top", "#tools", "#panels", "#readout", ".sections"):
                places[selector] = page.locator(selector).bounding_box()
            for selector in ("#tools fieldset", "header.top > *", ".panel"):
                for place, item in enumerate(page.locator(selector).all()):
                    if item.is_visible():
                        places[f"{selector} {place}"] = item.bounding_box()
            assert all(box["x"] >= -1 and box["x"] + box["width"] <= width + 1 for box in places.values()), mode
            assert all(box["y"] + box["height"] <= height + 1 for box in places.values()), mode
            for group in ((".banner", "header.top", "#tools", "#panels", "#readout", ".sections"), *groups(places)):
                assert_apart([places[name] for name in group])
            assert places["#tools"]["height"] < 50, "the controls must keep to one row"
            # Enough for the picture: at least two fifths of the window's height.
            assert page.locator(".stage").first.bounding_box()["height"] > 0.4 * height
        assert wrong == []


def test_tablet_has_the_same_parts_below_each_other(report_results, open_page):
    page, wrong = open_page(report_results[0] / "reports/c_s_n.html", viewport={"width": 820, "height": 1180})
    selectors = (".banner", "header.top", "#tools", "#panels", "#readout", ".sections", ".below")
    boxes = [page.locator(selector).bounding_box() for selector in selectors]
    assert_apart(boxes)
    assert all(box["x"] >= -1 and box["x"] + box["width"] <= 821 for box in boxes)
    panels = [panel.bounding_box() for panel in page.locator(".panel").all()]
    assert_apart(panels)
    assert all(panel["width"] > 330 for panel in panels)
    assert wrong == []


def groups(places: dict) -> list[list[str]]:
    prefixes = ("#tools fieldset", "header.top > *", ".panel")
    return [[name for name in places if name.startswith(f"{prefix} ")] for prefix in prefixes]


def assert_apart(boxes: list[dict]) -> None:
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
            down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
            assert min(across, down) <= 1, (a, b)


def test_focus_walks_through_named_controls_from_top_to_bottom(ct):
    parts = [".skip", "header.top", "#tools", "#panels", ".sections"]
    script = (
        "(parts) => { const e = document.activeElement; return [parts.findIndex((part) => e.closest(part)), "
        "e.ariaLabel || e.textContent.trim() || e.closest('label')?.innerText || e.title]; }"
    )
    found = []
    while not found or found[-1][0] != len(parts) - 1:
        ct.keyboard.press("Tab")
        found.append(ct.evaluate(script, parts))
        assert len(found) < 80
    assert found[0] == [0, "Skip the viewer"]
    assert [part for part, _ in found] == sorted(part for part, _ in found), "focus must not jump back"
    assert {part for part, _ in found} == set(range(len(parts)))
    assert all(name for _, name in found)
    unnamed = (
        "[...document.querySelectorAll('button, input, select, canvas')].filter((e) => !(e.ariaLabel || "
        "e.textContent.trim() || e.closest('label')?.textContent.trim())).length"
    )
    assert ct.evaluate(unnamed) == 0


def test_without_javascript_a_sentence_and_the_picture(report_results, open_page):
    page, _ = open_page(report_results[0] / "reports/c_s_n.html", status=None, java_script_enabled=False)
    assert page.locator("noscript .message").is_visible()
    assert "needs JavaScript, which is switched off here" in page.locator("noscript .message").inner_text()
    assert not page.locator("#tools").is_visible()
    assert page.locator("#glance img").bounding_box()["width"] > 800


def test_an_old_browser_gets_a_sentence(report_results, chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto((report_results[0] / "reports/c_s_n.html").as_uri())
    page.wait_for_selector("html[data-status=error]", state="attached")
    assert "cannot unpack compressed data" in page.locator("#message").inner_text()
    context.close()


def test_3d_is_drawn_where_webgl_is_and_a_sentence_where_it_is_not(ct, report_results, chromium):
    choose(ct, "#modes", "3D")
    ct.wait_for_function("sliceweave.app.panels()[0].nv?.volumes.length === 1")
    assert ct.evaluate("sliceweave.app.panels()[0].nv.opts.sliceType") == 4
    context = chromium.new_context()
    page = context.new_page()
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext = "
        "function (kind, options) { return kind.startsWith('webgl') ? null : get.call(this, kind, options); };"
    )
    page.goto((report_results[0] / "reports/c_s_n.html").as_uri())
    page.wait_for_selector("html[data-status=ready]", state="attached")
    assert pixels(page, 0).std() > 5, "the slices need no WebGL"
    choose(page, "#modes", "3D")
    assert page.get_by_text("3D needs WebGL 2, which this browser does not offer here").is_visible()
    context.close()


def test_index_sorts_and_filters(report_results, open_page):
    root = report_results[0]
    for cohort in ("c", "m"):
        (root / cohort / "s/ingest").mkdir(parents=True, exist_ok=True)
        rows = [{"series": "n", "modality": "ct", "accepted": True, "shape_zyx": list(SHAPE_ZYX)}]
        (root / cohort / "s/ingest/manifest.json").write_text(json.dumps({"series": rows}))
    assert main(["index", "--results", str(root), "--out", str(root / "index.html")]) == 0
    page, wrong = open_page(root / "index.html", status=None)
    assert page.locator(".studies tbody tr").count() == 2
    assert page.locator(".lights li").count() == 10
    # Two more rows, one of them without figures, for the order.
    page.evaluate(
        "() => { const body = document.querySelector('.studies tbody'); const row = body.rows[0]; "
        "for (const [name, psnr] of [['a', '40'], ['z', '']]) { const copy = row.cloneNode(true); body.append(copy); "
        "copy.cells[1].dataset.value = name; copy.cells[3].dataset.value = psnr; } }"
    )
    order = "[...document.querySelector('.studies tbody').rows].map((row) => row.cells[1].dataset.value)"
    header = page.locator(".studies").first.get_by_role("button")
    header.filter(has_text="PSNR").click()
    assert page.evaluate(order) == ["a", "s n", "z"]
    header.filter(has_text="PSNR").click()
    assert page.evaluate(order) == ["s n", "a", "z"]
    header.filter(has_text="Study").click()
    assert page.evaluate(order) == ["a", "s n", "z"]
    page.locator("#filter").fill("Z")
    assert [row.is_visible() for row in page.locator(".studies tbody tr").all()] == [False, False, True, False]
    assert wrong == []
