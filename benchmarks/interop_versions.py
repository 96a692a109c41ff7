"""Versions of the programs and packages that the tests compare with, as they tell them."""

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("dcm2niix", "pydicom", "highdicom", "nibabel", "SimpleITK", "ismrmrd", "h5py", "sigpy", "finufft",
            "astra-toolbox", "pynrrd", "tifffile", "hypothesis", "atheris", "playwright", "snakemake")  # fmt: skip
# Program, arguments, and how its answer holds the version.
PROGRAMS = {
    "dcm2niix": (["dcm2niix", "--version"], r"v(\d+\.\d+\.\d+)"),
    "BART": (["bart", "version"], r"v?(\d+\.\d+\.\d+)"),
    "dcmtk": (["dcmdump", "--version"], r"dcmtk: dcmdump v(\S+)"),
    "Orthanc": (["Orthanc", "--version"], r"Orthanc (\d[\d.]*)"),
    "Chromium": (["chromium", "--version"], r"Chromium (\d[\d.]*)"),
    "dicom3tools": (["dpkg-query", "-W", "-f", "${Version}", "dicom3tools"], r"(\S+)"),
}


def peers() -> dict[str, str]:
    """Version by name; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for name, (command, pattern) in PROGRAMS.items():
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        match = re.search(pattern, done.stdout + done.stderr)
        if match:
            found[name] = match.group(1)
    return found
