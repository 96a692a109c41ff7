// Which panels there are: side by side, a wipe with its difference, samples one after the other, and 3D.

const FLIP_MS = 700;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function iconButton(icon, label, action) {
  const button = element("button", { type: "button", className: "icon", title: label });
  button.setAttribute("aria-label", label);
  button.append($(`#icon-${icon}`).content.cloneNode(true));
  button.addEventListener("click", action);
  return button;
}

// A menu of sources by role; images alone where `plain`.
function sourceMenu(app, chosen, label, plain, choose) {
  const select = element("select");
  select.setAttribute("aria-label", label);
  const { store } = app;
  const groups = [["Reconstruction", store.byRole("reconstruction")], ["Samples", store.byRole("sample")], ["Baselines", store.byRole("baseline")],
    ["Reference", store.byRole("truth")]];
  if (!plain) {
    groups.splice(1, 0, ["Uncertainty", store.byRole(...MAP_ROLES)]);
    groups.push(["Error", [...store.sources.values()].filter(({ id }) => id.startsWith("e"))]);
  }
  for (const [name, sources] of groups) {
    const options = sources.map((source) => element("option", { value: source.id, textContent: app.nameOf(source) }));
    if (options.length) select.append(element("optgroup", { label: name }, ...options));
  }
  select.value = chosen.id;
  select.addEventListener("change", () => choose(store.sources.get(select.value)));
  return select;
}

// A panel with one menu.
function singlePanel(app, name, start) {
  const note = element("span", { className: "note" });
  let source = start;
  const dress = () => { note.textContent = source.volume?.note ?? ""; };
  const select = sourceMenu(app, start, "Image in this panel", false, (next) => {
    source = next;
    dress();
    app.changed();
  });
  dress();
  return new Panel({ name, app, heading: [select, note], parts: () => [[source, 0, 1]] });
}

function sidePanels(app) {
  return app.data.panels.map((name, i) => singlePanel(app, `side${i}`, app.store.find(name)));
}

function wipePanels(app) {
  const { wipe } = app.state;
  const selects = ["a", "b"].map((end) => sourceMenu(app, wipe[end], end === "a" ? "Image on the left" : "Image on the right", false, (next) => {
    wipe[end] = next;
    app.changed();
  }));
  const slider = element("input", { type: "range", id: "wipe", min: 0, max: 100, value: 100 * wipe.at });
  slider.setAttribute("aria-label", "Place of the divider");
  slider.addEventListener("input", () => app.wipeAt(slider.value / 100));
  app.onWipe = () => {
    slider.value = Math.round(100 * wipe.at);
    selects.forEach((select, i) => { select.value = wipe[i ? "b" : "a"].id; });
  };
  const swap = iconButton("swap", "Swap left and right", () => app.swap());
  const panel = new Panel({
    name: "wipe", app, heading: [selects[0], slider, selects[1], swap], parts: () => [[wipe.a, 0, wipe.at], [wipe.b, wipe.at, 1]],
  });
  const both = () => wipe.a.kind === "image" && wipe.b.kind === "image";
  const label = element("b", { className: "name" });
  const other = new Panel({
    name: "difference", app, heading: [label],
    parts: () => {
      const source = both() ? app.store.difference(wipe.a, wipe.b) : app.shown;
      label.textContent = both() ? `Right − left: ${app.nameOf(wipe.b)} − ${app.nameOf(wipe.a)}` : app.nameOf(app.shown);
      return [[source, 0, 1]];
    },
  });
  return [panel, other];
}

function samplePanels(app) {
  const samples = app.store.byRole("sample");
  const all = [app.shown, ...samples];
  const strip = element("div", { className: "segments", id: "flip" });
  strip.setAttribute("role", "radiogroup");
  strip.setAttribute("aria-label", "Which sample is shown");
  segments(strip, "flip", all.map((_, i) => [String(i), i ? String(i) : "Mean"]), "0", (value) => app.flipTo(Number(value)));
  const play = element("button", { type: "button", id: "play", textContent: "Play" });
  play.setAttribute("aria-pressed", "false");
  play.addEventListener("click", () => app.play());
  const note = element("span", { className: "note" });
  app.onFlip = () => {
    const { flip, playing } = app.state;
    strip.querySelectorAll("input").forEach((input) => { input.checked = input.value === String(flip); });
    play.textContent = playing ? "Stop" : "Play";
    play.setAttribute("aria-pressed", String(Boolean(playing)));
    note.textContent = flip ? `one of ${app.data.drawn || samples.length} draws` : "mean of the draws";
  };
  app.onFlip();
  const title = element("b", { className: "name", textContent: "What else could it be?" });
  const panel = new Panel({ name: "samples", app, heading: [title, strip, play, note], parts: () => [[all[app.state.flip], 0, 1]] });
  return app.std ? [panel, singlePanel(app, "spread", app.std)] : [panel];
}

const MODES = [
  ["side", "Side by side", sidePanels, () => true],
  ["wipe", "Wipe", wipePanels, (app) => app.store.byRole(...IMAGE_ROLES).length > 1],
  ["samples", "Samples", samplePanels, (app) => app.hasSamples()],
  ["render", "3D", (app) => [new RenderPanel(app)], (app) => app.data.render_3d],
];
