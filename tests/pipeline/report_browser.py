"""What the tests of the page in a browser do again and again."""

import io

import numpy as np
from PIL import Image

CROSS = "sliceweave.state.cross"


def settle(page) -> None:
    """Wait until what was asked for is drawn."""
    frames = "requestAnimationFrame(() => requestAnimationFrame(done))"
    page.evaluate(f"() => new Promise((done) => setTimeout(() => {frames}, 30))")


def pixels(page, panel: int) -> np.ndarray:
    """(rows columns rgb) of a panel's canvas on the screen."""
    shot = page.locator(".panel canvas").nth(panel).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two pictures of one size."""
    return float(np.abs(after - before).mean())


def choose(page, group: str, text: str) -> None:
    """Press one button of a row."""
    page.locator(f"{group} label", has_text=text).first.click()
    settle(page)


def tiles(page, panel: int = 0) -> dict[str, dict]:
    """By plane's name: where a tile's slice starts and the size of its voxels in CSS pixels of the canvas, and more."""
    script = (
        "(n) => { const p = sliceweave.app.panels()[n]; return Object.fromEntries(p.tiles.map((t) => [t.plane.name, "
        "{...p.places.get(t.plane.name), size: t.plane.size, mm: t.plane.mm, letters: t.plane.letters}])); }"
    )
    return page.evaluate(script, panel)


def on_tile(page, panel: int, plane: str, across: float, down: float) -> tuple[float, float]:
    """A point of the page, at shares of a tile's slice."""
    canvas = page.locator(".panel canvas").nth(panel).bounding_box()
    tile = tiles(page, panel)[plane]
    return tuple(
        canvas[edge] + tile["start"][i] + share * tile["size"][i] * tile["pixel"][i]
        for i, (edge, share) in enumerate((("x", across), ("y", down)))
    )


def drag(page, start: tuple[float, float], end: tuple[float, float], button: str = "left", key: str = "") -> None:
    if key:
        page.keyboard.down(key)
    page.mouse.move(*start)
    page.mouse.down(button=button)
    page.mouse.move(*end, steps=4)
    page.mouse.up(button=button)
    if key:
        page.keyboard.up(key)
    settle(page)


def read_values(page) -> dict[str, str]:
    """The read-out's names and values."""
    rows = "[...document.querySelectorAll('#values div')]"
    return dict(page.evaluate(f"{rows}.map((row) => [...row.children].map((cell) => cell.textContent))"))


def number(text: str) -> float:
    """A value of the read-out without its unit."""
    return float(text.replace("−", "-").replace(",", "").replace("±", "").split()[0])
