"""Why a series is not taken: a code for manifests, a sentence without paths or names, and whether it is damage.

Damage means that the series is of the kind asked for but cannot be trusted: the study stops there. Everything else is
left out with a row in the manifest.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """text: for manifests and reports. damage: whether a study with such a series is refused."""

    text: str
    damage: bool


REASONS = {
    "gap": Reason("the slices are not evenly spaced: one is missing or the spacing changes", True),
    "tilt": Reason("the slices are stacked at an angle to their normal: a tilted gantry", True),
    "mixed": Reason("two or more acquisitions share the series and cannot be told apart", True),
    "truncated": Reason("a file ends too early", True),
    "undecodable": Reason("a file cannot be decoded", True),
    "nan": Reason("there are values that are not finite", True),
    "constant": Reason("all values are the same", True),
    "shape": Reason("the shape of the array disagrees with its JSON file", True),
    "json": Reason("the JSON file beside the array is damaged or incomplete", True),
    "too-large": Reason("the volume is larger than this program reads", True),
    "slices": Reason("the slab asked for lies outside the volume", True),
    "non-image": Reason("DICOM objects without an image", False),
    "unsupported-class": Reason("DICOM images that are neither CT nor MR images", False),
    "other-modality": Reason("a modality that this cohort does not use", False),
    "localizer": Reason("a localizer", False),
    "too-few-slices": Reason("too few slices for a volume", False),
    "time-series": Reason("the same slices many times: a series in time or over diffusion directions", False),
    "not-magnitude": Reason("phase, real or imaginary images", False),
    "not-hu": Reason("values that are not Hounsfield units", False),
    "not-scalar": Reason("colour or complex values", False),
    "not-3d": Reason("an array that is not three-dimensional", False),
    "no-geometry": Reason("images without a position in the patient", False),
    "trajectory": Reason("readouts whose trajectory is missing or does not fit", True),
    "not-separable": Reason("3D k-space whose slices cannot be taken apart", False),
    "dimensions": Reason("k-space with more axes than one volume has", False),
    "no-samples": Reason("raw data without image acquisitions", False),
    "no-json": Reason("an array without the JSON file that explains it", False),
}
