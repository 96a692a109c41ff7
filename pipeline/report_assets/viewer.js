// Views: one NiiVue canvas each, linked by crosshair, pan, zoom and rotation.

const SLICE = { axial: 0, coronal: 1, sagittal: 2, render: 4 };
const MAPS = {
  image: ["#000000", "#ffffff"],
  std: ["#000004", "#1f0c48", "#550f6d", "#88226a", "#ba3655", "#e35933", "#f98e09", "#f9cb35", "#fcffa4"],
  share: ["#05090b", "#0d2c33", "#155159", "#1f7a74", "#3fa394", "#8fd0b6", "#e6ffe9"],
  flag: ["#0a0508", "#3a0c24", "#7d1440", "#c22457", "#f0567a", "#ff9fb0", "#ffe6e6"],
  error: ["#9fd6ff", "#3f9be6", "#1c4f8a", "#0b0d10", "#8a4413", "#ec8a2b", "#ffdca8"],
};

const ALPHA = { image: 1, std: 0.35, share: 0.35, flag: 0.35 };
const CAMERA = { azimuth: 155, elevation: 28, scale: 1.25 };

function channel(colours, at) {
  return colours.map((colour) => parseInt(colour.slice(at, at + 2), 16));
}

// NiiVue colour map with stops evenly spaced; alpha matters in 3D alone, where the neutral value must vanish.
function colourMap(kind) {
  const colours = MAPS[kind];
  const last = colours.length - 1;
  const stops = colours.map((_, i) => Math.round((255 * i) / last));
  const alpha = stops.map((s) => (kind === "error" ? Math.round(Math.abs(s - 127.5) * 1.2) : Math.round(s * ALPHA[kind])));
  return { R: channel(colours, 1), G: channel(colours, 3), B: channel(colours, 5), A: alpha, I: stops };
}

function registerMaps(nv) {
  for (const kind of Object.keys(MAPS)) nv.addColormap(`sw-${kind}`, colourMap(kind));
}

const OPTIONS = {
  backColor: [0, 0, 0, 1], crosshairColor: [0.38, 0.79, 0.74, 0.75], crosshairWidth: 0.4, crosshairWidthUnit: "percent",
  crosshairGap: 10, fontColor: [0.72, 0.78, 0.82, 1], fontMinPx: 12, fontSizeScaling: 0.2, isRadiologicalConvention: true,
  show3Dcrosshair: false, multiplanarShowRender: 0, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
  dragAndDropEnabled: false, isCornerOrientationText: true, sagittalNoseLeft: true, loadingText: "", logLevel: "silent", isColorbar: false,
};
const MOUSE = { leftButton: { primary: 8, withShift: 3 }, rightButton: 0, centerButton: 3 };

// Array axes that run closest to the patient's left-right, back-front and foot-head axes.
function worldAxes({ affine }) {
  const free = [0, 1, 2];
  return [0, 1, 2].map((world) => {
    const axis = free.reduce((a, b) => (Math.abs(affine[world][b]) > Math.abs(affine[world][a]) ? b : a));
    free.splice(free.indexOf(axis), 1);
    return axis;
  });
}

// The only plane worth showing of a volume with fewer than four slices across one axis; null for the others.
function onlyPlane(data) {
  const thin = worldAxes(data).findIndex((axis) => data.shape_xyz[axis] < 4);
  return ["sagittal", "coronal", "axial"][thin] ?? null;
}

// Tiles (fractions of the canvas) that show the three planes at one common scale, as large as fits.
function planeTiles(data, width, height) {
  const gap = 3;
  const edge = (axis) => Math.hypot(...data.affine.slice(0, 3).map((row) => row[axis]));
  const [x, y, z] = worldAxes(data).map((axis) => data.shape_xyz[axis] * edge(axis));
  const layouts = [
    { size: [Math.max(x, y), y + 2 * z], gaps: [0, 2], at: [[0, 0, 0, 0], [0, y, 0, 1], [0, y + z, 0, 2]] },
    { size: [x + y, y + z], gaps: [1, 1], at: [[0, z, 0, 1], [0, 0, 0, 0], [x, 0, 1, 0]] },
    { size: [x + Math.max(x, y), Math.max(y, 2 * z)], gaps: [1, 1], at: [[0, 0, 0, 0], [x, 0, 1, 0], [x, z, 1, 1]] },
  ];
  const scaleOf = ({ size, gaps }) => Math.min((width - gap * gaps[0]) / size[0], (height - gap * gaps[1]) / size[1]);
  const best = layouts.reduce((a, b) => (scaleOf(b) > scaleOf(a) + 1e-9 ? b : a));
  const scale = scaleOf(best);
  const left = (width - best.size[0] * scale - gap * best.gaps[0]) / 2;
  const top = (height - best.size[1] * scale - gap * best.gaps[1]) / 2;
  const sizes = [[x, y], [x, z], [y, z]];
  return ["axial", "coronal", "sagittal"].map((plane, i) => {
    const [px, py, gx, gy] = best.at[i];
    const centring = best === layouts[0] ? ((best.size[0] - sizes[i][0]) * scale) / 2 : 0;
    const box = [left + centring + px * scale + gap * gx, top + py * scale + gap * gy, sizes[i][0] * scale, sizes[i][1] * scale];
    return { sliceType: SLICE[plane], position: [box[0] / width, box[1] / height, box[2] / width, box[3] / height] };
  });
}

class View {
  // root: the element to fill; store: volumes; state: what all views share (window, plane, overlay).
  constructor(root, store, state) {
    Object.assign(this, { root, store, state, key: null, laid: null });
    this.canvas = root.querySelector("canvas");
    this.nv = new niivue.Niivue(OPTIONS);
  }

  async open(key) {
    await this.nv.attachToCanvas(this.canvas, false);
    registerMaps(this.nv);
    this.nv.setMouseEventConfig(MOUSE);
    await this.show(key);
    this.reset();
  }

  async image(key, map, opacity) {
    const image = await niivue.NVImage.new(await this.store.nifti(key), `${key}.nii`, map, opacity);
    image.name = "";
    return image;
  }

  // Runs changes that would each draw, and draws once at the end.
  quietly(change) {
    if (Object.hasOwn(this.nv, "drawScene")) return change();
    this.nv.drawScene = () => {};
    try {
      change();
    } finally {
      delete this.nv.drawScene;
    }
    this.nv.drawScene();
  }

  async show(key) {
    this.key = key;
    const kind = this.store.kind(key);
    const image = await this.image(key, `sw-${kind}`, 1);
    if (this.key !== key) return;
    this.setRange(image, kind);
    this.quietly(() => {
      const position = this.nv.volumes.length ? [...this.nv.scene.crosshairPos] : null;
      while (this.nv.volumes.length) this.nv.removeVolumeByIndex(this.nv.volumes.length - 1);
      this.laid = null;
      this.nv.addVolume(image);
      if (position) this.nv.scene.crosshairPos = position;
      this.layout();
    });
    await this.overlay();
  }

  takesOverlay(key) {
    return Boolean(this.state.overlay.key) && key === this.store.data.shown;
  }

  setRange(image, kind) {
    const { low, high } = this.state.window;
    const end = this.store.data.ranges[kind];
    [image.cal_min, image.cal_max] = kind === "image" ? [low, high] : [kind === "error" ? -end : 0, end];
  }

  range() {
    const volume = this.nv.volumes[0];
    return [volume.cal_min, volume.cal_max];
  }

  // Applies the shared window to an image; the other kinds keep their own range.
  window() {
    if (!this.nv.volumes.length || this.store.kind(this.key) !== "image") return;
    this.setRange(this.nv.volumes[0], "image");
    this.nv.updateGLVolume();
  }

  // Lays the chosen map over the shown reconstruction; its volume exists only once the overlay has been asked for.
  async overlay() {
    const { opacity, key: map } = this.state.overlay;
    if (!this.takesOverlay(this.key) || (!opacity && this.nv.volumes.length < 2)) return;
    const key = this.key;
    const kind = this.store.kind(map);
    const laid = this.laid === map ? this.nv.volumes[1] : null;
    const volume = laid ?? (await this.image(map, `sw-${kind}`, opacity));
    if (this.key !== key || this.state.overlay.key !== map) return;
    const end = this.store.data.ranges[kind];
    volume.colormapType = 1;
    volume.opacity = this.state.overlay.opacity;
    [volume.cal_min, volume.cal_max] = [Math.max(this.state.overlay.threshold, 1e-6) * end, end];
    this.quietly(() => {
      if (volume === this.nv.volumes[1]) return this.nv.updateGLVolume();
      while (this.nv.volumes.length > 1) this.nv.removeVolumeByIndex(this.nv.volumes.length - 1);
      this.laid = map;
      return this.nv.addVolume(volume);
    });
  }

  layout() {
    const { plane } = this.state;
    const box = this.canvas.getBoundingClientRect();
    if (!this.nv.volumes.length || !box.width || !box.height) return;
    this.quietly(() => {
      if (plane === "planes") {
        this.nv.setSliceType(3);
        this.nv.setCustomLayout(planeTiles(this.store.data, box.width, box.height));
        return;
      }
      this.nv.clearCustomLayout();
      this.nv.setSliceType(plane === "render" && !this.store.data.render_3d ? SLICE.axial : SLICE[plane]);
    });
  }

  // Shading needs gradients of the whole volume: computed when 3D is first asked for.
  async shade() {
    if (!this.store.data.render_3d || this.shaded === this.key) return;
    this.shaded = this.key;
    await this.nv.setVolumeRenderIllumination(this.store.kind(this.key) === "image" ? 0.7 : 0);
  }

  follow(other) {
    const [to, from] = [this.nv.scene, other.nv.scene];
    to.crosshairPos = [...from.crosshairPos];
    to.pan2Dxyzmm = [...from.pan2Dxyzmm];
    to.renderAzimuth = from.renderAzimuth;
    to.renderElevation = from.renderElevation;
    to.volScaleMultiplier = from.volScaleMultiplier;
    this.nv.drawScene();
  }

  zoom(factor) {
    const { scene } = this.nv;
    const pan = [...scene.pan2Dxyzmm];
    const next = Math.max(1, Math.min(12, pan[3] * factor));
    // Drawn at zoom * mm + pan: the crosshair stays where it is.
    const mm = this.nv.frac2mm(scene.crosshairPos);
    scene.pan2Dxyzmm = next === 1 ? [0, 0, 0, 1] : [...pan.slice(0, 3).map((p, i) => p + (pan[3] - next) * mm[i]), next];
    scene.volScaleMultiplier = Math.max(0.5, Math.min(4, scene.volScaleMultiplier * factor));
    this.nv.drawScene();
  }

  reset() {
    const { scene } = this.nv;
    scene.pan2Dxyzmm = [0, 0, 0, 1];
    [scene.renderAzimuth, scene.renderElevation, scene.volScaleMultiplier] = Object.values(CAMERA);
    scene.crosshairPos = this.nv.volumes[0].dimsRAS.slice(1, 4).map((size) => (Math.floor(size / 2) + 0.5) / size);
    this.nv.drawScene();
  }

  // Crosshair as x y z voxel indices of the page's grid.
  voxel() {
    const { data } = this.store;
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos);
    return voxelOf(data.affine, mm).map((v, i) => Math.max(0, Math.min(data.shape_xyz[i] - 1, Math.round(v))));
  }
}
