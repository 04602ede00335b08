"use strict";

(function () {
  const cases = JSON.parse(document.getElementById("viewer-volumes").textContent);
  const get = (name) => document.getElementById(`viewer-${name}`);
  let viewer = null;
  let shown = null;
  let last = Promise.resolve();

  async function start() {
    viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairWidth: 1,
      crosshairWidthUnit: "mm",
      fontColor: [1, 0.85, 0.3, 1],
      isNearestInterpolation: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
      logLevel: "error",
    });
    await viewer.attachToCanvas(get("canvas"));
  }

  async function load(found) {
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
    for (const part of found.parts) {
      const options = { name: `${part.name}.nii.gz`, colormap: "gray" };
      const volume = part.url
        ? await niivue.NVImage.loadFromUrl({ ...options, url: part.url })
        : await niivue.NVImage.loadFromBase64({ ...options, base64: part.base64 });
      if (part.colours) volume.setColormapLabel({ ...part.colours });
      viewer.addVolume(volume);
    }
    get("labels").replaceChildren(
      ...[...found.parts.slice(1).map((part) => part.name).reverse(), "none"].map((name) => new Option(name, name))
    );
    const colours = found.parts.length > 1 ? found.parts[1].colours : { labels: [] };
    get("legend").replaceChildren(...colours.labels.slice(1).map((name, index) => {
      const swatch = document.createElement("span");
      swatch.style.background = `rgb(${colours.R[index + 1]} ${colours.G[index + 1]} ${colours.B[index + 1]})`;
      const entry = document.createElement("li");
      entry.append(swatch, name);
      return entry;
    }));
  }

  function view(found) {
    const planes = {
      image: viewer.sliceTypeAxial,
      axial: viewer.sliceTypeAxial,
      coronal: viewer.sliceTypeCoronal,
      sagittal: viewer.sliceTypeSagittal,
    };
    get("view").parentElement.hidden = found.plane !== "";
    viewer.opts.isOrientationTextVisible = found.plane !== "image";
    viewer.opts.crosshairWidth = found.plane === "" ? found.crosshair : 0;
    // Of patients the right side is on the left; 2D images lie as they are stored.
    viewer.setRadiologicalConvention(found.plane !== "image");
    const several = get("view").value === "render" ? viewer.sliceTypeRender : viewer.sliceTypeMultiplanar;
    viewer.setSliceType(found.plane === "" ? several : planes[found.plane]);
    found.parts.forEach((part, index) => {
      if (index) viewer.setOpacity(index, part.name === get("labels").value ? 0.6 : 0);
    });
    get("state").textContent = `${found.title}. ${found.note}`;
    get("canvas").dataset.shown = found.title;
  }

  async function showNow() {
    try {
      if (viewer === null) await start();
      const wanted = get("case") ? Number(get("case").value) : 0;
      if (wanted !== shown) {
        get("state").textContent = "Loading.";
        await load(cases[wanted]);
        shown = wanted;
      }
      view(cases[wanted]);
    } catch (error) {
      get("state").textContent = `The volume cannot be shown: ${error.message}`;
    }
  }

  // One after the other: a choice may come while a volume is loading.
  function show() {
    last = last.then(showNow);
  }

  if (get("show")) get("show").addEventListener("click", show);
  for (const name of ["case", "view", "labels"]) {
    if (get(name)) get(name).addEventListener("change", show);
  }
  if (!get("show")) show();
})();
