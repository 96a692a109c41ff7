"""Still pictures of a series: a montage for pages and documents, a thumbnail for lists."""

import io

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from pipeline.report_series import Image, ReportSeries

GROUND, TEXT, SOFT = "#0d1317", "#e4ebf0", "#a7b6c1"
ERROR_MAP = LinearSegmentedColormap.from_list("error", ["#0b0d10", "#8a4413", "#ec8a2b", "#ffdca8"])
STD_MAP = colormaps["inferno"]
PLANES = ("axial", "coronal", "sagittal")
COLUMN_INCHES = 2.5
MARGIN = {"left": 0.32, "right": 0.06, "top": 0.34, "bottom": 0.62, "gap": 0.05}


def plane_slice(array_zyx: np.ndarray, plane: str) -> np.ndarray:
    """The central slice as an image with rows downwards: anterior or superior on top, the patient's right at the left.

    Assumes that x, y, z of the array run to the patient's right or left, front or back, as `oriented` leaves them.
    """
    z, y, x = (size // 2 for size in array_zyx.shape)
    if plane == "axial":
        return array_zyx[z, ::-1, ::-1]
    if plane == "coronal":
        return array_zyx[::-1, y, ::-1]
    return array_zyx[::-1, :, x][:, ::-1]


def oriented(array_zyx: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The array flipped so that x, y, z run towards right, anterior, superior; axes are not permuted."""
    signs = np.sign(np.diag(np.asarray(affine)[:3, :3]))[::-1]
    return array_zyx[tuple(slice(None, None, -1) if sign < 0 else slice(None) for sign in signs)]


def montage(series: ReportSeries, window: tuple[float, float], std_high: float, error_high: float) -> bytes:
    """PNG: rows axial, coronal, sagittal through the middle; columns truth, baselines, reconstruction, std, |error|.

    `window` bounds the images' grey scale, std_high and error_high end the other colour bars, all in series.unit.
    """
    columns = _columns(series)
    planes = PLANES if series.shape_zyx[0] >= 4 else PLANES[:1]
    extents = [_extent_mm(series, plane) for plane in planes]
    widest = max(width for width, _ in extents)
    heights = [COLUMN_INCHES * height / widest for _, height in extents]
    width = MARGIN["left"] + MARGIN["right"] + len(columns) * (COLUMN_INCHES + MARGIN["gap"])
    height = MARGIN["top"] + MARGIN["bottom"] + sum(heights) + MARGIN["gap"] * (len(planes) - 1)
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    FigureCanvasAgg(figure)
    styles = {
        "image": (colormaps["gray"], Normalize(*window)),
        "std": (STD_MAP, Normalize(0, std_high)),
        "error": (ERROR_MAP, Normalize(0, error_high)),
    }
    for index, (title, array, kind) in enumerate(columns):
        left = MARGIN["left"] + index * (COLUMN_INCHES + MARGIN["gap"])
        _draw_column(figure, (left, height), title, oriented(array, series.affine), styles[kind], planes, extents, heights)
    _draw_bars(figure, [kind for _, _, kind in columns], styles, series.unit)
    return _png(figure)


def _columns(series: ReportSeries) -> list[tuple[str, np.ndarray, str]]:
    """(title, array (z y x), kind) from left to right."""
    shown = series.get(series.shown)
    images = ([series.truth] if series.truth else []) + series.by_role("baseline") + [shown]
    columns = [(image.label, image.array_zyx, "image") for image in images]
    if series.std:
        columns.append(("Uncertainty (std)", series.std.array_zyx, "std"))
    if series.truth:
        columns.append(("|Error|", np.abs(shown.array_zyx - series.truth.array_zyx), "error"))
    return columns


def _extent_mm(series: ReportSeries, plane: str) -> tuple[float, float]:
    """Width and height of a plane's picture in mm."""
    z, y, x = (size * edge for size, edge in zip(series.shape_zyx, series.spacing_mm))
    return {"axial": (x, y), "coronal": (x, z), "sagittal": (y, z)}[plane]


def _draw_column(figure, corner, title, array, style, planes, extents, heights) -> None:
    left, total = corner
    width_inches, height_inches = figure.get_size_inches()
    top = total - MARGIN["top"]
    widest = max(width for width, _ in extents)
    for row, (plane, (width, _), height) in enumerate(zip(planes, extents, heights)):
        inches = COLUMN_INCHES * width / widest
        box = (left + (COLUMN_INCHES - inches) / 2, top - height, inches, height)
        axes = figure.add_axes(
            (box[0] / width_inches, box[1] / height_inches, box[2] / width_inches, box[3] / height_inches)
        )
        axes.imshow(plane_slice(array, plane), cmap=style[0], norm=style[1], aspect="auto", interpolation="antialiased")
        axes.set_axis_off()
        if row == 0:
            axes.set_title(title, color=TEXT, fontsize=9, pad=5)
        if left == MARGIN["left"]:
            y = (top - height / 2) / height_inches
            figure.text(0.13 / width_inches, y, plane[:3] if height < 0.6 else plane, color=SOFT, fontsize=7, rotation=90, va="center", ha="center")
        top -= height + MARGIN["gap"]


def _draw_bars(figure: Figure, kinds: list[str], styles: dict, unit: str) -> None:
    """One horizontal colour bar under the columns of each kind."""
    width_inches, height_inches = figure.get_size_inches()
    for kind in dict.fromkeys(kinds):
        places = [index for index, other in enumerate(kinds) if other == kind]
        first = MARGIN["left"] + places[0] * (COLUMN_INCHES + MARGIN["gap"])
        span = len(places) * (COLUMN_INCHES + MARGIN["gap"]) - MARGIN["gap"]
        length = min(span, 2 * COLUMN_INCHES) - 0.3
        box = (first + (span - length) / 2, 0.4, length, 0.11)
        axes = figure.add_axes(
            (box[0] / width_inches, box[1] / height_inches, box[2] / width_inches, box[3] / height_inches)
        )
        cmap, norm = styles[kind]
        bar = figure.colorbar(ScalarMappable(norm, cmap), cax=axes, orientation="horizontal")
        bar.set_ticks([norm.vmin, (norm.vmin + norm.vmax) / 2, norm.vmax])
        bar.ax.set_xticklabels([f"{norm.vmin:g}", f"{(norm.vmin + norm.vmax) / 2:g}", f"{norm.vmax:g} {unit}"])
        bar.ax.tick_params(colors=SOFT, labelsize=8, length=2)
        bar.outline.set_edgecolor("#41535f")


def thumbnail(series: ReportSeries, window: tuple[float, float], std_high: float, side: int = 200) -> bytes:
    """PNG, `side` pixels high: the middle axial slice of the best baseline, the reconstruction and the uncertainty."""
    chosen = [image for image in (series.best_baseline, series.get(series.shown), series.std) if image]
    return _pillow_png(np.concatenate([_tile(series, image, window, std_high, side) for image in chosen], axis=1))


def _tile(series: ReportSeries, image: Image, window: tuple[float, float], std_high: float, side: int) -> np.ndarray:
    low, high = (0.0, std_high) if image.role == "std" else window
    scaled = np.clip((plane_slice(oriented(image.array_zyx, series.affine), "axial") - low) / (high - low), 0, 1)
    coloured = (STD_MAP if image.role == "std" else colormaps["gray"])(scaled)[..., :3]
    width, height = _extent_mm(series, "axial")
    picture = PillowImage.fromarray((coloured * 255).astype(np.uint8))
    return np.asarray(picture.resize((max(1, round(side * width / height)), side), PillowImage.Resampling.LANCZOS))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor=GROUND, metadata={"Software": None})
    return _pillow_png(np.asarray(PillowImage.open(buffer).convert("RGB")))


def _pillow_png(array: np.ndarray) -> bytes:
    """A small PNG of RGB bytes (y x 3)."""
    buffer = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
