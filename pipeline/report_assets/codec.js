// Packed text to voxels, and what can be shown; the other half of pipeline/report_volumes.py.

const $ = (selector, root = document) => root.querySelector(selector);

// Roles of volumes that have a colour map and a range of their own and can lie over an image.
const MAP_ROLES = ["std", "share", "flag"];
// Ends of intervals, as distances from the shown reconstruction.
const END_ROLES = ["lower", "upper", "calibrated"];
const IMAGE_ROLES = ["reconstruction", "sample", "baseline", "truth"];
const DIFFERENCES_KEPT = 3;

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function inflate(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Int16Array, x fastest. Each value was predicted from its neighbours; see report_volumes.py.
async function unpack(text, [nx, ny, nz]) {
  const planes = await inflate(text);
  const count = nx * ny * nz;
  if (planes.length !== 2 * count) throw new Error("a volume in this page is damaged");
  const out = new Int16Array(count);
  for (let row = 0, at = 0; row < ny * nz; row++) {
    const first = row % ny === 0;
    for (let x = 0, left = 0, corner = 0; x < nx; x++, at++) {
      const above = first ? 0 : out[at - nx];
      const [low, high] = left < above ? [left, above] : [above, left];
      const slope = left + above - corner;
      const guess = slope < low ? low : slope > high ? high : slope;
      const zigzag = planes[at] | (planes[count + at] << 8);
      out[at] = guess + ((zigzag >>> 1) ^ -(zigzag & 1));
      left = out[at];
      corner = above;
    }
  }
  return out;
}

function subtract(a, b) {
  const out = new Int16Array(a.length);
  for (let i = 0; i < a.length; i++) out[i] = Math.max(-32767, Math.min(32767, a[i] - b[i]));
  return out;
}

// Everything that a panel can show. A source is a volume, or one volume minus another: {id, label, kind, step, volume}
// or {id, label, kind, step, pair}; kind is image, error or one of MAP_ROLES.
class Store {
  constructor(data) {
    this.data = data;
    this.sources = new Map();
    this.pending = new Map();
    this.arrays = new Map();
    data.volumes.forEach((volume, i) => {
      const kind = IMAGE_ROLES.includes(volume.role) ? "image" : volume.role;
      this.sources.set(`v${i}`, { id: `v${i}`, volume, label: volume.label, kind, step: volume.step });
    });
    const [truth] = this.byRole("truth");
    if (!truth) return;
    for (const image of this.byRole("reconstruction", "baseline")) {
      const id = `e${image.id.slice(1)}`;
      const label = data.truth_name === "Truth" ? `Error of ${image.label}` : `${image.label} − reference`;
      this.sources.set(id, { id, pair: [image, truth], label, kind: "error", step: image.step });
    }
  }

  byRole(...roles) {
    return [...this.sources.values()].filter(({ volume }) => volume && roles.includes(volume.role));
  }

  // The source of a name that pipeline/report_page.py uses: a volume's key, or "error:" and a key.
  find(name) {
    const all = [...this.sources.values()];
    if (!name.startsWith("error:")) return all.find(({ volume }) => volume?.key === name) ?? null;
    return all.find(({ id, pair }) => id.startsWith("e") && pair[0].volume.key === name.slice(6)) ?? null;
  }

  // Image b minus image a; both have the same step.
  difference(a, b) {
    const id = `d${b.id}-${a.id}`;
    if (!this.sources.has(id)) {
      this.sources.set(id, { id, pair: [b, a], label: `${b.label} − ${a.label}`, kind: "error", step: b.step });
    }
    for (const old of [...this.arrays.keys()].filter((key) => key.startsWith("d") && key !== id).slice(0, -DIFFERENCES_KEPT)) {
      this.arrays.delete(old);
      this.pending.delete(old);
    }
    return this.sources.get(id);
  }

  // The voxels where they have been unpacked, else null.
  peek(source) {
    return this.arrays.get(source.id) ?? null;
  }

  load(source) {
    if (!this.pending.has(source.id)) {
      this.pending.set(source.id, this.read(source).then((array) => {
        this.arrays.set(source.id, array);
        return array;
      }));
    }
    return this.pending.get(source.id);
  }

  async read({ volume, pair }) {
    if (pair) return subtract(...(await Promise.all(pair.map((source) => this.load(source)))));
    const element = [...document.querySelectorAll("script[data-volume]")].find((e) => e.dataset.volume === volume.key);
    const array = await unpack(element.textContent.trim(), this.data.shape_xyz);
    element.remove();
    return array;
  }

  // Value in physical units at a flat index; null where it is not there yet.
  value(source, at) {
    const array = source && this.peek(source);
    return array ? array[at] * source.step : null;
  }
}
