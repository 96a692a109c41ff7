"""Screenshots of the report for the documents: python -m benchmarks.report_pictures --results results

Opens the pages of the demo in headless Chromium, as docs/reading_the_page.md describes them, and writes
docs/images/page_*.png, each below 400 kB. Prints how long each page took to open. Needs Chromium and playwright
(requirements-dev.txt).
"""

import argparse
import io
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data.atomic import atomic_path
from data.errors import InputError

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MOST_BYTES = 400_000
# A busy machine may take minutes to unpack a page.
PATIENCE_MS = 300_000
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
COLOURS = (256, 192, 128, 96, 64)


@dataclass(frozen=True)
class Shot:
    """A picture: page by the start of its file's name (empty: the index), window size, and what to do before it."""

    name: str
    page: str
    size: tuple[int, int]
    prepare: Callable[[Any], None]


def press(*keys: str) -> Callable[[Any], None]:
    """An action that presses keys."""

    def act(page: Any) -> None:
        for key in keys:
            page.keyboard.press(key)

    return act


def crosshair(page: Any, across: float, down: float) -> None:
    """Click into the first panel's first slice, at shares of it."""
    box = page.locator(".panel canvas").first.bounding_box()
    script = (
        "() => { const p = sliceweave.app.panels()[0]; const t = p.tiles[0]; const q = p.places.get(t.plane.name); "
        "return [0, 1].map((i) => [q.start[i], q.pixel[i] * t.plane.size[i]]); }"
    )
    (left, width), (top, height) = page.evaluate(script)
    page.mouse.click(box["x"] + left + across * width, box["y"] + top + down * height)


def wiped(page: Any) -> None:
    press("2")(page)
    crosshair(page, 0.62, 0.55)
    page.locator("#overlay-map").select_option(label="Uncertainty")
    page.locator("#threshold").fill("35")


def sampled(page: Any) -> None:
    press("3", "n", "n")(page)
    crosshair(page, 0.33, 0.55)
    for _ in range(3):
        page.keyboard.press("+")


def section(name: str) -> Callable[[Any], None]:
    return lambda page: page.locator(f".sections a[href='#{name}']").click()


SHOTS = (
    Shot("side_by_side", "ct_sparse_view", (1366, 768), lambda page: crosshair(page, 0.33, 0.55)),
    Shot("wipe", "ct_sparse_view", (1366, 768), wiped),
    Shot("samples", "ct_sparse_view", (1366, 768), sampled),
    Shot("mr", "mr_accelerated", (1440, 900), press()),
    Shot("raw", "mr_raw", (1366, 768), press()),
    Shot("figures", "ct_sparse_view", (1366, 768), section("figures")),
    Shot("checks", "ct_sparse_view", (1366, 768), section("uncertainty")),
    Shot("keys", "mr_raw", (1366, 768), press("?")),
    Shot("index", "", (1366, 620), press()),
)


def page_of(results: Path, start: str) -> Path:
    """The first report whose name starts so, or the index. Raises InputError where there is none."""
    found = sorted((results / "reports").glob(f"{start}_*.html")) if start else [results / "index.html"]
    if not found or not found[0].is_file():
        raise InputError(f"{results}: no page of {start or 'the index'} there; run the demo first.")
    return found[0]


def take(browser: Any, shot: Shot, path: Path) -> bytes:
    """PNG of a page's window after the shot's preparation; reports how long the page took to be ready."""
    page = browser.new_page(viewport={"width": shot.size[0], "height": shot.size[1]})
    page.set_default_timeout(PATIENCE_MS)
    start = time.perf_counter()
    page.goto(path.resolve().as_uri())
    if shot.page:
        page.wait_for_selector("html[data-status=ready]", state="attached")
        megabytes = path.stat().st_size / 1e6
        print(f"{path.name} ({megabytes:.1f} MB) was ready after {time.perf_counter() - start:.2f} s")
        page.wait_for_selector("html[data-unpacked=all]", state="attached")
    shot.prepare(page)
    page.wait_for_timeout(500)
    picture = page.screenshot()
    page.close()
    return picture


def compressed(png: bytes) -> bytes:
    """The picture below MOST_BYTES, with as many colours as that allows."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        buffer = io.BytesIO()
        palette = picture.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=3)
        reduced = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        reduced.save(buffer, format="PNG", optimize=True)
        if buffer.tell() < MOST_BYTES:
            break
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_pictures", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder of the demo")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder for page_*.png")
    arguments = parser.parse_args(argv)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        if chromium is None:
            raise InputError("Chromium is not installed: install it, e.g. apt-get install chromium.")
        try:
            from playwright.sync_api import sync_playwright
        except ImportError as error:
            raise InputError("playwright is not installed: pip install -r requirements-dev.txt.") from error
        pages = {shot.name: page_of(arguments.results, shot.page) for shot in SHOTS}
        arguments.out.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
            for shot in SHOTS:
                with atomic_path(arguments.out / f"page_{shot.name}.png") as temporary:
                    temporary.write_bytes(compressed(take(browser, shot, pages[shot.name])))
            browser.close()
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
