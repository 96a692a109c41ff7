"""Still pictures of a series: a montage for pages and documents, a thumbnail for lists."""

import io

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from data.volume import Volume, to_closest_ras
from pipeline.report_series import Image, ReportSeries

GROUND, TEXT, SOFT = "#0d1317", "#e4ebf0", "#a7b6c1"
ERROR_MAP = LinearSegmentedColormap.from_list("error", ["#0b0d10", "#8a4413", "#ec8a2b", "#ffdca8"])
STD_MAP = colormaps["inferno"]
SHARE_MAP = LinearSegmentedColormap.from_list("share", ["#05090b", "#0d2c33", "#1f7a74", "#8fd0b6", "#e6ffe9"])
FLAG_MAP = LinearSegmentedColormap.from_list("flag", ["#0a0508", "#7d1440", "#f0567a", "#ffe6e6"])
PLANES = ("axial", "coronal", "sagittal")
PERCENT = ("share", "flag")
COLUMN_INCHES = 2.5
MARGIN = {"left": 0.32, "right": 0.06, "top": 0.34, "bottom": 0.62, "gap": 0.05}


def plane_slice(volume: Volume, plane: str) -> np.ndarray:
    """The central slice of a closest-RAS volume, rows downwards: anterior or superior on top, the patient's right and,
    in sagittal slices, the front at the left."""
    array = volume.array_zyx
    z, y, x = (size // 2 for size in array.shape)
    if plane == "axial":
        return array[z, ::-1, ::-1]
    if plane == "coronal":
        return array[::-1, y, ::-1]
    return array[::-1, ::-1, x]


def oriented(array_zyx: np.ndarray, affine: np.ndarray) -> Volume:
    """The volume with its axes permuted and flipped to closest RAS."""
    return to_closest_ras(Volume.from_affine(array_zyx, affine))


def montage(
    series: ReportSeries, window: tuple[float, float], std_high: float, error_high: float, flag_high: float = 100.0
) -> bytes:
    """PNG: rows axial, coronal, sagittal through the middle; columns truth, baselines, reconstruction, maps, |error|.

    `window` bounds the images' grey scale, std_high and error_high end their colour bars, all in series.unit; flag_high
    is in percent.
    """
    columns = _columns(series)
    volumes = [oriented(array, series.affine) for _, array, _ in columns]
    planes = [plane for plane, size in zip(PLANES, volumes[0].shape) if min(volumes[0].shape) >= 4 or size < 4]
    extents = [_extent_mm(volumes[0], plane) for plane in planes]
    widest = max(width for width, _ in extents)
    heights = [COLUMN_INCHES * height / widest for _, height in extents]
    width = MARGIN["left"] + MARGIN["right"] + len(columns) * (COLUMN_INCHES + MARGIN["gap"])
    height = MARGIN["top"] + MARGIN["bottom"] + sum(heights) + MARGIN["gap"] * (len(planes) - 1)
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    FigureCanvasAgg(figure)
    styles = {
        "image": (colormaps["gray"], Normalize(*window)),
        "std": (STD_MAP, Normalize(0, std_high)),
        "share": (SHARE_MAP, Normalize(0, 100)),
        "flag": (FLAG_MAP, Normalize(0, flag_high)),
        "error": (ERROR_MAP, Normalize(0, error_high)),
    }
    for index, ((title, _, kind), volume) in enumerate(zip(columns, volumes)):
        left = MARGIN["left"] + index * (COLUMN_INCHES + MARGIN["gap"])
        _draw_column(figure, (left, height), title, volume, styles[kind], list(zip(planes, extents, heights)))
    _draw_bars(figure, [kind for _, _, kind in columns], styles, series.unit)
    return _png(figure)


def _columns(series: ReportSeries) -> list[tuple[str, np.ndarray, str]]:
    """(title, array (z y x), kind) from left to right."""
    shown = series.get(series.shown)
    images = ([series.truth] if series.truth else []) + series.by_role("baseline") + [shown]
    columns = [(image.label, image.array_zyx, "image") for image in images]
    if series.std:
        columns.append(("Uncertainty (std)", series.std.array_zyx, "std"))
    titles = {"share": "Detail from the prior", "flag": "Detail in doubt"}
    columns += [(titles[image.role], image.array_zyx, image.role) for image in series.by_role(*titles)]
    if series.truth:
        columns.append(("|Error|", np.abs(shown.array_zyx - series.truth.array_zyx), "error"))
    return columns


def _extent_mm(volume: Volume, plane: str) -> tuple[float, float]:
    """Width and height of a plane's picture in mm."""
    z, y, x = (size * edge for size, edge in zip(volume.shape, volume.spacing_mm))
    return {"axial": (x, y), "coronal": (x, z), "sagittal": (y, z)}[plane]


def _add_axes(figure: Figure, left: float, bottom: float, width: float, height: float):
    """Axes placed in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _draw_column(figure: Figure, corner: tuple[float, float], title: str, volume: Volume, style: tuple, rows) -> None:
    """corner: left and top in inches; style: colour map and norm; rows: (plane, (width, height) mm, inches high)."""
    left, top = corner[0], corner[1] - MARGIN["top"]
    widest = max(width for _, (width, _), _ in rows)
    for row, (plane, (width, _), height) in enumerate(rows):
        inches = COLUMN_INCHES * width / widest
        axes = _add_axes(figure, left + (COLUMN_INCHES - inches) / 2, top - height, inches, height)
        picture = plane_slice(volume, plane)
        axes.imshow(picture, cmap=style[0], norm=style[1], aspect="auto", interpolation="antialiased")
        axes.set_axis_off()
        if row == 0:
            axes.set_title(title, color=TEXT, fontsize=9, pad=5)
        if left == MARGIN["left"]:
            across, up = figure.get_size_inches()
            place = 0.13 / across, (top - height / 2) / up
            name = plane[:3] if height < 0.6 else plane
            figure.text(*place, name, color=SOFT, fontsize=7, rotation=90, va="center", ha="center")
        top -= height + MARGIN["gap"]


def _draw_bars(figure: Figure, kinds: list[str], styles: dict, unit: str) -> None:
    """One horizontal colour bar under the columns of each kind."""
    for kind in dict.fromkeys(kinds):
        places = [index for index, other in enumerate(kinds) if other == kind]
        first = MARGIN["left"] + places[0] * (COLUMN_INCHES + MARGIN["gap"])
        span = len(places) * (COLUMN_INCHES + MARGIN["gap"]) - MARGIN["gap"]
        length = min(span, 2 * COLUMN_INCHES) - 0.3
        axes = _add_axes(figure, first + (span - length) / 2, 0.4, length, 0.11)
        cmap, norm = styles[kind]
        bar = figure.colorbar(ScalarMappable(norm, cmap), cax=axes, orientation="horizontal")
        bar.set_ticks([norm.vmin, (norm.vmin + norm.vmax) / 2, norm.vmax])
        bar.ax.set_xticklabels(
            [f"{norm.vmin:g}", f"{(norm.vmin + norm.vmax) / 2:g}", f"{norm.vmax:g} {'%' if kind in PERCENT else unit}"]
        )
        bar.ax.tick_params(colors=SOFT, labelsize=8, length=2)
        bar.outline.set_edgecolor("#41535f")


def thumbnail(series: ReportSeries, window: tuple[float, float], std_high: float, side: int = 200) -> bytes:
    """PNG, `side` pixels high: the middle axial slice of the best baseline, the reconstruction and the uncertainty."""
    chosen = [image for image in (series.best_baseline, series.get(series.shown), series.std) if image]
    return _pillow_png(np.concatenate([_tile(series, image, window, std_high, side) for image in chosen], axis=1))


def _tile(series: ReportSeries, image: Image, window: tuple[float, float], std_high: float, side: int) -> np.ndarray:
    low, high = (0.0, std_high) if image.role == "std" else window
    volume = oriented(image.array_zyx, series.affine)
    thin = int(np.argmin(volume.shape)) if min(volume.shape) < 4 else 0
    scaled = np.clip((plane_slice(volume, PLANES[thin]) - low) / (high - low), 0, 1)
    coloured = (STD_MAP if image.role == "std" else colormaps["gray"])(scaled)[..., :3]
    width, height = _extent_mm(volume, PLANES[thin])
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


def as_jpeg(png: bytes, height: int | None = None, quality: int = 85) -> bytes:
    """The picture as JPEG, scaled to `height` pixels where that is less."""
    picture = PillowImage.open(io.BytesIO(png)).convert("RGB")
    if height and height < picture.height:
        size = round(picture.width * height / picture.height), height
        picture = picture.resize(size, PillowImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
