// The page: what its controls do, and its start.

const MOST_ZOOM = 12;

// A row of radio buttons that look like one control; options are [value, text].
function segments(root, name, options, chosen, choose) {
  for (const [value, text] of options) {
    const input = element("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => choose(value));
    root.append(element("label", {}, input, element("span", { textContent: text })));
  }
}

const check = (selector, value) => document.querySelectorAll(`${selector} input`).forEach((input) => { input.checked = input.value === value; });

class App {
  constructor(data) {
    this.data = data;
    this.store = new Store(data);
    this.shown = this.store.find(data.shown);
    [this.std = null] = this.store.byRole("std");
    const baseline = this.store.find(data.panels[0]);
    this.sets = new Map();
    this.tables = new Map();
    this.all = planesOf(data);
    this.unitOf = ({ kind }) => (["share", "flag"].includes(kind) ? "%" : data.unit);
    this.state = {
      mode: "side", plane: this.all.length > 1 ? "planes" : this.all[0].name, active: this.all[0], tool: "cross",
      window: { ...data.windows.find((w) => w.name === data.window) }, cross: data.shape_xyz.map((size) => Math.floor(size / 2)),
      zoom: 1, centre: data.shape_xyz.map((size) => (size - 1) / 2), overlay: { source: null, opacity: 0.6, threshold: 0.2 },
      wipe: { a: baseline === this.shown ? this.store.byRole("baseline", "truth", "reconstruction")[0] : baseline, b: this.shown, at: 0.5 },
      flip: 0, playing: null, marks: true, smooth: true,
    };
  }

  // Values in the unit's usual precision.
  show(value) {
    const text = this.data.modality === "ct" ? Math.round(value).toLocaleString("en-GB") : Number(value.toPrecision(3)).toString();
    return text.replace("-", "−");
  }

  nameOf({ volume, label }) {
    const solver = this.store.byRole(volume?.role ?? "").length === 1;
    const names = { std: "Uncertainty (std)", share: "Detail from the prior", flag: "Detail in doubt" };
    return solver && names[volume?.role] ? names[volume.role] : label.replace(/ std$/, " uncertainty (std)");
  }

  hasSamples() {
    return this.store.byRole("sample").length > 1;
  }

  // A map belongs to the solver that it was made from: it lies over that solver's images alone.
  takesOverlay({ kind, volume }) {
    const solver = (key) => key.slice(0, key.lastIndexOf("_"));
    return kind === "image" && ["reconstruction", "sample"].includes(volume.role) && solver(volume.key) === solver(this.data.shown);
  }

  planes() {
    return this.state.plane === "planes" ? this.all : this.all.filter(({ name }) => name === this.state.plane);
  }

  panels() {
    return this.sets.get(this.state.mode) ?? [];
  }

  table(source, range, hidden) {
    const key = [source.kind, source.step, ...range, hidden].join(" ");
    if (this.tables.size > 40) this.tables.clear();
    if (!this.tables.has(key)) this.tables.set(key, colourTable(source, range, hidden));
    return this.tables.get(key);
  }

  // Draws everything on the next frame.
  refresh() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.panels().forEach((panel) => panel.draw());
      readout(this);
    });
  }

  layout() {
    this.panels().forEach((panel) => panel.layout());
    this.refresh();
  }

  // After another choice of volumes: draws what is there, and again when the rest is unpacked.
  changed() {
    this.refresh();
    return this.guard(Promise.all(this.panels().map((panel) => panel.prepare())).then(() => this.refresh()));
  }

  guard(promise) {
    return promise.catch(fail);
  }

  mode(choice) {
    const row = MODES[choice];
    if (!row || !row[3](this) || row[0] === this.state.mode) return null;
    return this.setMode(row[0]);
  }

  setMode(name) {
    const [, , build] = MODES.find(([mode]) => mode === name);
    if (this.state.playing) this.play();
    this.state.mode = name;
    if (!this.sets.has(name)) this.sets.set(name, build(this));
    const roots = this.panels().map(({ root }) => root);
    $("#panels").replaceChildren(...roots);
    $("#panels").dataset.mode = name;
    $("#panels").style.setProperty("--columns", roots.length);
    check("#modes", name);
    ["#planes", "#window", "#overlay"].forEach((id) => { if ($(id)) $(id).disabled = name === "render"; });
    this.layout();
    return this.changed();
  }

  setPlane(name) {
    this.state.plane = name;
    if (name !== "planes") [this.state.active] = this.planes();
    check("#planes", name);
    this.layout();
  }

  setWindow(next) {
    this.state.window = { ...next };
    $("#level").value = Number(((next.low + next.high) / 2).toPrecision(4));
    $("#width").value = Number((next.high - next.low).toPrecision(4));
    check("#window", next.name);
    this.refresh();
  }

  setOverlay(change) {
    const { overlay } = this.state;
    Object.assign(overlay, change);
    const end = overlay.source ? this.data.ranges[overlay.source.kind] : 0;
    $("#overlay-map").value = overlay.source?.id ?? "";
    $("#opacity").value = 100 * overlay.opacity;
    $("#threshold").value = 100 * overlay.threshold;
    $("#opacity-text").textContent = `${Math.round(100 * overlay.opacity)} %`;
    $("#threshold-text").textContent = overlay.source ? `${this.show(overlay.threshold * end)} ${this.unitOf(overlay.source)}` : "";
    $("#overlay").classList.toggle("off", !overlay.source);
    ["#opacity", "#threshold"].forEach((id) => { $(id).disabled = !overlay.source; });
    return this.changed();
  }

  activate(panel, plane) {
    this.state.panel = panel;
    this.state.active = plane;
  }

  moveTo(voxel) {
    this.state.cross = voxel.map((v, i) => Math.max(0, Math.min(this.data.shape_xyz[i] - 1, Math.round(v))));
    this.follow();
    this.refresh();
  }

  // Keeps the crosshair in sight where the view is zoomed.
  follow() {
    const { state, data } = this;
    state.centre = state.centre.map((at, axis) => {
      const seen = data.shape_xyz[axis] / (2 * state.zoom);
      return state.zoom === 1 || Math.abs(state.cross[axis] - at) > seen ? state.cross[axis] : at;
    });
  }

  step({ h, v, n, flipH, flipV, up }, way, steps) {
    const [axis, sign] = { across: [h, flipH ? -1 : 1], down: [v, flipV ? -1 : 1], slice: [n, up] }[way];
    this.moveTo(this.state.cross.map((at, i) => (i === axis ? at + sign * steps : at)));
  }

  centreOn(centre) {
    this.state.centre = centre;
    this.refresh();
  }

  zoomTo(zoom) {
    if (this.state.zoom === 1) this.state.centre = [...this.state.cross];
    this.state.zoom = Math.max(1, Math.min(MOST_ZOOM, zoom));
    this.refresh();
  }

  wipeAt(share) {
    this.state.wipe.at = Math.max(0, Math.min(1, share));
    this.onWipe?.();
    this.refresh();
  }

  swap() {
    const { wipe } = this.state;
    [wipe.a, wipe.b] = [wipe.b, wipe.a];
    this.onWipe?.();
    this.changed();
  }

  flipTo(index) {
    this.state.flip = index;
    this.onFlip?.();
    return this.changed();
  }

  flip(by) {
    if (!this.hasSamples()) return;
    if (this.state.mode !== "samples") this.setMode("samples");
    const count = this.store.byRole("sample").length + 1;
    this.flipTo((this.state.flip + by + count) % count);
  }

  // Plays the draws, without the mean: a mean between two draws would look like a third.
  play() {
    const { state } = this;
    if (state.playing) {
      clearInterval(state.playing);
      state.playing = null;
    } else {
      if (state.mode !== "samples") this.setMode("samples");
      const count = this.store.byRole("sample").length;
      state.playing = setInterval(() => this.flipTo((state.flip % count) + 1), FLIP_MS);
    }
    this.onFlip?.();
  }

  toggleLarge(panel = this.state.panel ?? this.panels()[0]) {
    if (this.panels().length < 2 || !panel.enlarge) return;
    const large = panel.root.classList.toggle("large");
    this.panels().forEach((other) => {
      if (other !== panel) other.root.classList.remove("large");
      other.enlarge.setAttribute("aria-pressed", String(large && other === panel));
    });
    $("#panels").classList.toggle("single", large);
    this.layout();
  }

  reset() {
    this.state.zoom = 1;
    this.moveTo(this.data.shape_xyz.map((size) => Math.floor(size / 2)));
    this.setWindow(this.data.windows.find((w) => w.name === this.data.window));
  }
}
