// The page's start, and what it says where it cannot start.

function fail(error) {
  document.documentElement.dataset.status = "error";
  $("#message").hidden = false;
  $("#message").textContent = `The interactive viewer cannot run here (${error?.message ?? error}). A browser of 2023 or later is needed. The same slices are in the picture under At a glance.`;
}

async function start() {
  performance.mark("start");
  const app = new App(JSON.parse($("#data").textContent));
  window.sliceweave = { app, state: app.state, store: app.store };
  if (!window.DecompressionStream) throw new Error("the browser cannot unpack compressed data");
  buildControls(app);
  readLink(app);
  await app.setMode(app.state.mode);
  new ResizeObserver(() => app.layout()).observe($("#panels"));
  await new Promise(requestAnimationFrame);
  performance.mark("ready");
  if (document.documentElement.dataset.status !== "error") document.documentElement.dataset.status = "ready";
  for (const source of app.store.byRole(...IMAGE_ROLES, ...MAP_ROLES, ...END_ROLES)) {
    await app.guard(app.store.load(source));
    await new Promise((done) => setTimeout(done));
  }
  app.refresh();
  document.documentElement.dataset.unpacked = "all";
}

start().catch(fail);
