// The page's controls, read-out and keyboard; starts the viewer.

const $ = (selector, root = document) => root.querySelector(selector);
const data = JSON.parse($("#data").textContent);
const store = new Store(data);
const byRole = (role) => data.volumes.filter((volume) => volume.role === role);
const state = {
  plane: "planes",
  window: { ...data.windows.find((w) => w.name === data.window) },
  std: byRole("std")[0]?.key,
  overlay: { key: byRole("std")[0]?.key, opacity: 0, threshold: 0.2 },
};
const MAP_NAMES = { std: "Uncertainty (std)", share: "Detail from the prior", flag: "Detail in doubt" };
const maps = MAP_ROLES.flatMap(byRole);
const unitOf = (kind) => (["share", "flag"].includes(kind) ? "%" : data.unit);
const views = [];

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Values in the unit's usual precision.
function show(value) {
  if (data.modality === "ct") return Math.round(value).toLocaleString("en-GB").replace("-", "−");
  return Number(value.toPrecision(3)).toString().replace("-", "−");
}

function menu(key) {
  const select = element("select");
  select.setAttribute("aria-label", "Image in this view");
  const group = (label, options) => {
    if (options.length) select.append(element("optgroup", { label }, ...options));
  };
  const option = (value, text) => element("option", { value, textContent: text, selected: value === key });
  const plain = (role) => byRole(role).map(({ key: k, label }) => option(k, label));
  group("Reconstruction", plain("reconstruction"));
  group("Uncertainty", maps.map(({ key: k, label }) => option(k, label.replace(/ std$/, " uncertainty (std)"))));
  group("Baselines", plain("baseline"));
  group("Reference", plain("truth"));
  if (byRole("truth").length) {
    const images = [...byRole("reconstruction"), ...byRole("baseline")];
    group("Error", images.map(({ key: k, label }) => option(`error:${k}`, `${label} − truth`)));
  }
  return select;
}

function addView(key) {
  const select = menu(key);
  const enlarge = element("button", { type: "button", title: "Enlarge this view", textContent: "⤢" });
  enlarge.setAttribute("aria-label", "Enlarge this view");
  enlarge.setAttribute("aria-pressed", "false");
  const canvas = element("canvas", { tabIndex: 0 });
  const root = element(
    "article", { className: "view" },
    element("header", {}, select, element("span", { className: "note" }), enlarge),
    element("div", { className: "stage" }, canvas),
    element("div", { className: "bar" }, element("i"), element("div", {}, element("span"), element("span"), element("span"))),
  );
  $("#views").append(root);
  const view = new View(root, store, state);
  select.addEventListener("change", () => guard(view.show(select.value).then(() => dress(view))));
  enlarge.addEventListener("click", () => toggleLarge(view, enlarge));
  listen(view);
  return view;
}

function toggleLarge(view, button) {
  const large = view.root.classList.toggle("large");
  $("#views").classList.toggle("single", large);
  $("#views").style.setProperty("--columns", large ? 1 : $("#views").children.length);
  button.setAttribute("aria-pressed", String(large));
  requestAnimationFrame(() => views.forEach((v) => v.layout()));
}

// Colour bar, note and description of a view.
function dress(view) {
  const kind = store.kind(view.key);
  const [low, high] = view.range();
  const end = `${kind === "std" || kind === "flag" ? "≥ " : ""}${show(high)}`;
  const texts = [show(low), kind === "error" ? "0" : show((low + high) / 2), `${end} ${unitOf(kind)}`];
  $(".bar i", view.root).style.background = `linear-gradient(to right, ${MAPS[kind].join(", ")})`;
  view.root.querySelectorAll(".bar span").forEach((span, i) => { span.textContent = texts[i]; });
  $(".note", view.root).textContent = kind === "image" ? store.info.get(view.key).note : "";
  const name = $("select", view.root).selectedOptions[0].textContent;
  view.canvas.setAttribute("role", "img");
  view.canvas.setAttribute("aria-label", `${name}. Arrow keys move the crosshair, page up and down change the slice.`);
}

let pending = null;

// After a gesture in one view: move the others there once a frame.
function link(source) {
  if (pending) return;
  pending = requestAnimationFrame(() => {
    pending = null;
    views.filter((view) => view !== source).forEach((view) => view.follow(source));
    guard(readout(source));
  });
}

const KEYS = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

function press(view, event) {
  event.stopImmediatePropagation();
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  // Radiological display: the arrow to the left goes to the patient's right.
  if (KEYS[event.key]) view.nv.moveCrosshairInVox(...KEYS[event.key].map((d, i) => (i === 0 ? -d : d)));
  else if (event.key === "+" || event.key === "=") view.zoom(1.25);
  else if (event.key === "-") view.zoom(0.8);
  else if (event.key === "0") view.reset();
  else return;
  event.preventDefault();
  link(view);
}

function listen(view) {
  const { canvas, root } = view;
  const stage = $(".stage", root);
  // Before NiiVue's own listeners: its keys would change planes and offer 3D, its right button a contrast box.
  stage.addEventListener("keydown", (event) => press(view, event), true);
  stage.addEventListener("keyup", (event) => event.stopImmediatePropagation(), true);
  stage.addEventListener("wheel", (event) => {
    if (event.ctrlKey) {
      event.preventDefault();
      event.stopImmediatePropagation();
      view.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    }
    link(view);
  }, { capture: true, passive: false });
  let drag = null;
  stage.addEventListener("mousedown", (event) => {
    if (event.button !== 2) return;
    event.stopImmediatePropagation();
    drag = { x: event.clientX, y: event.clientY, ...state.window };
  }, true);
  window.addEventListener("mousemove", (event) => {
    if (event.buttons && canvas.matches(":hover, :focus")) link(view);
    if (!drag) return;
    const speed = (drag.high - drag.low) / 300;
    const width = Math.max((drag.high - drag.low) * 0.02, drag.high - drag.low + 2 * speed * (event.clientX - drag.x));
    const level = (drag.low + drag.high) / 2 + speed * (event.clientY - drag.y);
    setWindow({ name: "", low: level - width / 2, high: level + width / 2 });
  });
  window.addEventListener("mouseup", () => { drag = null; });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("mousedown", () => { canvas.focus({ preventScroll: true }); link(view); });
  canvas.addEventListener("mouseup", () => link(view));
  canvas.addEventListener("touchmove", () => link(view), { passive: true });
}

let windowPending = null;

function setWindow(next) {
  state.window = { ...next };
  $("#level").value = Number(((next.low + next.high) / 2).toPrecision(4));
  $("#width").value = Number((next.high - next.low).toPrecision(4));
  document.querySelectorAll("#window .segments input").forEach((input) => { input.checked = input.value === next.name; });
  windowPending ??= requestAnimationFrame(() => {
    windowPending = null;
    views.forEach((view) => { view.window(); dress(view); });
  });
}

function segments(root, name, options, chosen, choose) {
  for (const [value, text] of options) {
    const input = element("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => choose(value));
    $(".segments", root).append(element("label", {}, input, element("span", { textContent: text })));
  }
}

let flatWindow = null;

function setPlane(plane) {
  if (plane === "render") {
    flatWindow = state.window;
    setWindow(data.surface_window);
  } else if (flatWindow) {
    setWindow(flatWindow);
    flatWindow = null;
  }
  state.plane = plane;
  views.forEach((view) => view.layout());
  if (plane === "render") views.forEach((view) => guard(view.shade()));
}

function controls() {
  const planes = [["planes", "Three planes"], ["axial", "Axial"], ["coronal", "Coronal"], ["sagittal", "Sagittal"]];
  const shown = data.render_3d ? [...planes, ["render", "3D"]] : planes;
  const only = onlyPlane(data);
  if (only) state.plane = only;
  $("#planes").hidden = Boolean(only);
  segments($("#planes"), "plane", shown, state.plane, setPlane);
  segments($("#window"), "window", data.windows.map((w) => [w.name, w.name]), state.window.name,
    (name) => setWindow(data.windows.find((w) => w.name === name)));
  const typed = () => {
    const [level, width] = [Number($("#level").value), Number($("#width").value)];
    if (Number.isFinite(level) && width > 0) setWindow({ name: "", low: level - width / 2, high: level + width / 2 });
  };
  $("#level").addEventListener("change", typed);
  $("#width").addEventListener("change", typed);
  setWindow(state.window);
  $("#reset").addEventListener("click", () => { views[0].reset(); link(views[0]); });
  if (maps.length) overlayControls();
  document.querySelectorAll("#table-planes input").forEach((input) => input.addEventListener("change", tablePlane));
  tablePlane();
}

function overlayControls() {
  for (const { key, role, label } of maps) {
    const first = key === byRole(role)[0].key;
    if (first || role === "std") $("#overlay-map").append(element("option", { value: key, textContent: first ? MAP_NAMES[role] : label }));
  }
  const update = () => {
    state.overlay.key = $("#overlay-map").value;
    state.overlay.opacity = Number($("#opacity").value) / 100;
    state.overlay.threshold = Number($("#threshold").value) / 100;
    const kind = store.kind(state.overlay.key);
    const low = state.overlay.threshold * data.ranges[kind];
    $("#opacity-text").textContent = state.overlay.opacity ? `${$("#opacity").value} %` : "off";
    $("#threshold-text").textContent = `${show(low)} ${unitOf(kind)}`;
    views.forEach((view) => guard(view.overlay()));
  };
  // Choosing a map is asking to see it; half of the body has some doubt, so only the upper half of its range is shown.
  $("#overlay-map").addEventListener("change", () => {
    if (!Number($("#opacity").value)) $("#opacity").value = 60;
    $("#threshold").value = store.kind($("#overlay-map").value) === "std" ? 20 : 50;
    update();
  });
  $("#opacity").addEventListener("input", update);
  $("#threshold").addEventListener("input", update);
  update();
}

function tablePlane() {
  const chosen = $("#table-planes input:checked")?.value;
  if (!chosen) return;
  document.querySelectorAll("#metrics tbody tr").forEach((row) => { row.hidden = row.dataset.plane !== chosen; });
  document.querySelectorAll("#metrics .plane").forEach((cell) => { cell.hidden = true; });
}

function fail(error) {
  document.documentElement.dataset.status = "error";
  $("#message").hidden = false;
  $("#message").textContent = `The interactive viewer cannot run here (${error.message ?? error}). It needs a browser with WebGL 2. The same slices are in the picture further down.`;
}

function guard(promise) {
  promise.catch(fail);
}

async function start() {
  controls();
  const panels = [...data.panels];
  if (window.innerWidth >= 1640 && store.info.has("truth")) panels.unshift("truth");
  const opening = panels.map((key) => [addView(key), key]);
  $("#views").style.setProperty("--columns", panels.length);
  for (const [view, key] of opening) {
    await view.open(key);
    views.push(view);
    dress(view);
    await new Promise(requestAnimationFrame);
  }
  new ResizeObserver(() => views.forEach((view) => view.layout())).observe($("#views"));
  await readout(views[0]);
  await new Promise(requestAnimationFrame);
  document.documentElement.dataset.status = "ready";
}

window.sliceweave = { data, state, store, views };
guard(start());
