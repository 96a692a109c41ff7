// The values under the crosshair.

let reading = 0;

// Values of every image under the crosshair, and whether the truth lies in the interval.
async function readout(view) {
  const turn = ++reading;
  const [i, j, k] = view.voxel();
  const at = i + data.shape_xyz[0] * (j + data.shape_xyz[1] * k);
  const value = async (key) => (await store.get(key))[at] * store.step(key);
  const mm = data.affine.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3]);
  const side = (v, [plus, minus]) => `${v >= 0 ? plus : minus} ${Math.abs(v).toFixed(1)}`;
  const items = [["Position, mm", `${side(mm[0], "RL")}  ${side(mm[1], "AP")}  ${side(mm[2], "SI")}`], ["Voxel", `${i}, ${j}, ${k}`]];
  const name = ({ label }) => label.replace(" posterior mean", " mean").replace(" point estimate", " point");
  for (const volume of [...byRole("truth"), ...byRole("baseline"), ...byRole("reconstruction")]) {
    items.push([name(volume), `${show(await value(volume.key))} ${data.unit}`]);
  }
  if (state.std) items.push(["Uncertainty (std)", `± ${show(await value(state.std))} ${data.unit}`]);
  for (const role of ["share", "flag"]) {
    for (const { key } of byRole(role)) {
      items.push([MAP_NAMES[role], `${Math.round(await value(key))} ${unitOf(role)}`]);
    }
  }
  const [lower, upper] = [byRole("lower")[0], byRole("upper")[0]];
  if (lower && upper) items.push(await interval(value, lower.key, upper.key));
  if (turn !== reading) return;
  $("#readout").replaceChildren(...items.map(([term, text, style]) => element(
    "div", {}, element("dt", { textContent: term }), element("dd", { textContent: text, className: style ?? "" }),
  )));
}

async function interval(value, lower, upper) {
  const centre = await value(data.shown);
  const [low, high] = [centre - (await value(lower)), centre + (await value(upper))];
  const term = `${Math.round(100 * (data.interval ?? 0.9))} % interval`;
  const text = `${show(low)} to ${show(high)} ${data.unit}`;
  if (!store.info.has("truth")) return [term, text];
  const truth = await value("truth");
  const inside = truth >= low && truth <= high;
  return [term, `${text}, truth ${inside ? "inside ✓" : "outside ✗"}`, inside ? "inside" : "outside"];
}
