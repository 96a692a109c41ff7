"""Hostile study folders: links, devices, names, archives and code beside images."""

import os
import socket
from pathlib import Path

from tests.robustness.attacks_images import nifti
from tests.robustness.hostile import attack, zeros_deflated
from tests.robustness.stages import write_study


@attack("symbolic links out of the study folder", "no series")
def links_out(study: Path) -> None:
    write_study(study.parent / "secret")
    nifti(study.parent / "secret2")
    study.mkdir()
    (study / "folder").symlink_to(study.parent / "secret")
    (study / "volume.nii").symlink_to(study.parent / "secret2" / "volume.nii")
    for path in (study.parent / "secret").iterdir():
        (study / path.name).symlink_to(path)


@attack("symbolic links in a circle, to nothing and to devices", "taken")
def links_circle(study: Path) -> None:
    write_study(study)
    (study / "circle").symlink_to(study)
    (study / "self.nii").symlink_to(study / "self.nii")
    (study / "gone.dcm").symlink_to(study / "gone")
    (study / "zero.nii").symlink_to("/dev/zero")
    (study / "random.dcm").symlink_to("/dev/urandom")


@attack("pipes, sockets and devices in the study folder", "taken")
def pipes(study: Path) -> None:
    write_study(study)
    os.mkfifo(study / "pipe.nii.gz")
    os.mkfifo(study / "pipe.json")
    here = Path.cwd()
    os.chdir(study)
    try:
        socket.socket(socket.AF_UNIX).bind("socket.dcm")
    finally:
        os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(study / "zero.nrrd", 0o600 | 0o020000, os.makedev(1, 5))


@attack("empty files of 1 TB", "")
def sparse(study: Path) -> None:
    study.mkdir()
    for name in ("a.nii", "b.nii.gz", "c.dcm", "d.nrrd", "e.mha", "f.npy", "g.h5", "geometry.json", "h.cfl", "i.mat"):
        (study / name).touch()
        os.truncate(study / name, 2**40)


@attack("folders nested 500 deep and names of 255 bytes", "taken")
def deep_folders(study: Path) -> None:
    write_study(study)
    here = os.open(study, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    (study / ("n" * 251 + ".txt")).touch()


@attack("names of bytes that are no text, with new lines and shell commands", "taken")
def odd_names(study: Path) -> None:
    for number, path in enumerate(write_study(study)):
        name = [b"\xff\xfe$(touch trapped)", b"-rf", b"a\nb", b"`touch trapped`", b";touch trapped;", b"'\"", b"{0}%s"]
        path.rename(os.fsdecode(os.fsencode(study) + b"/" + name[number]))


@attack("zip, tar and 7z bombs beside a study's images", "taken")
def archives(study: Path) -> None:
    write_study(study)
    (study / "a.zip").write_bytes(b"PK\x03\x04" + zeros_deflated(2000))
    (study / "a.tar.gz").write_bytes(zeros_deflated(2000, gzipped=True))


@attack("YAML, profiles and Python beside a study's images", "taken")
def code(study: Path) -> None:
    write_study(study)
    call = "__import__('pathlib').Path('trapped').touch()"
    tag = "!!python/object/apply:os.system ['touch trapped']"
    for name in ("config.yaml", "profile.yaml", "config.v9+.yaml", "cohort.yml"):
        (study / name).write_text(f"__use_yte__: true\nx: ?{call}\ny: {tag}\n")
    for name in ("Snakefile", "sitecustomize.py", "numpy.py", "pydicom.py", "conftest.py"):
        (study / name).write_text(f"{call}\n")
