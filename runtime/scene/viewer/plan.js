// Cameras from above: each true camera, the estimated one, and a line between their centres. Seen
// from above, x points right and z up; a triangle opens where its camera looks.
function makePlan(svg, { trueCameras, hues }, cameras) {
  const make = (kind, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    svg.append(node);
  };
  const above = ([x, , z]) => [x, -z];
  const half = (a, b) => a.map((value, axis) => (value + b[axis]) / 2);
  // The middles of the image's left and right edges, and the centre.
  const triangle = (c) => [half(c[0], c[3]), half(c[1], c[2]), c[4]].map(above);

  const all = (trueCameras || cameras).flatMap(triangle);
  const [low, high] = [Math.min, Math.max].map((pick) => [0, 1].map(
    (axis) => all.reduce((found, point) => pick(found, point[axis]), all[0][axis])));
  const side = 1.2 * Math.max(high[0] - low[0], high[1] - low[1]) || 1;
  const corner = low.map((value, axis) => (value + high[axis] - side) / 2);
  const place = (point) => point.map((value, axis) => 200 * (value - corner[axis]) / side);
  const text = (point) => place(point).map((value) => value.toFixed(2)).join(",");

  cameras.forEach((camera, i) => {
    if (!trueCameras) return;
    const [x1, y1] = place(above(trueCameras[i][4])), [x2, y2] = place(above(camera[4]));
    make("line", { x1, y1, x2, y2 });
    make("polygon", { points: triangle(trueCameras[i]).map(text).join(" "), class: "true" });
  });
  cameras.forEach((camera, i) => {
    make("polygon", { points: triangle(camera).map(text).join(" "), stroke: hues[i] });
  });
}
