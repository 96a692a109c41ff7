// One panel: a canvas with the planes' tiles of what it shows, a heading and a colour bar.

const WIPE_GRIP = 9;

class Panel {
  // parts: () => [[source, from, to]], what to draw and over which part of each tile's width.
  constructor({ name, heading, parts, app }) {
    Object.assign(this, { name, parts, app, tiles: [], places: new Map() });
    this.canvas = element("canvas", { tabIndex: 0 });
    this.enlarge = iconButton("enlarge", "Enlarge this panel", () => app.toggleLarge(this));
    this.enlarge.setAttribute("aria-pressed", "false");
    this.bars = element("div", { className: "bars" });
    this.heading = element("header", {}, ...heading, this.enlarge);
    this.stage = element("div", { className: "stage" }, this.canvas, element("p", { className: "waiting", textContent: "unpacking …" }));
    this.root = element("article", { className: "panel" }, this.heading, this.stage, this.bars);
    this.root.dataset.panel = name;
    this.canvas.setAttribute("role", "img");
    this.context = this.canvas.getContext("2d", { alpha: false });
    if (!this.context) throw new Error("the browser gives no 2D canvas");
    listen(this);
  }

  get wipes() {
    return this.parts().length > 1;
  }

  async prepare() {
    const { store, state } = this.app;
    await Promise.all(this.parts().map(([source]) => store.load(source)));
    if (state.overlay.source && state.overlay.opacity) await store.load(state.overlay.source);
  }

  // The display range of a source: the shared window for images, their own for the maps.
  range({ kind }) {
    const { state, data } = this.app;
    const end = data.ranges[kind];
    return kind === "image" ? [state.window.low, state.window.high] : [kind === "error" ? -end : 0, end];
  }

  layers() {
    const { store, state, data } = this.app;
    const { source: map, opacity, threshold } = state.overlay;
    const layers = [];
    for (const [source, from, to] of this.parts()) {
      const voxels = store.peek(source);
      if (!voxels) continue;
      layers.push({ voxels, table: this.app.table(source, this.range(source)), alpha: 1, from, to });
      const laid = map && opacity && this.app.takesOverlay(source) && store.peek(map);
      if (!laid) continue;
      const end = data.ranges[map.kind];
      layers.push({ voxels: laid, table: this.app.table(map, [0, end], Math.max(threshold, 1e-6) * end), alpha: opacity, from, to });
    }
    return layers;
  }

  layout() {
    const box = this.stage.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.max(1, Math.floor(box.width)), Math.max(1, Math.floor(box.height))];
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
    this.tiles = tilesOf(this.app.planes(), width, height);
    this.ratio = ratio;
  }

  draw() {
    const { context, app } = this;
    const layers = this.layers();
    this.stage.classList.toggle("ready", layers.length > 0);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    for (const tile of this.tiles) {
      const place = drawTile(context, tile, layers, app.data.shape_xyz, app.state);
      this.places.set(tile.plane.name, place);
      if (app.state.marks) crosshair(context, tile, place, app.state.cross);
      if (this.wipes) this.divider(covered(tile, place));
      annotate(context, tile, place, app.state, tile === this.tiles[0] || Math.abs(tile.scale / this.tiles[0].scale - 1) > 0.05);
    }
    this.dress();
  }

  divider([x, y, w, h]) {
    const { context, app } = this;
    const at = Math.round(x + app.state.wipe.at * w);
    context.fillStyle = "rgba(0, 0, 0, 0.6)";
    context.fillRect(at - 2, y, 4, h);
    context.fillStyle = "#fff";
    context.fillRect(at - 0.75, y, 1.5, h);
    if (h < SMALLEST_MARKED) return;
    context.beginPath();
    context.arc(at, y + h * 0.82, 8, 0, 7);
    context.fill();
    context.fillStyle = "#0d1317";
    for (const side of [-1, 1]) {
      context.beginPath();
      context.moveTo(at + 6 * side, y + h * 0.82);
      context.lineTo(at + 2 * side, y + h * 0.82 - 4);
      context.lineTo(at + 2 * side, y + h * 0.82 + 4);
      context.fill();
    }
  }

  // Colour bars, one for each kind of map, and the picture's description.
  dress() {
    const { app } = this;
    const sources = this.parts().map(([source]) => source);
    const kinds = [...new Map(sources.map((source) => [source.kind, source])).values()];
    const key = kinds.map((source) => [source.kind, ...this.range(source)].join(" ")).join();
    const names = sources.map((source) => app.nameOf(source)).join(" and ");
    if (this.dressed === `${key}${names}`) return;
    this.dressed = `${key}${names}`;
    this.bars.replaceChildren(...kinds.map((source) => {
      const [low, high] = this.range(source);
      const open = ["std", "flag"].includes(source.kind) ? "≥ " : "";
      const ends = [app.show(low), source.kind === "error" ? "0" : app.show((low + high) / 2), `${open}${app.show(high)} ${app.unitOf(source)}`];
      const stripe = element("i");
      stripe.style.background = `linear-gradient(to right, ${MAPS[source.kind].join(", ")})`;
      return element("div", { className: "bar" }, stripe, element("p", {}, ...ends.map((words) => element("span", { textContent: words }))));
    }));
    this.canvas.setAttribute("aria-label", `${names}. Arrow keys move the crosshair, page up and page down change the slice.`);
  }

  // The tile under a point of the canvas, else the nearest.
  tileAt([px, py]) {
    const away = ({ x, y, w, h }) => Math.max(x - px, px - x - w, 0) + Math.max(y - py, py - y - h, 0);
    return this.tiles.reduce((a, b) => (away(b) < away(a) ? b : a));
  }

  overDivider([px], tile) {
    if (!this.wipes || !this.places.has(tile.plane.name)) return false;
    const [left, , width] = covered(tile, this.places.get(tile.plane.name));
    return Math.abs(px - (left + this.app.state.wipe.at * width)) <= WIPE_GRIP;
  }
}
