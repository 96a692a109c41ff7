// Slices as pixels: colour tables, cuts through a volume, and the marks over them.

const MAPS = {
  image: ["#000000", "#ffffff"],
  std: ["#000004", "#1f0c48", "#550f6d", "#88226a", "#ba3655", "#e35933", "#f98e09", "#f9cb35", "#fcffa4"],
  share: ["#05090b", "#0d2c33", "#155159", "#1f7a74", "#3fa394", "#8fd0b6", "#e6ffe9"],
  flag: ["#0a0508", "#3a0c24", "#7d1440", "#c22457", "#f0567a", "#ff9fb0", "#ffe6e6"],
  error: ["#9fd6ff", "#3f9be6", "#1c4f8a", "#0b0d10", "#8a4413", "#ec8a2b", "#ffdca8"],
};
const MARK = "rgba(98, 201, 189, 0.8)";
const SHADOW = "rgba(0, 0, 0, 0.85)";
const INK = "#d5e0e6";
const MARK_FONT = '600 11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif';
const SMALLEST_MARKED = 54;
const NARROW = 60;

const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

// 256 opaque pixels (little-endian ABGR) of a colour map.
function ramp(kind) {
  const colours = MAPS[kind].map(parts);
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * (colours.length - 1);
    const below = Math.min(colours.length - 2, Math.floor(at));
    const [r, g, b] = colours[below].map((c, i) => Math.round(c + (at - below) * (colours[below + 1][i] - c)));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

const RAMPS = Object.fromEntries(Object.keys(MAPS).map((kind) => [kind, ramp(kind)]));

// Pixel by stored value + 32768. Values below `hidden` (physical) are transparent.
function colourTable({ kind, step }, [low, high], hidden = -Infinity) {
  const table = new Uint32Array(65536);
  const scale = 255.999 / (high - low || 1);
  for (let stored = -32768; stored < 32768; stored++) {
    const value = stored * step;
    const level = Math.max(0, Math.min(255, Math.floor((value - low) * scale)));
    table[stored + 32768] = value < hidden ? 0 : RAMPS[kind][level];
  }
  return table;
}

// Writes a slice, left to right and top to bottom, into `out`.
function cut(voxels, shape, { h, v, n, flipH, flipV, size }, index, table, out) {
  const strides = [1, shape[0], shape[0] * shape[1]];
  const [across, down] = [flipH ? -strides[h] : strides[h], flipV ? -strides[v] : strides[v]];
  let row = index * strides[n] + (flipH ? (size[0] - 1) * strides[h] : 0) + (flipV ? (size[1] - 1) * strides[v] : 0);
  for (let y = 0, p = 0; y < size[1]; y++, row += down) {
    for (let x = 0, at = row; x < size[0]; x++, at += across) out[p++] = table[voxels[at] + 32768];
  }
}

const scratches = new Map();

// A canvas of a slice's size with its pixels, shared by all that draw.
function scratch([width, height]) {
  const key = `${width} ${height}`;
  if (!scratches.has(key)) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    scratches.set(key, { canvas, context, image, pixels: new Uint32Array(image.data.buffer) });
  }
  return scratches.get(key);
}

// Where a tile's slice lies: left and top of its first pixel and size of a pixel (CSS px), for the common zoom.
function placement(tile, { zoom, centre }) {
  const { plane: p, x, y, w, h, scale } = tile;
  const pixel = p.mm.map((mm) => mm * scale * zoom);
  const [axes, flips, box] = [[p.h, p.v], [p.flipH, p.flipV], [[x, w], [y, h]]];
  const start = axes.map((axis, i) => {
    const [from, room] = box[i];
    const length = p.size[i] * pixel[i];
    if (length <= room + 0.5) return from + (room - length) / 2;
    const at = flips[i] ? p.size[i] - 1 - centre[axis] : centre[axis];
    return Math.max(from + room - length, Math.min(from, from + room / 2 - (at + 0.5) * pixel[i]));
  });
  return { start, pixel };
}

// Screen position (CSS px) of voxel centres in a tile, and back.
function toScreen({ plane: p }, { start, pixel }, voxel) {
  return [[p.h, p.flipH], [p.v, p.flipV]].map(([axis, flip], i) => {
    const at = flip ? p.size[i] - 1 - voxel[axis] : voxel[axis];
    return start[i] + (at + 0.5) * pixel[i];
  });
}

function toVoxel({ plane: p }, { start, pixel }, point, voxel) {
  const next = [...voxel];
  [[p.h, p.flipH], [p.v, p.flipV]].forEach(([axis, flip], i) => {
    const at = Math.max(0, Math.min(p.size[i] - 1, Math.floor((point[i] - start[i]) / pixel[i])));
    next[axis] = flip ? p.size[i] - 1 - at : at;
  });
  return next;
}

// The part of a tile that the slice covers: [x, y, width, height].
function covered({ plane: p, x, y, w, h }, { start, pixel }) {
  const [left, top] = [Math.max(x, start[0]), Math.max(y, start[1])];
  const [right, bottom] = [Math.min(x + w, start[0] + p.size[0] * pixel[0]), Math.min(y + h, start[1] + p.size[1] * pixel[1])];
  return [left, top, Math.max(0, right - left), Math.max(0, bottom - top)];
}

// layers: {voxels, table, alpha, from, to}, bottom first; from and to are the part of the slice's width that is drawn.
function drawTile(context, tile, layers, shape, state) {
  const { plane: p } = tile;
  const place = placement(tile, state);
  const [left, top, width, height] = covered(tile, place);
  context.imageSmoothingEnabled = state.smooth;
  context.imageSmoothingQuality = "high";
  const { canvas, context: own, image, pixels } = scratch(p.size);
  for (const layer of layers) {
    cut(layer.voxels, shape, p, state.cross[p.n], layer.table, pixels);
    own.putImageData(image, 0, 0);
    context.save();
    context.beginPath();
    context.rect(left + layer.from * width, top, (layer.to - layer.from) * width, height);
    context.clip();
    context.globalAlpha = layer.alpha;
    context.drawImage(canvas, ...place.start, p.size[0] * place.pixel[0], p.size[1] * place.pixel[1]);
    context.restore();
  }
  return place;
}

function crosshair(context, tile, place, voxel) {
  const [cx, cy] = toScreen(tile, place, voxel).map((v) => Math.round(v) + 0.5);
  const [x, y, w, h] = covered(tile, place);
  const gap = Math.min(9, w / 8, h / 8);
  context.save();
  context.beginPath();
  context.rect(x, y, w, h);
  context.clip();
  context.strokeStyle = MARK;
  context.lineWidth = 1;
  context.beginPath();
  for (const [ax, ay, bx, by] of [[x, cy, cx - gap, cy], [cx + gap, cy, x + w, cy], [cx, y, cx, cy - gap], [cx, cy + gap, cx, y + h]]) {
    context.moveTo(ax, ay);
    context.lineTo(bx, by);
  }
  context.stroke();
  context.restore();
}

function text(context, words, x, y, align, baseline) {
  Object.assign(context, { font: MARK_FONT, textAlign: align, textBaseline: baseline, lineJoin: "round", lineWidth: 3 });
  context.strokeStyle = SHADOW;
  context.strokeText(words, x, y);
  context.fillStyle = INK;
  context.fillText(words, x, y);
}

// A bar of stated length, its left end at (left, bottom).
function scaleBar(context, left, bottom, length, perMm) {
  const line = (style, width) => {
    Object.assign(context, { strokeStyle: style, lineWidth: width });
    context.beginPath();
    context.moveTo(left, bottom);
    context.lineTo(left + length * perMm, bottom);
    context.stroke();
  };
  line(SHADOW, 4);
  line(INK, 2);
  text(context, `${length} mm`, left, bottom - 4, "left", "bottom");
}

// Orientation letters, the slice's number, and a scale bar. Letters lie on the slice, the rest in the tile's corners.
function annotate(context, tile, place, { cross }, withBar) {
  const { plane: p, x, y, w, h } = tile;
  const [left, top, width, height] = covered(tile, place);
  if (h < 26) return;
  // Beside a slice that is too narrow to hold both, where there is room.
  const beside = width < NARROW && left - x > NARROW / 2;
  const [near, far] = beside ? [left - 4, left + width + 4] : [left + 4, left + width - 4];
  const name = (letters) => (width < NARROW && !beside ? letters[0] : letters);
  if (beside || width > NARROW / 2) {
    text(context, name(p.letters.left), near, top + height / 2, beside ? "right" : "left", "middle");
    text(context, name(p.letters.right), far, top + height / 2, beside ? "left" : "right", "middle");
  }
  if (height >= SMALLEST_MARKED) {
    text(context, p.letters.top, left + width / 2, top + 3, "center", "top");
    text(context, p.letters.bottom, left + width / 2, top + height - 3, "center", "bottom");
  }
  if (h < SMALLEST_MARKED || w < NARROW) return;
  if (w > 110) text(context, `${p.up > 0 ? cross[p.n] + 1 : p.slices - cross[p.n]}/${p.slices}`, x + w - 4, y + 3, "right", "top");
  const perMm = place.pixel[0] / p.mm[0];
  if (withBar) scaleBar(context, x + 6, y + h - 6, barLength(w / perMm), perMm);
}
