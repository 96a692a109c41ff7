// Building the controls above the panels, the keys that walk through them, and links to a view.

const SHORT_NAMES = { "Uncertainty (std)": "Uncertainty", "Detail from the prior": "From the prior", "Detail in doubt": "In doubt" };
const TOOLS = [["cross", "crosshair"], ["window", "window and level"], ["pan", "pan"]];

function buildControls(app) {
  const { data, state } = app;
  segments($("#modes .segments"), "mode", MODES.filter((row) => row[3](app)).map(([name, text]) => [name, text]), state.mode,
    (name) => app.setMode(name));
  const names = app.all.map(({ name }) => [name, name[0].toUpperCase() + name.slice(1)]);
  $("#planes").hidden = names.length < 2;
  segments($("#planes .segments"), "plane", [["planes", "All"], ...names], state.plane, (name) => app.setPlane(name));
  segments($("#window .segments"), "window", data.windows.map(({ name }) => [name, name]), state.window.name,
    (name) => app.setWindow(data.windows.find((w) => w.name === name)));
  buildTools(app);
  const typed = () => {
    const [level, width] = [Number($("#level").value), Number($("#width").value)];
    if (Number.isFinite(level) && width > 0) app.setWindow({ name: "", low: level - width / 2, high: level + width / 2 });
  };
  $("#level").addEventListener("change", typed);
  $("#width").addEventListener("change", typed);
  app.setWindow(state.window);
  if ($("#overlay")) buildOverlay(app);
  $("#reset").addEventListener("click", () => app.reset());
  $("#copy").addEventListener("click", () => app.copyLink());
  $("#help-open").addEventListener("click", () => app.help());
  $("#help-close").addEventListener("click", () => $("#help").close());
  listKeys($("#keys"));
  listenKeys(app);
  document.querySelectorAll("#table-planes input").forEach((input) => input.addEventListener("change", tablePlane));
  tablePlane();
  window.addEventListener("hashchange", () => { if (readLink(app)) app.changed(); });
}

function buildTools(app) {
  for (const [name, words] of TOOLS) {
    const input = element("input", { type: "radio", name: "tool", value: name, checked: name === app.state.tool });
    input.setAttribute("aria-label", `Dragging moves ${words}`);
    input.addEventListener("change", () => app.setTool(name));
    const label = element("label", { title: `Drag: ${words}` }, input, element("span"));
    label.lastChild.append($(`#icon-${name}`).content.cloneNode(true));
    $("#tools-drag").append(label);
  }
}

function buildOverlay(app) {
  const select = $("#overlay-map");
  for (const source of app.store.byRole(...MAP_ROLES)) {
    const name = app.nameOf(source);
    select.append(element("option", { value: source.id, textContent: SHORT_NAMES[name] ?? name }));
  }
  // Half of the body has some doubt: only the upper part of a map's range lies over the image at first.
  select.addEventListener("change", () => {
    const source = app.store.sources.get(select.value) ?? null;
    app.setOverlay({ source, threshold: source && source.kind !== "std" ? 0.5 : 0.2 });
  });
  $("#opacity").addEventListener("input", () => app.setOverlay({ opacity: $("#opacity").value / 100 }));
  $("#threshold").addEventListener("input", () => app.setOverlay({ threshold: $("#threshold").value / 100 }));
  app.setOverlay({});
}

function tablePlane() {
  const chosen = $("#table-planes input:checked")?.value;
  if (!chosen) return;
  document.querySelectorAll("#metrics tbody tr").forEach((row) => { row.hidden = row.dataset.plane !== chosen; });
  document.querySelectorAll("#metrics .plane").forEach((cell) => { cell.hidden = true; });
}

function after(options, current) {
  return options[(options.indexOf(current) + 1) % options.length];
}

Object.assign(App.prototype, {
  setTool(name) {
    this.state.tool = name;
    check("#tools-drag", name);
    $("#panels").dataset.tool = name;
  },
  nextTool() {
    this.setTool(after(TOOLS.map(([name]) => name), this.state.tool));
  },
  nextPlane() {
    if (this.all.length > 1) this.setPlane(after(["planes", ...this.all.map(({ name }) => name)], this.state.plane));
  },
  nextWindow() {
    const names = this.data.windows.map(({ name }) => name);
    const next = after(names, this.state.window.name);
    this.setWindow(this.data.windows.find(({ name }) => name === next));
  },
  toggleOverlay() {
    const { overlay } = this.state;
    if (!$("#overlay")) return;
    this.lastOverlay = overlay.source ?? this.lastOverlay ?? this.store.byRole(...MAP_ROLES)[0] ?? null;
    this.setOverlay({ source: overlay.source ? null : this.lastOverlay });
  },
  toggleMarks() {
    this.state.marks = !this.state.marks;
    this.refresh();
  },
  toggleSmooth() {
    this.state.smooth = !this.state.smooth;
    this.refresh();
  },
  help() {
    $("#help").showModal();
  },

  // The view as the part of an address after "#": position in mm, window, mode, planes, zoom, wipe and sample.
  link() {
    const { state } = this;
    const round = (value) => String(Number(value.toFixed(2)));
    const fields = {
      at: worldOf(this.data.affine, state.cross).map(round).join(","), window: [state.window.low, state.window.high].map(round).join(","),
      mode: state.mode, planes: state.plane, zoom: round(state.zoom),
    };
    if (state.mode === "wipe") fields.wipe = [state.wipe.a.id, state.wipe.b.id, round(state.wipe.at)].join(",");
    if (state.mode === "samples") fields.sample = String(state.flip);
    return `#${Object.entries(fields).map((pair) => pair.join("=")).join("&")}`;
  },
  async copyLink() {
    history.replaceState(null, "", this.link());
    let words = "Link to this view copied";
    try {
      await navigator.clipboard.writeText(location.href);
    } catch {
      words = "The link to this view is in the address bar";
    }
    $("#toast").textContent = words;
    clearTimeout(this.toast);
    this.toast = setTimeout(() => { $("#toast").textContent = ""; }, 4000);
  },
});

const numbers = (text, count) => {
  const values = (text ?? "").split(",").map(Number);
  return text && values.length === count && values.every(Number.isFinite) ? values : null;
};

// Takes over what a link says, as far as it makes sense here; true where it says anything.
function readLink(app) {
  if (!/^#at=/.test(location.hash)) return false;
  const fields = Object.fromEntries(location.hash.slice(1).split("&").map((pair) => pair.split("=")));
  const { state, store } = app;
  const at = numbers(fields.at, 3);
  const range = numbers(fields.window, 2);
  const zoom = numbers(fields.zoom, 1);
  if (range && range[1] > range[0]) {
    const preset = app.data.windows.find(({ low, high }) => Math.abs(low - range[0]) + Math.abs(high - range[1]) < 0.02);
    app.setWindow(preset ?? { name: "", low: range[0], high: range[1] });
  }
  if (at) app.moveTo(voxelOf(app.data.affine, at));
  if (zoom) app.zoomTo(zoom[0]);
  if (app.all.length > 1 && ["planes", ...app.all.map(({ name }) => name)].includes(fields.planes)) app.setPlane(fields.planes);
  const [a, b, share] = (fields.wipe ?? "").split(",");
  if (store.sources.has(a) && store.sources.has(b)) Object.assign(state.wipe, { a: store.sources.get(a), b: store.sources.get(b) });
  if (numbers(share, 1)) app.wipeAt(Number(share));
  const sample = numbers(fields.sample, 1)?.[0];
  if (Number.isInteger(sample) && sample >= 0 && sample <= store.byRole("sample").length) state.flip = sample;
  app.onFlip?.();
  const row = MODES.find(([name]) => name === fields.mode);
  if (row?.[3](app)) {
    if (app.sets.size) app.setMode(row[0]);
    else state.mode = row[0];
  }
  return true;
}
