"""Raw MR files written by independent code: ismrmrd-python for ISMRMRD and headers, h5py for the fastMRI form."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest

ismrmrd = pytest.importorskip("ismrmrd", reason="ismrmrd-python is not installed")
xsd = ismrmrd.xsd


@dataclass(frozen=True)
class Scan:
    """What the header says. matrix and field_mm (x y z) of the encoded space; recon_* as asked for (None: the same)."""

    matrix: tuple[int, int, int]
    field_mm: tuple[float, float, float]
    recon_matrix: tuple[int, int, int] | None = None
    recon_mm: tuple[float, float, float] | None = None
    trajectory: str = "cartesian"
    centre: tuple[int, int] | None = None
    bandwidth: float | None = None
    axes: tuple = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    position: tuple = (0.0, 0.0, 0.0)
    distance_mm: float = 5.0
    counters: dict = field(default_factory=dict)


def header_xml(scan: Scan) -> bytes:
    def space(matrix, field_mm):
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(**dict(zip("xyz", matrix))),
            fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", field_mm))),
        )

    def limit(size, centre):
        return xsd.limitType(minimum=0, maximum=size - 1, center=centre)

    centre = scan.centre or (scan.matrix[1] // 2, scan.matrix[2] // 2)
    limits = xsd.encodingLimitsType(
        kspace_encoding_step_1=limit(scan.matrix[1], centre[0]),
        kspace_encoding_step_2=limit(scan.matrix[2], centre[1]),
    )
    encoding = xsd.encodingType(
        encodedSpace=space(scan.matrix, scan.field_mm),
        reconSpace=space(scan.recon_matrix or scan.matrix, scan.recon_mm or scan.field_mm),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType(scan.trajectory),
    )
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63500000), encoding=[encoding]
    )
    header.subjectInformation = xsd.subjectInformationType(patientName="PLANTED^NAME", patientID="PLANTED-ID")
    if scan.bandwidth is not None:
        system = xsd.acquisitionSystemInformationType(relativeReceiverNoiseBandwidth=scan.bandwidth)
        header.acquisitionSystemInformation = system
    return xsd.ToXML(header).encode()


class Writer:
    """An ISMRMRD file that is written line by line with ismrmrd-python."""

    def __init__(self, path: Path, scan: Scan) -> None:
        self.scan, self.dataset = scan, ismrmrd.Dataset(str(path), mode="w")
        self.dataset.write_xml_header(header_xml(scan))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dataset.close()

    def line(self, data: np.ndarray, flags=(), traj=None, *, discard=(0, 0), centre=None, dwell_us=5.0, **counters):
        """data (coils samples); counters such as slice=1, kspace_encode_step_1=4."""
        acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64), traj)
        head = acquisition.getHead()
        head.discard_pre, head.discard_post = discard
        head.center_sample = data.shape[1] // 2 if centre is None else centre
        head.sample_time_us = dwell_us
        read, phase, across = (np.array(axis, float) for axis in self.scan.axes)
        head.read_dir[:], head.phase_dir[:], head.slice_dir[:] = read, phase, across
        place = np.array(self.scan.position) + across * self.scan.distance_mm * counters.get("slice", 0)
        head.position[:] = place
        for name, value in (self.scan.counters | counters).items():
            setattr(head.idx, name, value)
        acquisition.setHead(head)
        acquisition.data[:] = data
        if traj is not None:
            acquisition.traj[:] = traj
        for flag in flags:
            acquisition.set_flag(flag)
        self.dataset.append_acquisition(acquisition)


def write_cartesian(path: Path, kspace: np.ndarray, scan: Scan, mask: np.ndarray | None = None) -> Path:
    """Whole readouts of (z coils y x) at the true places of mask (y); zero frequency at n // 2."""
    with Writer(path, scan) as writer:
        for z, planes in enumerate(kspace):
            for y in range(planes.shape[1]):
                if mask is None or mask[y]:
                    writer.line(planes[:, y], slice=z, kspace_encode_step_1=y)
    return path


def write_fastmri(path: Path, kspace: np.ndarray, scan: Scan, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as handle:
        handle["kspace"] = kspace
        handle["ismrmrd_header"] = header_xml(scan)
        for name, values in datasets.items():
            handle[name] = values
        handle.attrs["patient_id"] = "PLANTED-ID"
    return path
