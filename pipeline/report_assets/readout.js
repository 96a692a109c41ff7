// The values under the crosshair: as numbers, as a picture of the interval, and in words.

const PLOT_WIDTH = 340;
const SVG = "http://www.w3.org/2000/svg";
// Share of the detail that is the prior's, in percent.
const PRIOR_RULES = 67;
const DATA_RULE = 33;

const side = (v, [plus, minus]) => `${v >= 0 ? plus : minus} ${Math.abs(v).toFixed(1)}`;
const shortName = ({ label }) => label.replace(" posterior mean", " mean").replace(" point estimate", " point");

// Values of all volumes that are unpacked, by role, at the crosshair.
function valuesAt(app) {
  const { store, data, state } = app;
  const [i, j, k] = state.cross;
  const at = i + data.shape_xyz[0] * (j + data.shape_xyz[1] * k);
  const read = (roles) => store.byRole(...roles).map((source) => ({ source, value: store.value(source, at) }));
  const found = {
    voxel: [i, j, k], mm: worldOf(data.affine, [i, j, k]), truth: read(["truth"])[0]?.value ?? null,
    baselines: read(["baseline"]), reconstructions: read(["reconstruction"]), samples: read(["sample"]),
    std: store.value(app.std, at), share: store.value(store.byRole("share")[0], at), flag: store.value(store.byRole("flag")[0], at),
    shown: store.value(app.shown, at),
  };
  const own = ownInterval(app, found, at);
  return data.calibrated ? { ...found, interval: calibratedInterval(app, found, at), own } : { ...found, interval: own, own: null };
}

// [shown - below, shown + above], or null where one of them is not known yet; magnitudes are not negative.
function around(app, shown, below, above) {
  if ([shown, below, above].includes(null)) return null;
  return [app.data.modality === "mr" ? Math.max(0, shown - below) : shown - below, shown + above];
}

// The interval that the samples alone give.
function ownInterval(app, { shown, std }, at) {
  const { store, data } = app;
  const [lower, upper] = ["lower", "upper"].map((role) => store.value(store.byRole(role)[0], at));
  if (lower !== null && upper !== null) return around(app, shown, lower, upper);
  const half = data.interval_factor !== null && std !== null ? data.interval_factor * std : null;
  return around(app, shown, half, half);
}

// The interval that patients with a known truth say is wide enough.
function calibratedInterval(app, { shown }, at) {
  const half = app.store.value(app.store.byRole("calibrated")[0], at);
  return around(app, shown, half, half);
}

// Who decides at the crosshair, and how sure the samples are.
function sentences(app, { share, std, interval, truth }) {
  const which = app.data.calibrated ? "calibrated interval" : "interval";
  const parts = [];
  if (share !== null) {
    const percent = `${Math.round(share)} % of the detail is the prior's`;
    if (share >= PRIOR_RULES) parts.push(["prior", "The prior decides here", percent]);
    else if (share > DATA_RULE) parts.push(["both", "Data and prior both decide here", percent]);
    else parts.push(["data", "The data decide here", percent]);
  }
  if (std !== null && app.data.std_ranks.length) {
    const rank = 5 * app.data.std_ranks.filter((edge) => edge < std).length;
    const words = rank >= 90 ? "The samples differ much" : rank >= 50 ? "The samples differ" : "The samples agree";
    parts.push([rank >= 90 ? "prior" : "plain", words, `± ${app.show(std)} ${app.data.unit}, wider than in ${rank} % of the ${app.data.modality === "ct" ? "body" : "image"}`]);
  }
  if (truth !== null && interval) {
    const inside = truth >= interval[0] && truth <= interval[1];
    const name = `The ${app.data.truth_name.toLowerCase()}`;
    parts.push([inside ? "data" : "prior", inside ? `${name} lies in the ${which} ✓` : `${name} lies outside the ${which} ✗`, ""]);
  }
  return parts;
}

function figures(app, found) {
  const { data } = app;
  const number = (value, sign = "") => (value === null ? "…" : `${sign}${app.show(value)} ${data.unit}`);
  const items = found.truth === null && !app.store.byRole("truth").length ? [] : [[data.truth_name, number(found.truth)]];
  for (const { source, value } of [...found.baselines, ...found.reconstructions]) {
    items.push([shortName(source), number(value), source === app.shown ? "chosen" : ""]);
  }
  if (app.std) items.push(["Uncertainty", number(found.std, "± ")]);
  if (app.store.byRole("share").length) items.push(["From the prior", found.share === null ? "…" : `${Math.round(found.share)} %`]);
  if (app.store.byRole("flag").length) items.push(["In doubt", found.flag === null ? "…" : `${Math.round(found.flag)} %`]);
  return items;
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const titled = (words) => svg("title", {}, words);

// The interval as a bar, the samples' own as a bracket where the bar is calibrated, samples as dots, baselines as strokes,
// the truth as a diamond, on one axis.
function plotInterval(app, { interval, own, shown, truth, baselines, samples }) {
  const known = (rows) => rows.filter(({ value }) => value !== null);
  const values = [...interval, ...(own ?? []), ...[...known(baselines), ...known(samples)].map(({ value }) => value), ...(truth === null ? [] : [truth])];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = 0.04 * (high - low) || 1;
  const x = (value) => 8 + ((value - low + pad) / (high - low + 2 * pad)) * (PLOT_WIDTH - 16);
  const unit = app.data.unit;
  const root = svg("svg", { viewBox: `0 0 ${PLOT_WIDTH} 34`, role: "img", "aria-label": "Interval, samples, baselines and truth on one axis" });
  root.append(svg("path", { class: "axis", d: `M4 17H${PLOT_WIDTH - 4}` }));
  root.append(svg("rect", { class: "interval", x: x(interval[0]), y: 9, width: Math.max(1, x(interval[1]) - x(interval[0])), height: 16, rx: 3 }));
  if (own) {
    const words = `the samples' own interval: ${app.show(own[0])} to ${app.show(own[1])} ${unit}`;
    root.append(svg("path", { class: "own", d: `M${x(own[0])} 11v12m0 -6H${x(own[1])}m0 -6v12` }, titled(words)));
  }
  for (const { source, value } of known(baselines)) {
    root.append(svg("path", { class: "baseline", d: `M${x(value)} 5V29` }, titled(`${source.label}: ${app.show(value)} ${unit}`)));
  }
  root.append(svg("path", { class: "mean", d: `M${x(shown)} 6V28` }, titled(`${app.shown.label}: ${app.show(shown)} ${unit}`)));
  for (const { source, value } of known(samples)) {
    root.append(svg("circle", { class: "sample", cx: x(value), cy: 17, r: 3.5 }, titled(`${source.label}: ${app.show(value)} ${unit}`)));
  }
  if (truth !== null) {
    root.append(svg("path", { class: "truth", d: `M${x(truth)} 10l6 7l-6 7l-6 -7z` }, titled(`${app.data.truth_name}: ${app.show(truth)} ${unit}`)));
  }
  return root;
}

function readout(app) {
  const found = valuesAt(app);
  const [x, y, z] = found.mm;
  $("#where").textContent = `${side(x, "RL")}   ${side(y, "AP")}   ${side(z, "SI")} mm`;
  $("#voxel").textContent = `voxel ${found.voxel.join(", ")}`;
  $("#words").replaceChildren(...sentences(app, found).map(([kind, strong, rest]) => element(
    "li", { className: kind }, element("b", { textContent: strong }), rest ? ` · ${rest}` : "",
  )));
  $("#values").replaceChildren(...figures(app, found).map(([term, text, style]) => element(
    "div", { className: style ?? "" }, element("dt", { textContent: term }), element("dd", { textContent: text }),
  )));
  const box = $("#interval");
  box.hidden = !found.interval;
  if (!found.interval) return;
  const [low, high] = found.interval;
  $("#interval-name").textContent = `${app.data.calibrated ? "Calibrated " : ""}${Math.round(100 * (app.data.interval ?? 0.9))} % interval`;
  $("#interval-text").textContent = `${app.show(low)} to ${app.show(high)} ${app.data.unit}`;
  $("#interval-plot").replaceChildren(plotInterval(app, found));
}
