"""A real Orthanc on free ports of this machine, with a storage folder of its own, for as long as a test needs it."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 30


@dataclass(frozen=True)
class Orthanc:
    """http, dicom: ports. move: port on which C-MOVE sends back to the title MOVESCU."""

    http: int
    dicom: int
    move: int

    def get(self, path: str, accept: str = "application/json") -> bytes:
        url = f"http://127.0.0.1:{self.http}{path}"
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.read()

    def json(self, path: str):
        return json.loads(self.get(path, "application/dicom+json" if "dicom-web" in path else "application/json"))

    def scu(self, program: str, *arguments: str) -> str:
        """Run one of dcmtk's clients against it; its words."""
        command = [program, "-aec", "ORTHANC", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def address(self) -> tuple[str, str]:
        return "127.0.0.1", str(self.dicom)


def program() -> str | None:
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")


@contextmanager
def running(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc with its storage in FOLDER; gone when the block ends. RuntimeError when it does not start."""
    server = Orthanc(*_free_ports(3))
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": server.http,
        "DicomPort": server.dicom,
        "DicomAet": "ORTHANC",
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "DicomModalities": {"back": ["MOVESCU", "127.0.0.1", server.move]},
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomAlwaysAllowFind": True,
        "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
    }
    (folder / "storage").mkdir(parents=True)
    (folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program(), str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        _wait(server, process, folder / "orthanc.log")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(server: Orthanc, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            server.get("/system")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"Orthanc did not start: {log.read_text(errors='replace')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
