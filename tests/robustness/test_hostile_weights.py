"""Priors that are not what they say: pickles, wrong checksums, headers that claim too much, networks without end."""

import hashlib
import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest

from models.prior import CARD, WEIGHTS
from tests.robustness.hostile import Trap

MEMORY_MB, CPU_S = 3000, 60


def _card(folder: Path, **changes) -> None:
    """Change the card; its checksum then fits the weights again unless it is one of the changes."""
    card = json.loads((folder / CARD).read_text())
    card["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / CARD).write_text(json.dumps(card | changes))


def _weights(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    _card(folder)


def _config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    for name in ("diffusion_pytorch_model.bin", "model.pt", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap()))


def offsets(folder: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    _weights(folder, struct.pack("<Q", len(header)) + header + bytes(64))


def deep_card(folder: Path) -> None:
    (folder / CARD).write_text('{"sha256":' + "[" * 100_000)


ATTACKS = {
    "pickled weights and no others": pickled,
    "a pickle called safetensors": lambda folder: _weights(folder, pickle.dumps(Trap())),
    "a wrong checksum": lambda folder: _card(folder, sha256="0" * 64),
    "a header that claims 2^60 bytes": lambda folder: _weights(folder, struct.pack("<Q", 2**60) + bytes(64)),
    "tensors beyond the end of the file": offsets,
    "no bytes": lambda folder: _weights(folder, b""),
    "a card nested 100,000 deep": deep_card,
    "a card that is a list": lambda folder: (folder / CARD).write_text("[]"),
    "a card of NaN": lambda folder: _card(folder, sigma_data=float("nan"), pixel_mm=[float("nan")] * 2),
    "training pixels of words": lambda folder: _card(folder, usable_pixel_mm=[0.1, 20], pixel_mm="ab"),
    "a card of words": lambda folder: _card(folder, sigma_data="x", pixel_mm="y", r2_scale=7),
    "a card without its keys": lambda folder: (folder / CARD).write_text(
        json.dumps({"sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()})
    ),
    "a network of a billion channels": lambda folder: _config(folder, widths=[10**9, 10**9]),
    "a network that names code": lambda folder: _config(
        folder, _class_name="os.system", auto_map={"AutoModel": "trapped.Trap"}, _target_="os.system"
    ),
    "a network that is no JSON": lambda folder: (folder / "config.json").write_text("{" * 100_000),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.hostile(f"prior with {name}")) for name in ATTACKS]
)
def test_prior(runner, tree, priors, tmp_path, record_property, name):
    prior = tmp_path / "prior"
    shutil.copytree(priors["ct"], prior)
    ATTACKS[name](prior)
    out = tree.trial("reconstruct")
    fault = {"memory_mb": MEMORY_MB, "cpu_s": CPU_S, "folder": str(tmp_path)}
    request = tree.stages["reconstruct"].request(out, **fault)
    request.argv[:] = [word.replace(priors["ct"], str(prior)) for word in request.argv]
    done = runner(request)
    assert "Traceback" not in done["err"], done["err"]
    assert not list(tmp_path.rglob("trapped"))
    if name != "a network that names code":
        assert done["rc"] == 1
        assert str(prior) in done["err"].strip().splitlines()[-1] or "prior" in done["err"]
        assert not out.exists()
    record_property("measured", f"{'refused' if done['rc'] else 'inert'} in {done['seconds']:.1f} s")
