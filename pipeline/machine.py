"""What the machine offers and what a stage has used of it."""

import platform
import re
import resource
import sys
from importlib import metadata

import torch

from data.errors import InputError

PACKAGES = ("torch", "numpy", "scipy", "astra-toolbox", "diffusers", "safetensors", "nibabel")


def choose_device(name: str) -> str:
    """The torch device for auto | cpu | cuda | cuda:N; InputError where CUDA is asked for and there is none."""
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise InputError(f"reconstruct.device: '{name}' is not known; choose auto, cpu, cuda or cuda:N.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name in ("auto", "cpu"):
        return "cuda" if name == "auto" and found else "cpu"
    if int(name.partition(":")[2] or 0) >= found:
        raise InputError(f"reconstruct.device: {name} asked for, but there is no such GPU; set device to auto or cpu.")
    return name


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's architecture and the number of threads in use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
