"""What a sampler carries from one noise level to the next, and its checkpoint file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True, eq=False)
class State:
    """A sampler after `level` levels.

    level          number of levels done (0: none)
    x              (z y x) iterate at the next noise level
    estimate       (z y x) current reconstruction
    extra          further tensors the solver needs to go on (split variables, multipliers)
    network_calls  denoiser evaluations so far, one per volume sweep
    """

    level: int
    x: Tensor
    estimate: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    network_calls: int = 0

    def save(self, path: Path | str, key: str = "") -> None:
        """Write a safetensors checkpoint beside `path` and rename it, so that `path` is whole or absent.

        `key` names the run (settings, seed); `load` refuses a file written under another one.
        """
        path = Path(path)
        tensors, complex_names = {}, []
        for name, tensor in {"x": self.x, "estimate": self.estimate, **_prefixed(self.extra)}.items():
            if tensor.is_complex():
                complex_names.append(name)
                tensor = torch.view_as_real(tensor)
            tensors[name] = tensor.detach().cpu().contiguous().clone()
        header = {"level": self.level, "network_calls": self.network_calls, "complex": complex_names, "key": key}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            save_file(tensors, temporary, metadata={"state": json.dumps(header)})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str, key: str | None = None, device: torch.device | str = "cpu") -> State:
        """Read a checkpoint. Raises ValueError when the file is damaged or belongs to another run (`key`)."""
        try:
            with safe_open(str(path), framework="pt", device=str(device)) as file:
                header = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            for name in header["complex"]:
                tensors[name] = torch.view_as_complex(tensors[name].contiguous())
            state = cls(
                level=int(header["level"]),
                x=tensors.pop("x"),
                estimate=tensors.pop("estimate"),
                extra={name.removeprefix("extra."): tensor for name, tensor in tensors.items()},
                network_calls=int(header["network_calls"]),
            )
        except (SafetensorError, KeyError, json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path}: not a readable checkpoint ({error})") from error
        if key is not None and header.get("key") != key:
            raise ValueError(f"{path}: checkpoint of a run with other settings")
        return state


def _prefixed(extra: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"extra.{name}": tensor for name, tensor in extra.items()}
