// 3D rendering by NiiVue, for CT in which no face can be. Its script is part of the page but runs only when asked for.

const CAMERA = { azimuth: 155, elevation: 28, scale: 1.25 };
const NIFTI_HEADER = 352;
const NO_WEBGL = "no WebGL 2";
const SENTENCE_3D = "3D needs WebGL 2, which this browser does not offer here. The slices need no WebGL: choose Side by side.";

// One ArrayBuffer: NIfTI-1 header, then the voxels; value = step * stored.
function niftiBytes(voxels, shape, affine, step) {
  const buffer = new ArrayBuffer(NIFTI_HEADER + voxels.byteLength);
  const view = new DataView(buffer);
  const edge = (column) => Math.hypot(affine[0][column], affine[1][column], affine[2][column]);
  view.setInt32(0, 348, true);
  [3, ...shape, 1, 1, 1, 1].forEach((size, i) => view.setInt16(40 + 2 * i, size, true));
  view.setInt16(70, 4, true);
  view.setInt16(72, 16, true);
  [1, edge(0), edge(1), edge(2)].forEach((size, i) => view.setFloat32(76 + 4 * i, size, true));
  view.setFloat32(108, NIFTI_HEADER, true);
  view.setFloat32(112, step, true);
  view.setUint8(123, 2);
  view.setInt16(254, 1, true);
  affine.slice(0, 3).forEach((row, r) => row.forEach((v, c) => view.setFloat32(280 + 16 * r + 4 * c, v, true)));
  view.setUint32(344, 0x00312b6e, true);
  new Int16Array(buffer, NIFTI_HEADER).set(voxels);
  return buffer;
}

function loadNiivue() {
  if (window.niivue) return;
  const source = $("#niivue-source");
  document.head.append(element("script", { textContent: source.textContent }));
  source.remove();
}

const OPTIONS_3D = {
  backColor: [0, 0, 0, 1], show3Dcrosshair: false, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
  dragAndDropEnabled: false, loadingText: "", logLevel: "silent", isColorbar: false, isOrientCube: true, isRadiologicalConvention: true,
};

// Has the parts of a Panel that the app uses; there is no crosshair and no slice in it.
class RenderPanel {
  constructor(app) {
    this.app = app;
    this.source = app.shown;
    const images = sourceMenu(app, app.shown, "Image in 3D", true, (next) => { this.source = next; app.guard(this.show()); });
    this.canvas = element("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "3D rendering. Drag to turn, wheel to move the cut.");
    this.sentence = element("p", { className: "message", hidden: true, textContent: SENTENCE_3D });
    this.stage = element("div", { className: "stage ready" }, this.canvas);
    const hint = element("span", { className: "note", textContent: "values from 100 to 900 HU; drag to turn" });
    this.root = element("article", { className: "panel" }, element("header", {}, images, hint), this.stage, this.sentence);
    this.root.dataset.panel = "render";
    this.tiles = [];
    this.places = new Map();
  }

  async prepare() {
    await this.app.store.load(this.source);
    if (!this.opening) this.opening = this.open();
    await this.opening;
  }

  async open() {
    try {
      if (!document.createElement("canvas").getContext("webgl2")) throw new Error(NO_WEBGL);
      loadNiivue();
      this.nv = new window.niivue.Niivue(OPTIONS_3D);
      await this.nv.attachToCanvas(this.canvas, false);
      this.nv.setSliceType(4);
      await this.show();
    } catch (error) {
      if (error.message !== NO_WEBGL) console.warn("3D", error);
      this.nv = null;
      this.stage.hidden = true;
      this.sentence.hidden = false;
    }
  }

  async show() {
    if (!this.nv) return;
    const { data, store } = this.app;
    const bytes = niftiBytes(await store.load(this.source), data.shape_xyz, data.affine, this.source.step);
    const image = await window.niivue.NVImage.new(bytes, "volume.nii", "gray", 1);
    [image.cal_min, image.cal_max] = [data.surface_window.low, data.surface_window.high];
    while (this.nv.volumes.length) this.nv.removeVolumeByIndex(0);
    this.nv.addVolume(image);
    [this.nv.scene.renderAzimuth, this.nv.scene.renderElevation, this.nv.scene.volScaleMultiplier] = Object.values(CAMERA);
    await this.nv.setVolumeRenderIllumination(0.7);
  }

  layout() {}

  draw() {
    this.nv?.drawScene();
  }
}
