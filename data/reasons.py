"""Why a series is not taken: a code for manifests, a sentence without paths or names, and whether it is damage.

Damage means that the series is of the kind asked for but cannot be trusted: the study stops there. Everything else is
left out with a row in the manifest.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """text: for manifests and reports. damage: whether a study with such a series is refused. advice: what to do."""

    text: str
    damage: bool
    advice: str = "repair or remove it"


REASONS = {
    "gap": Reason(
        "the slices are not evenly spaced, as one is missing or the spacing changes", True,
        "copy the missing files, remove the series, or set ingest.on_gap to split or interpolate",
    ),
    "tilt": Reason(
        "the slices are stacked at an angle to their normal, as with a tilted gantry", True,
        "remove it, or set ingest.on_tilt to resample",
    ),
    "repeat": Reason(
        "there are slices at the same place", True, "keep one of them, or set ingest.on_repeat to split"
    ),
    "scattered": Reason("the slices do not lie above one another", True),
    "mixed": Reason("two or more acquisitions share the series and cannot be told apart", True),
    "geometry": Reason("positions, orientation or spacing make no sense", True),
    "truncated": Reason("a file ends too early", True),
    "undecodable": Reason("a file cannot be decoded", True),
    "unreadable": Reason("a file cannot be opened", True),
    "compression": Reason("a file is compressed in a way that is not read here", True),
    "nan": Reason("there are values that are not finite", True),
    "constant": Reason("all values are the same", True),
    "shape": Reason("the shape of the array disagrees with its JSON file", True),
    "json": Reason("the JSON file beside the array is damaged or incomplete", True),
    "too-large": Reason("the volume is larger than is read here", True, "cut it up or raise ingest.max_volume_gb"),
    "slices": Reason("the slab asked for lies outside the volume", True),
    "outside": Reason("its data lie outside the study folder", True, "put header and data into one folder"),
    "changed": Reason("a file changed while the study was read", True),
    "non-image": Reason("DICOM objects without an image", False),
    "secondary-capture": Reason("secondary captures, which are pictures of a screen or a document", False),
    "unsupported-class": Reason("DICOM images that are neither CT nor MR images", False),
    "other-modality": Reason("a modality that this cohort does not use", False),
    "localizer": Reason("a localizer", False),
    "mosaic": Reason("mosaics, which hold all slices of a volume in one picture", False),
    "too-few-slices": Reason("too few slices for a volume", False),
    "time-series": Reason("the same slices many times: a series in time or over diffusion directions", False),
    "not-magnitude": Reason("phase, real or imaginary images", False),
    "derived-map": Reason("maps or projections computed from images", False),
    "not-hu": Reason("values that are not Hounsfield units", False),
    "lookup-table": Reason("values that need a look-up table", False),
    "colour": Reason("colour images", False),
    "not-scalar": Reason("colour or complex values", False),
    "not-3d": Reason("an array that is not three-dimensional", False),
    "no-geometry": Reason("images without a position in the patient", False),
    "trajectory": Reason("readouts whose trajectory is missing or does not fit", True),
    "not-separable": Reason("3D k-space whose slices cannot be taken apart", False),
    "dimensions": Reason("k-space with more axes than one volume has", False),
    "no-samples": Reason("raw data without image acquisitions", False),
    "no-json": Reason("an array without the JSON file that explains it", False),
}
