"""A volume with its place in the patient."""

from dataclasses import dataclass, field, replace

import nibabel
import numpy as np

# The one place where DICOM's axes (x to the left, y to the back) become RAS; NRRD and MetaImage use it too.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DIRECTIONS = ("sagittal", "coronal", "axial")

@dataclass(frozen=True)
class Volume:
    """array_zyx: (z y x). affine: 4x4, voxel index (x y z) to RAS mm. spacing_mm: (z y x). meta: plain JSON values."""

    array_zyx: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    meta: dict = field(default_factory=dict)

    @classmethod
    def from_affine(cls, array_zyx: np.ndarray, affine: np.ndarray, meta: dict | None = None) -> "Volume":
        """Make a volume whose spacing is that of its affine."""
        affine = np.asarray(affine, float)
        return cls(array_zyx, affine, spacing_of(affine), dict(meta or {}))

    @property
    def shape(self) -> tuple[int, ...]:
        """(z y x)."""
        return self.array_zyx.shape


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edge lengths in mm, (z y x)."""
    dx, dy, dz = np.sqrt((np.asarray(affine, float)[:3, :3] ** 2).sum(0))
    return float(dz), float(dy), float(dx)


def slab(volume: Volume, first: int, last: int) -> Volume:
    """Keep slices first <= z < last; every kept voxel stays where it was in the patient."""
    if not 0 <= first < last <= volume.shape[0]:
        raise ValueError(f"slices {first}:{last} are not within 0:{volume.shape[0]}")
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    return replace(volume, array_zyx=np.ascontiguousarray(volume.array_zyx[first:last]), affine=affine)


def to_closest_ras(volume: Volume) -> Volume:
    """Permute and flip axes so that x, y, z run closest to right, anterior, superior. No resampling."""
    image = nibabel.Nifti1Image(volume.array_zyx.transpose(2, 1, 0), volume.affine)
    turned = nibabel.as_closest_canonical(image)
    array = np.ascontiguousarray(np.asarray(turned.dataobj).transpose(2, 1, 0))
    return replace(volume, array_zyx=array, affine=turned.affine, spacing_mm=spacing_of(turned.affine))


def slice_direction(affine: np.ndarray) -> tuple[str, float]:
    """(which of DIRECTIONS the third voxel axis stacks slices in, degrees by which their normal misses it)."""
    axes = np.asarray(affine, float)[:3, :3]
    along = int(nibabel.orientations.io_orientation(affine)[2, 0])
    normal = np.cross(axes[:, 0], axes[:, 1])
    cosine = abs(normal[along]) / np.linalg.norm(normal)
    return DIRECTIONS[along], float(np.degrees(np.arccos(min(cosine, 1.0))))


def sliced(volume: Volume, direction: str) -> Volume:
    """Permute and flip axes so that slices are axial, coronal or sagittal, or closest to it. No resampling.

    Within a slice, x and y run closest to right and anterior (axial), right and superior (coronal), anterior and
    superior (sagittal); slices run closest to superior, anterior, right.
    """
    along = DIRECTIONS.index(direction)
    wanted = [axis for axis in range(3) if axis != along] + [along]
    codes = nibabel.orientations.io_orientation(volume.affine)
    turn = np.array([[wanted.index(int(axis)), sign] for axis, sign in codes])
    array = nibabel.orientations.apply_orientation(volume.array_zyx.transpose(2, 1, 0), turn).transpose(2, 1, 0)
    affine = volume.affine @ nibabel.orientations.inv_ornt_aff(turn, volume.shape[::-1])
    return replace(volume, array_zyx=np.ascontiguousarray(array), affine=affine, spacing_mm=spacing_of(affine))
