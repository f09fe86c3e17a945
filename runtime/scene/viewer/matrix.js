// Matrices over view pairs: one canvas pixel a pair, row i and column j, enlarged by the style. Marks
// above the columns show the anchors.
function makeMatrix({ canvas, marks, tabs, legend }, panels, count, point) {
  const context = canvas.getContext("2d");
  let shown = panels[0];

  function show(panel) {
    shown = panel;
    canvas.width = canvas.height = count;
    const image = context.createImageData(count, count);
    for (let n = 0; n < count * count; n++) image.data.set([...panel.colour(n), 255], 4 * n);
    context.putImageData(image, 0, 0);
    const anchors = panel.anchors();
    marks.width = 576; // twice the style's, so that a mark among a thousand views is seen too
    marks.height = 1;
    marks.hidden = !anchors.length;
    const pen = marks.getContext("2d");
    pen.fillStyle = "#d6281f";
    const cell = marks.width / count;
    for (const view of anchors) pen.fillRect(Math.floor(view * cell), 0, Math.max(3, cell), 1);
    legend.textContent = panel.legend();
    canvas.setAttribute("aria-label", `${panel.name}: ${legend.textContent}`);
    for (const button of tabs.children) {
      button.setAttribute("aria-pressed", String(button.textContent === panel.name));
    }
  }

  for (const panel of panels) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = panel.name;
    button.addEventListener("click", () => show(panel));
    tabs.append(button);
  }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const cell = (x, length) => Math.max(0, Math.min(count - 1, Math.floor(x / length * count)));
    point(cell(event.clientY - box.top, box.height), cell(event.clientX - box.left, box.width));
  });
  return {
    show(name) {
      const panel = panels.find((each) => each.name === name);
      if (panel) show(panel);
    },
    refresh() { if (shown) show(shown); },
  };
}

// Dark blue over green to yellow, as in saliency.png: lightness grows evenly.
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 144, 141], [94, 201, 98], [253, 231, 37]];
const LEVELS = [[233, 236, 239], [133, 183, 235], [12, 68, 124]];

function ramp(value, low) {
  const x = 4 * Math.max(0, Math.min(1, (value - low) / Math.max(1 - low, 1e-9)));
  const k = Math.min(3, Math.floor(x));
  return RAMP[k].map((c, a) => Math.round(c + (x - k) * (RAMP[k + 1][a] - c)));
}
