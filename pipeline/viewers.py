"""Small files in EXPORT/viewers that open an export in desktop viewers: relative paths, no viewer needed to write them.

    README.txt            what to type for each viewer
    slicer_scene.mrml     3D Slicer: File > Add Data, or on the command line
    open_in_slicer.py     the same by Slicer --python-script, with linked views and the uncertainty on top
    itksnap.sh, fsleyes.sh, mricrogl.py
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

FOLDER = "viewers"
LOW_SHARE_SHOWN = 0.2
OPACITY = 0.5


@dataclass(frozen=True)
class Layer:
    """One volume to show. path: from EXPORT, with forward slashes. window: (low, high) in its units. role: recon, std,
    or other."""

    path: str
    name: str
    window: tuple[float, float]
    role: str


def write_viewers(export: Path, layers: list[Layer], research_only: str) -> None:
    """Write the files for the first reconstruction (or, without one, the first volume) with its spread on top."""
    ordered = sorted(layers, key=lambda layer: {"recon": 0, "std": 1}.get(layer.role, 2))
    base = ordered[0]
    spread = next((layer for layer in ordered if layer.role == "std"), None)
    others = [layer for layer in ordered if layer not in (base, spread)]
    folder = export / FOLDER
    folder.mkdir()
    _write(folder / "slicer_scene.mrml", slicer_scene(base, spread, others))
    _write(folder / "open_in_slicer.py", slicer_script(base, spread, others))
    _write(folder / "fsleyes.sh", fsleyes(base, spread, others), executable=True)
    _write(folder / "itksnap.sh", itksnap(base, spread, others), executable=True)
    _write(folder / "mricrogl.py", mricrogl(base, spread))
    _write(folder / "README.txt", readme(base, spread, research_only))


def slicer_scene(base: Layer, spread: Layer | None, others: list[Layer]) -> str:
    """An MRML scene: every volume with its window, the base in the background and the spread in the foreground."""
    layers = [base, *([spread] if spread else []), *others]
    nodes = [node for number, layer in enumerate(layers, 1) for node in _mrml_volume(number, layer)]
    foreground = ("vtkMRMLScalarVolumeNode2", OPACITY) if spread else ("", 0.0)
    for view in ("Red", "Yellow", "Green"):
        composite = {
            "id": f"vtkMRMLSliceCompositeNode{view}",
            "name": f"SliceComposite_{view}",
            "singletonTag": view,
            "layoutName": view,
            "backgroundVolumeID": "vtkMRMLScalarVolumeNode1",
            "foregroundVolumeID": foreground[0],
            "foregroundOpacity": f"{foreground[1]:g}",
            "linkedControl": "1",
        }
        nodes.append(_node("SliceComposite", composite))
    body = "\n".join(f"  {node}" for node in nodes)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<MRML version="Slicer4.4.0" userTags="">\n{body}\n</MRML>\n'


def slicer_script(base: Layer, spread: Layer | None, others: list[Layer]) -> str:
    """A script for Slicer's Python: loads the volumes, sets windows, puts the spread on top, shows three planes."""
    rows = [(layer.path, layer.name, *_rounded(layer.window), layer.role) for layer in (base, spread, *others) if layer]
    listed = "\n".join(f"    {row!r}," for row in rows)
    return f'''"""Run as: Slicer --python-script open_in_slicer.py"""

from pathlib import Path

import slicer

EXPORT = Path(__file__).resolve().parent.parent
# file, name, lowest and highest value shown, role
VOLUMES = [
{listed}
]

nodes = {{}}
for path, name, low, high, role in VOLUMES:
    node = slicer.util.loadVolume(str(EXPORT / path), {{"name": name, "show": False}})
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(low, high)
    if role == "std":
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileInferno.txt")
        display.ApplyThresholdOn()
        display.SetThreshold(low, float(node.GetImageData().GetScalarRange()[1]))
    nodes.setdefault(role, node)

slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
slicer.util.setSliceViewerLayers(
    background=next(iter(nodes.values())),
    foreground=nodes.get("std"),
    foregroundOpacity={OPACITY},
    linkedControl=True,
    fit=True,
)
'''


def fsleyes(base: Layer, spread: Layer | None, others: list[Layer]) -> str:
    """FSLeyes: overlays from bottom to top; the others are loaded and switched off."""
    arguments = []
    for layer in (*others, base):
        hidden = [] if layer is base else ["-d"]
        arguments.append([layer.path, "-n", layer.name, "-dr", *_numbers(layer.window), *hidden])
    if spread:
        shown = _numbers(spread.window)
        arguments.append([spread.path, "-n", spread.name, "-cm", "hot", "-dr", *shown, "-a", str(round(100 * OPACITY))])
    return _shell("fsleyes --scene ortho", arguments)


def itksnap(base: Layer, spread: Layer | None, others: list[Layer]) -> str:
    """ITK-SNAP: the base with the other volumes as additional layers."""
    overlays = [layer for layer in (spread, *others) if layer]
    arguments = [["-g", base.path], *([["-o", *(layer.path for layer in overlays)]] if overlays else [])]
    return _shell("itksnap", arguments)


def mricrogl(base: Layer, spread: Layer | None) -> str:
    """A script for MRIcroGL: MRIcroGL mricrogl.py, or Scripting > Open."""
    low, high = _rounded(base.window)
    lines = [
        '"""Run as: MRIcroGL mricrogl.py"""',
        "",
        "import os",
        "",
        "import gl",
        "",
        "# Some versions do not say where the script lies: start MRIcroGL in the folder above it then.",
        'here = globals().get("__file__")',
        "export = os.path.dirname(os.path.dirname(os.path.abspath(here))) if here else os.getcwd()",
        "gl.resetdefaults()",
        f"gl.loadimage(os.path.join(export, *{base.path.split('/')!r}))",
        f"gl.minmax(0, {low}, {high})",
    ]
    if spread:
        low, high = _rounded(spread.window)
        lines += [
            f"gl.overlayload(os.path.join(export, *{spread.path.split('/')!r}))",
            f"gl.minmax(1, {low}, {high})",
            'gl.colorname(1, "4hot")',
            f"gl.opacity(1, {round(100 * OPACITY)})",
        ]
    return "\n".join([*lines, "gl.view(64)", ""])


def readme(base: Layer, spread: Layer | None, research_only: str) -> str:
    """What to type for each viewer, for shells without sh too."""
    low, high = _numbers(base.window)
    on_top = f" {spread.path} -cm hot -dr {' '.join(_numbers(spread.window))} -a 50" if spread else ""
    overlay = f" -o {spread.path}" if spread else ""
    return f"""{research_only}.

Open the volumes of this export; type the commands in the folder above this one.

3D Slicer   Slicer --python-script viewers/open_in_slicer.py
            or File > Add Data > viewers/slicer_scene.mrml
ITK-SNAP    sh viewers/itksnap.sh
            or itksnap -g {base.path}{overlay}
FSLeyes     sh viewers/fsleyes.sh
            or fsleyes {base.path} -dr {low} {high}{on_top}
MRIcroGL    MRIcroGL viewers/mricrogl.py
OHIF        send the folder dicom/ to Orthanc: storescu -R -aec ORTHANC localhost 4242 +sd +r dicom

The standard deviation lies on top of the reconstruction, half opaque. A large value means that the picture there is a
guess; a small one does not prove that the picture is right.
"""


def shown_range(role: str, centre_width: tuple[float, float], top: float) -> tuple[float, float]:
    """(low, high) to show: of the window, or for a spread from a fifth of its top."""
    if role == "std":
        return (LOW_SHARE_SHOWN * top, max(top, 1e-6))
    centre, width = centre_width
    return (centre - width / 2, centre + width / 2)


def _mrml_volume(number: int, layer: Layer) -> list[str]:
    low, high = _rounded(layer.window)
    hot = layer.role == "std"
    colour = "vtkMRMLColorTableNodeFileInferno.txt" if hot else "vtkMRMLColorTableNodeGrey"
    storage, display = f"vtkMRMLVolumeArchetypeStorageNode{number}", f"vtkMRMLScalarVolumeDisplayNode{number}"
    shown = {
        "id": display,
        "name": f"{layer.name} display",
        "colorNodeID": colour,
        "autoWindowLevel": "0",
        "window": f"{high - low:g}",
        "level": f"{(high + low) / 2:g}",
        "applyThreshold": str(int(hot)),
        "lowerThreshold": f"{low:g}",
        "upperThreshold": "1e+10",
    }
    volume = {
        "id": f"vtkMRMLScalarVolumeNode{number}",
        "name": layer.name,
        "references": f"display:{display};storage:{storage};",
        "storageNodeRef": storage,
        "displayNodeRef": display,
    }
    stored = {"id": storage, "name": f"{layer.name} storage", "fileName": f"../{layer.path}"}
    return [_node("VolumeArchetypeStorage", stored), _node("VolumeDisplay", shown), _node("Volume", volume)]


def _node(tag: str, attributes: dict[str, str]) -> str:
    written = " ".join(f"{key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{tag} {written}></{tag}>"


def _shell(program: str, arguments: list[list[str]]) -> str:
    rows = " \\\n    ".join(shlex.join(row) for row in arguments)
    return f'#!/bin/sh\ncd "$(dirname "$0")/.." || exit 1\nexec {program} \\\n    {rows}\n'


def _rounded(window: tuple[float, float]) -> tuple[float, float]:
    return float(f"{window[0]:.6g}"), float(f"{window[1]:.6g}")


def _numbers(window: tuple[float, float]) -> list[str]:
    return [f"{value:g}" for value in _rounded(window)]


def _write(path: Path, text: str, executable: bool = False) -> None:
    path.write_text(text, encoding="utf-8")
    if executable:
        path.chmod(0o755)
