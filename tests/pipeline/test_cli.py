"""One sentence for what the user can mend, a traceback for bugs."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import InputError
from pipeline.cli import json_object, main_wrapper, user_sentence


class PriorError(ValueError):
    """Stands for models.prior.PriorError, which is recognised by its name."""


class OutOfMemoryError(RuntimeError):
    """Stands for torch's."""


class SafetensorError(Exception):
    """Stands for safetensors', which tells the system's error in words."""


class Told(Exception):
    user_message = "told so"


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (InputError("a.dcm is\n  wrong: mend it."), "a.dcm is wrong: mend it."),
        (PriorError("the prior is for MR."), "the prior is for MR."),
        (Told("no"), "told so"),
        (OSError(errno.ENOSPC, "No space left", "/data/out"), "disk is full while writing /data/out"),
        (OSError(errno.EDQUOT, "Quota"), "disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError("Can't write data (file write failed: errno = 28, error message = 'No space')"), "disk is full"),
        (OSError(errno.EFBIG, "File too large", "/data/out"), "/data/out may not grow"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/out"), "/data/out may not be written"),
        (OSError(errno.EROFS, "Read-only", "/data/out"), "read-only"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/in"), "/data/in is not there"),
        (
            SafetensorError('Error while serializing: I/O error: No such file (os error 2) at path "/data/.tmp1"'),
            "/data/.tmp1 is not there, or has gone while this ran",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "too long for this disk"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (MemoryError(), "fewer views"),
        (OutOfMemoryError("CUDA"), "Not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "Not enough memory"),
    ],
)
def test_what_the_user_can_mend_is_one_line(capsys, error, part):
    @main_wrapper
    def main(argv=None):
        raise error

    assert main([]) == 1
    captured = capsys.readouterr()
    assert part in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


BUGS = [ValueError("x"), RuntimeError("x"), OSError(errno.EIO, "x"), OSError("x"), KeyError("x")]


@pytest.mark.parametrize("error", BUGS)
def test_bugs_keep_their_traceback(error):
    @main_wrapper
    def main(argv=None):
        raise error

    assert user_sentence(error) is None
    with pytest.raises(type(error)):
        main([])


def test_status_is_passed_on():
    assert main_wrapper(lambda argv=None: 0)([]) == 0
    assert main_wrapper(lambda argv=None: 3)([]) == 3


@pytest.mark.parametrize("text", ["{", "[1]", "1", ""])
def test_settings_that_are_no_object(text):
    with pytest.raises(InputError, match="--settings"):
        json_object(text)


def test_sigterm_removes_what_is_half_written(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pipeline.cli import main_wrapper\n"
        "from data.atomic import atomic_directory\n"
        "@main_wrapper\n"
        "def main(argv=None):\n"
        "    with atomic_directory(sys.argv[1]) as folder:\n"
        "        (folder / 'half').write_text('1')\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "out"], env=environment, capture_output=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
