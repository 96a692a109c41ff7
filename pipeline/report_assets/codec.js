// Packed text to voxels and voxels to NIfTI-1; the other half of pipeline/report_volumes.py.

const NIFTI_HEADER = 352;
// Roles of volumes that have a colour map and a range of their own and can lie over an image.
const MAP_ROLES = ["std", "share", "flag"];

async function inflate(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Int16Array, x fastest.
async function unpack(text, [nx, ny, nz]) {
  const planes = await inflate(text);
  const count = nx * ny * nz;
  if (planes.length !== 2 * count) throw new Error("a volume in this page is damaged");
  const out = new Int16Array(count);
  for (let row = 0; row < count; row += nx) {
    let value = 0;
    for (let i = row; i < row + nx; i++) {
      const z = planes[i] | (planes[count + i] << 8);
      value += (z >>> 1) ^ -(z & 1);
      out[i] = value;
    }
  }
  return out;
}

// One ArrayBuffer: header, then the voxels; value = step * stored.
function niftiBytes(voxels, shape, affine, step) {
  const buffer = new ArrayBuffer(NIFTI_HEADER + voxels.byteLength);
  const view = new DataView(buffer);
  const edge = (column) => Math.hypot(affine[0][column], affine[1][column], affine[2][column]);
  view.setInt32(0, 348, true);
  [3, ...shape, 1, 1, 1, 1].forEach((size, i) => view.setInt16(40 + 2 * i, size, true));
  view.setInt16(70, 4, true);
  view.setInt16(72, 16, true);
  [1, edge(0), edge(1), edge(2)].forEach((size, i) => view.setFloat32(76 + 4 * i, size, true));
  view.setFloat32(108, NIFTI_HEADER, true);
  view.setFloat32(112, step, true);
  view.setUint8(123, 2);
  view.setInt16(254, 1, true);
  affine.slice(0, 3).forEach((row, r) => row.forEach((v, c) => view.setFloat32(280 + 16 * r + 4 * c, v, true)));
  view.setUint32(344, 0x00312b6e, true);
  new Int16Array(buffer, NIFTI_HEADER).set(voxels);
  return buffer;
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

// Every volume of the page, unpacked when first asked for. "error:<key>" is <key> minus the truth.
class Store {
  constructor(data) {
    this.data = data;
    this.voxels = new Map();
    this.info = new Map(data.volumes.map((volume) => [volume.key, volume]));
  }

  get(key) {
    if (!this.voxels.has(key)) this.voxels.set(key, this.load(key));
    return this.voxels.get(key);
  }

  async load(key) {
    if (key.startsWith("error:")) {
      const [image, truth] = await Promise.all([this.get(key.slice(6)), this.get("truth")]);
      return image.map((value, i) => Math.max(-32767, Math.min(32767, value - truth[i])));
    }
    const element = [...document.querySelectorAll("script[data-volume]")].find((e) => e.dataset.volume === key);
    const voxels = await unpack(element.textContent.trim(), this.data.shape_xyz);
    element.remove();
    return voxels;
  }

  step(key) {
    return this.info.get(key.replace(/^error:/, "")).step;
  }

  kind(key) {
    if (key.startsWith("error:")) return "error";
    const { role } = this.info.get(key);
    return MAP_ROLES.includes(role) ? role : "image";
  }

  async nifti(key) {
    return niftiBytes(await this.get(key), this.data.shape_xyz, this.data.affine, this.step(key));
  }
}
