// The point cloud: splats with a depth buffer in plain memory, so that it also turns on servers,
// remote desktops and browsers without WebGL. Axes are OpenCV's: x right, y down, z forward.
// `load` shows a run's cloud and cameras from where the eye is.
function makeCloud(canvas, data) {
  const { trueCameras, hues } = data;
  let positions = [], colours = [], cameras = [], anchors = new Set(), count = 0;
  const start = { yaw: data.yaw, pitch: 0.85, distance: 2.1 * data.radius, target: [...data.centre] };
  const view = { ...start, target: [...start.target] };
  const shown = { cameras: true, pairs: false, true: data.showTrue };
  const context = canvas.getContext("2d");
  let image = null, pixels = null, depths = null, lit = [], edges = [], waiting = false;

  function basis() { // rows: right, down, forward of the eye
    const cy = Math.cos(view.yaw), sy = Math.sin(view.yaw);
    const cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
    return [[cy, 0, -sy], [-sy * sp, cp, -cy * sp], [sy * cp, sp, cy * cp]];
  }

  function eye(rows) {
    return view.target.map((t, a) => t - view.distance * rows[2][a]);
  }

  function fit() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (image && canvas.width === width && canvas.height === height) return;
    canvas.width = width;
    canvas.height = height;
    image = context.createImageData(width, height);
    pixels = new Uint32Array(image.data.buffer);
    depths = new Float32Array(width * height);
  }

  function splat(rows, from, focal) {
    const w = canvas.width, h = canvas.height, [r, d, f] = rows;
    const size = focal * data.radius / (0.35 * Math.sqrt(count)), near = data.radius * 1e-3;
    pixels.fill(0);
    depths.fill(Infinity);
    for (let n = 0, k = 0; n < count; n++, k += 3) {
      const x = positions[k] - from[0], y = positions[k + 1] - from[1], z = positions[k + 2] - from[2];
      const depth = f[0] * x + f[1] * y + f[2] * z;
      if (depth < near) continue;
      const side = Math.min(7, Math.max(1, Math.round(size / depth)));
      const u = Math.floor(w / 2 + focal * (r[0] * x + r[1] * y + r[2] * z) / depth - side / 2);
      const v = Math.floor(h / 2 + focal * (d[0] * x + d[1] * y + d[2] * z) / depth - side / 2);
      if (u < 0 || v < 0 || u + side > w || v + side > h) continue;
      const colour = 0xff000000 | colours[k + 2] << 16 | colours[k + 1] << 8 | colours[k];
      for (let row = v * w + u, last = row + side * w; row < last; row += w) {
        for (let at = row; at < row + side; at++) {
          if (depth < depths[at]) { depths[at] = depth; pixels[at] = colour; }
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  function projector(rows, from, focal) {
    return (point) => {
      const p = [0, 1, 2].map((a) => point[a] - from[a]);
      const [x, y, z] = rows.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]);
      const inFront = z > data.radius * 1e-3;
      return inFront ? [canvas.width / 2 + focal * x / z, canvas.height / 2 + focal * y / z] : null;
    };
  }

  function stroke(points, project, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (let i = 0; i + 1 < points.length; i++) {
      const a = project(points[i]), b = project(points[i + 1]);
      if (a && b) { context.moveTo(...a); context.lineTo(...b); }
    }
    context.stroke();
  }

  function dot(place, colour, radius) {
    if (!place) return;
    context.fillStyle = colour;
    context.beginPath();
    context.arc(...place, radius, 0, 2 * Math.PI);
    context.fill();
  }

  const outline = (c) => [0, 1, 2, 3, 0, 4, 1, 2, 4, 3].map((i) => c[i]);

  function draw() {
    waiting = false;
    fit();
    const rows = basis(), from = eye(rows), focal = 0.9 * Math.min(canvas.width, canvas.height);
    splat(rows, from, focal);
    const project = projector(rows, from, focal), thin = Math.max(1, canvas.width / 900);
    const ink = getComputedStyle(canvas).color;
    if (shown.pairs) {
      for (const [i, j] of edges) {
        stroke([cameras[i][4], cameras[j][4]], project, "rgba(60,120,200,0.35)", thin);
      }
    }
    if (shown.true) trueCameras.forEach((c) => stroke(outline(c), project, ink, 1.2 * thin));
    if (shown.cameras) {
      cameras.forEach((c, i) => {
        const on = lit.includes(i);
        const width = on ? 4 : anchors.has(i) ? 3 : 1.5;
        stroke(outline(c), project, on ? "#d6281f" : hues[i], width * thin);
        if (anchors.has(i)) dot(project(c[4]), hues[i], 5 * thin);
      });
    }
    if (lit.length === 2) {
      stroke(lit.map((i) => cameras[i][4]), project, "#d6281f", 2.5 * thin);
    }
  }

  function redraw() {
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  }

  function turn(dx, dy) {
    view.yaw -= dx;
    view.pitch = Math.max(-1.55, Math.min(1.55, view.pitch + dy));
    redraw();
  }

  function move(dx, dy) { // in pixels of the page
    const step = view.distance / (0.9 * Math.min(canvas.clientWidth, canvas.clientHeight));
    const [right, down] = basis();
    view.target = view.target.map((t, a) => t - step * (dx * right[a] + dy * down[a]));
    redraw();
  }

  function zoom(factor) {
    view.distance = Math.max(1e-3, Math.min(40, view.distance * factor / data.radius)) * data.radius;
    redraw();
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    if (event.shiftKey || event.buttons > 1) move(event.movementX, event.movementY);
    else turn(event.movementX * 0.006, event.movementY * 0.006);
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.001));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => {
    Object.assign(view, start, { target: [...start.target] });
    redraw();
  });
  canvas.addEventListener("keydown", (event) => {
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    if (turns[event.key]) turn(...turns[event.key]);
    else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.85 : 1.18);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(redraw).observe(canvas);

  return {
    load(run) {
      ({ positions, colours, cameras } = run);
      anchors = new Set(run.anchors);
      count = positions.length / 3;
      draw();
    },
    show(name, on) { shown[name] = on; redraw(); },
    connect(pairs) { edges = pairs; redraw(); },
    light(views) { lit = views; redraw(); },
    lookFrom(i) { // the eye at the camera, turning about a point of the scene before it
      const c = cameras[i], middle = [0, 1, 2].map((a) => (c[0][a] + c[1][a] + c[2][a] + c[3][a]) / 4);
      const way = middle.map((m, a) => m - c[4][a]), length = Math.hypot(...way);
      const forward = way.map((x) => x / length);
      view.yaw = Math.atan2(forward[0], forward[2]);
      view.pitch = Math.asin(forward[1]);
      view.distance = 0.6 * data.radius;
      view.target = c[4].map((x, a) => x + view.distance * forward[a]);
      redraw();
    },
  };
}
