// The scene graph: views in a circle in their order, an edge for each pair that was computed, and a
// ring around each anchor.
function makeGraph(svg, data, point, look) {
  const { count, hues, names } = data;
  const make = (kind, attributes, parent) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const place = (i) => {
    const angle = 2 * Math.PI * i / count - Math.PI / 2;
    return [96 * Math.cos(angle), 96 * Math.sin(angle)];
  };
  const net = make("g", {}, svg);
  let edges = [], lines = [];
  const radius = Math.max(1, Math.min(5, 220 / count));
  const circles = names.map((name, i) => {
    const [cx, cy] = place(i);
    const circle = make("circle", { cx, cy, r: radius, fill: hues[i] }, svg);
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = name;
    circle.append(title);
    circle.addEventListener("pointerenter", () => point(i, i));
    circle.addEventListener("click", () => look(i));
    return circle;
  });
  return {
    draw(pairs) {
      edges = pairs;
      net.replaceChildren();
      lines = edges.map(([i, j, weight]) => {
        const [x1, y1] = place(i), [x2, y2] = place(j);
        return make("line", { x1, y1, x2, y2, opacity: 0.15 + 0.6 * weight }, net);
      });
      svg.setAttribute("aria-label", `Scene graph: ${count} views, ${edges.length} edges`);
    },
    ring(anchors) {
      circles.forEach((c, n) => c.classList.toggle("anchor", anchors.includes(n)));
    },
    mark(i, j) {
      circles.forEach((c, n) => c.classList.toggle("on", n === i || n === j));
      lines.forEach((line, n) => {
        const [a, b] = edges[n];
        const on = i === j ? a === i || b === i : (a === i && b === j) || (a === j && b === i);
        line.classList.toggle("on", on);
      });
    },
  };
}
