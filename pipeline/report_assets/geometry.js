// Planes of the page's grid as a radiologist sees them, and where they lie in a panel. Display is radiological: the
// patient's right at the left, front and head on top; in sagittal slices the front is at the left.

const TILE_GAP = 3;
const LETTERS = ["RL", "AP", "SI"];
// A direction is named by two letters where its second component is above sin(20 degrees).
const OBLIQUE = 0.34;

// Array axes that run closest to the patient's left-right, back-front and foot-head axes.
function worldAxes({ affine }) {
  const free = [0, 1, 2];
  return [0, 1, 2].map((world) => {
    const axis = free.reduce((a, b) => (Math.abs(affine[world][b]) > Math.abs(affine[world][a]) ? b : a));
    free.splice(free.indexOf(axis), 1);
    return axis;
  });
}

// "R", or "RA" for an oblique direction (x y z in RAS).
function letters(direction) {
  const length = Math.hypot(...direction) || 1;
  return direction
    .map((v, world) => [Math.abs(v) / length, LETTERS[world][v >= 0 ? 0 : 1]])
    .filter(([size], _, all) => size > OBLIQUE || size === Math.max(...all.map(([s]) => s)))
    .sort((a, b) => b[0] - a[0])
    .map(([, letter]) => letter)
    .slice(0, 2)
    .join("");
}

function plane(name, data, [h, v, n], [worldH, worldV, worldN]) {
  const column = (axis) => data.affine.slice(0, 3).map((row) => row[axis]);
  // To the right and downwards every world coordinate falls.
  const [flipH, flipV] = [column(h)[worldH] > 0, column(v)[worldV] > 0];
  const toRight = column(h).map((c) => (flipH ? -c : c));
  const down = column(v).map((c) => (flipV ? -c : c));
  const minus = (direction) => direction.map((c) => -c);
  return {
    name, h, v, n, flipH, flipV,
    size: [data.shape_xyz[h], data.shape_xyz[v]],
    mm: [Math.hypot(...column(h)), Math.hypot(...column(v))],
    // +1 where a higher index lies further to the head, the front or the right.
    up: column(n)[worldN] > 0 ? 1 : -1,
    slices: data.shape_xyz[n],
    letters: { left: letters(minus(toRight)), right: letters(toRight), top: letters(minus(down)), bottom: letters(down) },
  };
}

// The plane in which the scanner took its slices: across the clearly coarsest spacing, else across the clearly
// shortest extent, else axial.
function primaryOf(all, data) {
  const edges = all.map(({ n }) => Math.hypot(...data.affine.slice(0, 3).map((row) => row[n])));
  const extents = all.map(({ slices }, i) => slices * edges[i]);
  const others = (values, i) => values.filter((_, j) => j !== i);
  const coarsest = all.findIndex((_, i) => edges[i] > 1.2 * Math.max(...others(edges, i)));
  const shortest = all.findIndex((_, i) => extents[i] < 0.8 * Math.min(...others(extents, i)));
  return all[coarsest] ?? all[shortest] ?? all[0];
}

// Axial, coronal and sagittal, the acquired one first; planes thinner than four voxels are left out.
function planesOf(data) {
  const [lr, ap, si] = worldAxes(data);
  const all = [
    plane("axial", data, [lr, ap, si], [0, 1, 2]),
    plane("coronal", data, [lr, si, ap], [0, 2, 1]),
    plane("sagittal", data, [ap, si, lr], [1, 2, 0]),
  ];
  const primary = primaryOf(all, data);
  return [primary, ...all.filter((p) => p !== primary && Math.min(...p.size) >= 4)];
}

function fit(sizes, boxes) {
  return Math.min(...sizes.map(([w, h], i) => Math.min(boxes[i][0] / w, boxes[i][1] / h)));
}

// All below each other at one scale; what is left of the height is shared, so that there is room to zoom.
function stacked(sizes, width, height) {
  const room = height - TILE_GAP * (sizes.length - 1);
  const scale = Math.min(width / Math.max(...sizes.map(([w]) => w)), room / sizes.reduce((sum, [, h]) => sum + h, 0));
  const spare = (room - scale * sizes.reduce((sum, [, h]) => sum + h, 0)) / sizes.length;
  let y = 0;
  return sizes.map(([, h]) => {
    const tile = { x: 0, y, w: width, h: scale * h + spare, scale };
    y += tile.h + TILE_GAP;
    return tile;
  });
}

// All below each other, each as wide as the panel where the height allows it.
function filled(sizes, width, height) {
  const room = height - TILE_GAP * (sizes.length - 1);
  const wide = sizes.map(([w]) => width / w);
  const needed = sizes.reduce((sum, [, h], i) => sum + wide[i] * h, 0);
  const share = Math.min(1, room / needed);
  let y = 0;
  return sizes.map(([, h], i) => {
    const tile = { x: 0, y, w: width, h: share * wide[i] * h + (room - share * needed) / sizes.length, scale: share * wide[i] };
    y += tile.h + TILE_GAP;
    return tile;
  });
}

// The first on top, the others side by side below; `share` of the height is the first one's.
function headed([first, ...rest], width, height, share) {
  const upper = (height - TILE_GAP) * share;
  const lower = height - TILE_GAP - upper;
  const each = (width - TILE_GAP * (rest.length - 1)) / rest.length;
  const small = fit(rest, rest.map(() => [each, lower]));
  return [
    { x: 0, y: 0, w: width, h: upper, scale: fit([first], [[width, upper]]) },
    ...rest.map((_, i) => ({ x: i * (each + TILE_GAP), y: upper + TILE_GAP, w: each, h: lower, scale: small })),
  ];
}

// The first on the left, the others below each other on the right; `share` of the width is the first one's.
function flanked([first, ...rest], width, height, share) {
  const left = (width - TILE_GAP) * share;
  const tiles = stacked(rest, width - TILE_GAP - left, height);
  return [
    { x: 0, y: 0, w: left, h: height, scale: fit([first], [[left, height]]) },
    ...tiles.map((tile) => ({ ...tile, x: tile.x + left + TILE_GAP })),
  ];
}

// Boxes (x y w h in CSS pixels) and scales (pixels per mm) of the planes' tiles, as large as the panel allows.
function tilesOf(planes, width, height) {
  const sizes = planes.map(({ size, mm }) => [size[0] * mm[0], size[1] * mm[1]]);
  const choices = [stacked(sizes, width, height), filled(sizes, width, height)];
  for (let share = 0.4; sizes.length > 1 && share < 0.86; share += 0.05) {
    choices.push(headed(sizes, width, height, share), flanked(sizes, width, height, share));
  }
  const score = (tiles) => tiles.reduce((sum, { scale }, i) => sum + scale * Math.sqrt(sizes[i][0] * sizes[i][1]) * (i ? 1 : 1.5), 0);
  const best = choices.reduce((a, b) => (score(b) > score(a) * 1.02 ? b : a));
  return best.map((tile, i) => ({ ...tile, plane: planes[i] }));
}

// A round length for the scale bar: at most a third of the tile.
function barLength(widthMm) {
  const lengths = [1, 2, 5, 10, 20, 50, 100, 200];
  return lengths.filter((length) => length <= widthMm / 3).pop() ?? 1;
}

function worldOf(affine, [i, j, k]) {
  return affine.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3]);
}

// x y z index (not rounded) of a point in mm.
function voxelOf(affine, [px, py, pz]) {
  const [[a, b, c, tx], [d, e, f, ty], [g, h, i, tz]] = affine;
  const [x, y, z] = [px - tx, py - ty, pz - tz];
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [
    (x * (e * i - f * h) + y * (c * h - b * i) + z * (b * f - c * e)) / det,
    (x * (f * g - d * i) + y * (a * i - c * g) + z * (c * d - a * f)) / det,
    (x * (d * h - e * g) + y * (b * g - a * h) + z * (a * e - b * d)) / det,
  ];
}
