// Mouse, wheel, touch and keys on the panels. Whatever they do goes through `app`.

const WHEEL_NOTCH = 60;
const ZOOM_STEP = 1.2;

// Point of an event on the canvas in CSS pixels.
function pointOf(panel, event) {
  const box = panel.canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

// What a pressed pointer does: window, pan, wipe or cross.
function actionOf(panel, event, tile) {
  if (event.button === 2) return "window";
  if (event.button === 1 || event.shiftKey) return "pan";
  if (panel.overDivider(pointOf(panel, event), tile)) return "wipe";
  return panel.app.state.tool;
}

function listen(panel) {
  const { canvas } = panel;
  const touches = new Map();
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    const point = pointOf(panel, event);
    touches.set(event.pointerId, point);
    if (canvas.setPointerCapture && event.isTrusted) canvas.setPointerCapture(event.pointerId);
    const tile = panel.tileAt(point);
    const { window: range, centre, zoom } = panel.app.state;
    drag = { action: actionOf(panel, event, tile), tile, from: point, range: { ...range }, centre: [...centre], zoom };
    if (touches.size === 2) drag = { ...drag, action: "pinch", spread: spreadOf(touches) };
    panel.app.activate(panel, tile.plane);
    move(panel, drag, point, touches);
    if (event.button === 1) event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    const point = pointOf(panel, event);
    if (!drag) {
      canvas.style.cursor = panel.overDivider(point, panel.tileAt(point)) ? "ew-resize" : "";
      return;
    }
    if (touches.has(event.pointerId)) touches.set(event.pointerId, point);
    move(panel, drag, point, touches);
  });
  const end = (event) => {
    touches.delete(event.pointerId);
    if (!touches.size) drag = null;
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => panel.app.toggleLarge(panel));
  listenWheel(panel);
}

function spreadOf(touches) {
  const [[ax, ay], [bx, by]] = touches.values();
  return { distance: Math.hypot(ax - bx, ay - by) || 1, middle: [(ax + bx) / 2, (ay + by) / 2] };
}

function move(panel, drag, point, touches) {
  const { app } = panel;
  const { tile, from } = drag;
  const place = panel.places.get(tile.plane.name) ?? placement(tile, app.state);
  if (drag.action === "cross") {
    app.moveTo(toVoxel(tile, place, point, app.state.cross));
  } else if (drag.action === "wipe") {
    const [left, , width] = covered(tile, place);
    app.wipeAt((point[0] - left) / width);
  } else if (drag.action === "window") {
    dragWindow(app, drag.range, point[0] - from[0], point[1] - from[1]);
  } else if (drag.action === "pan") {
    panBy(panel, drag, [point[0] - from[0], point[1] - from[1]]);
  } else if (drag.action === "pinch" && touches.size === 2) {
    const now = spreadOf(touches);
    app.zoomTo((drag.zoom * now.distance) / drag.spread.distance);
    panBy(panel, drag, now.middle.map((v, i) => v - drag.spread.middle[i]));
  }
}

// To the right widens the window, downwards raises its level.
function dragWindow(app, { low, high }, right, down) {
  const span = high - low;
  const width = Math.max(span * 0.02, span * (1 + right / 150));
  const level = (low + high) / 2 + (span / 300) * down;
  app.setWindow({ name: "", low: level - width / 2, high: level + width / 2 });
}

function panBy(panel, { tile, centre }, shift) {
  const { plane: p } = tile;
  const { pixel } = placement(tile, panel.app.state);
  const next = [...centre];
  [[p.h, p.flipH], [p.v, p.flipV]].forEach(([axis, flip], i) => {
    next[axis] = Math.max(0, Math.min(p.size[i] - 1, centre[axis] + ((flip ? 1 : -1) * shift[i]) / pixel[i]));
  });
  panel.app.centreOn(next);
}

// Zooms about a point of a tile: the voxel under it stays where it is.
function zoomAbout(panel, tile, point, factor) {
  const { app } = panel;
  const before = placement(tile, app.state);
  const { plane: p } = tile;
  const old = app.state.zoom;
  app.zoomTo(old * factor);
  const ratio = app.state.zoom / old;
  if (app.state.zoom === 1) return;
  const next = [...app.state.centre];
  [[p.h, p.flipH, tile.x + tile.w / 2], [p.v, p.flipV, tile.y + tile.h / 2]].forEach(([axis, flip, middle], i) => {
    const under = (point[i] - before.start[i]) / before.pixel[i] - 0.5;
    const at = under - (point[i] - middle) / (before.pixel[i] * ratio);
    next[axis] = Math.max(0, Math.min(p.size[i] - 1, flip ? p.size[i] - 1 - at : at));
  });
  app.centreOn(next);
}

function listenWheel(panel) {
  let turned = 0;
  panel.canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const point = pointOf(panel, event);
    const tile = panel.tileAt(point);
    panel.app.activate(panel, tile.plane);
    if (event.ctrlKey || event.metaKey) {
      zoomAbout(panel, tile, point, Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) * 0.006));
      return;
    }
    // A notch of a wheel is one slice; a trackpad's small steps add up.
    turned += event.deltaMode ? WHEEL_NOTCH * Math.sign(event.deltaY) : event.deltaY;
    const steps = Math.trunc(turned / WHEEL_NOTCH);
    if (!steps) return;
    turned = 0;
    panel.app.step(tile.plane, "slice", -Math.sign(steps));
  }, { passive: false });
}

const MOVES = {
  ArrowLeft: ["across", -1], ArrowRight: ["across", 1], ArrowUp: ["down", -1], ArrowDown: ["down", 1],
  PageUp: ["slice", 1], PageDown: ["slice", -1],
};

// One table for the keyboard and for the list that "?" shows: [keys, words, action].
const KEYS = [
  [["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], "Move the crosshair in the plane last touched"],
  [["PageUp", "PageDown"], "Next and previous slice of that plane"],
  [["1", "2", "3", "4"], "Side by side, wipe, samples, 3D", (app, key) => app.mode(Number(key) - 1)],
  [["p"], "Next choice of planes", (app) => app.nextPlane()],
  [["w"], "Next window preset", (app) => app.nextWindow()],
  [["d"], "What dragging does: crosshair, window, pan", (app) => app.nextTool()],
  [["o"], "Overlay on and off", (app) => app.toggleOverlay()],
  [["[", "]"], "Wipe to the left and to the right", (app, key) => app.wipeAt(app.state.wipe.at + (key === "]" ? 0.05 : -0.05))],
  [["x"], "Swap the two sides of the wipe", (app) => app.swap()],
  [["n", "b"], "Next and previous sample", (app, key) => app.flip(key === "n" ? 1 : -1)],
  [[" "], "Play and stop the samples", (app) => app.play()],
  [["f"], "Enlarge the panel last touched", (app) => app.toggleLarge()],
  [["+", "-"], "Zoom", (app, key) => app.zoomTo(app.state.zoom * (key === "-" ? 1 / ZOOM_STEP : ZOOM_STEP))],
  [["0"], "Reset view, crosshair and window", (app) => app.reset()],
  [["h"], "Hide and show the crosshair", (app) => app.toggleMarks()],
  [["i"], "Smooth pixels or square ones", (app) => app.toggleSmooth()],
  [["c"], "Copy a link to this view", (app) => app.copyLink()],
  [["?"], "This list", (app) => app.help()],
];
const KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", PageUp: "PgUp", PageDown: "PgDn", " ": "Space" };

function listenKeys(app) {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    if (target.closest?.("input:not([type=radio], [type=range]), select, textarea")) return;
    if (key === " " && target.closest?.("button, a, summary, input")) return;
    if (MOVES[key] && target.closest?.("input")) return;
    if (MOVES[key] && (target === document.body || target.closest?.("canvas, .tools, .panel"))) {
      app.step(app.state.active, ...MOVES[key]);
    } else {
      const row = KEYS.find(([keys, , action]) => action && keys.includes(key === "=" ? "+" : key));
      if (!row || (key === " " && !app.hasSamples())) return;
      row[2](app, key === "=" ? "+" : key);
    }
    event.preventDefault();
  });
}

function listKeys(list) {
  for (const [keys, words] of KEYS) {
    const names = keys.flatMap((key) => [element("kbd", { textContent: KEY_NAMES[key] ?? key }), " "]);
    list.append(element("div", {}, element("dt", {}, ...names), element("dd", { textContent: words })));
  }
}
