// Decodes the page's data and joins its parts. Names come from files: they only ever become text.
const $ = (id) => document.getElementById(id);

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

function main() {
  const data = JSON.parse($("data").textContent);
  const count = data.names.length;
  const similarity = data.similarity && new Uint16Array(bytes(data.similarity).buffer);
  const cosine = similarity && ((n) => similarity[n] / 32767 - 1);
  const level = data.level && bytes(data.level);
  const seen = data.covisibility && bytes(data.covisibility);
  const hues = data.names.map((_, i) => `hsl(${288 * i / Math.max(count - 1, 1)} 90% 45%)`);

  let edges = [];
  for (let i = 0; level && i < count; i++) {
    for (let j = i + 1; j < count; j++) {
      const ij = i * count + j, ji = j * count + i;
      if (level[ij] || level[ji]) edges.push([i, j, cosine ? Math.max(0, cosine(ij)) : 1]);
    }
  }
  const all = edges.length;
  edges = edges.sort((a, b) => b[2] - a[2]).slice(0, data.mostEdges);
  $("graph-note").textContent = all > edges.length
    ? `The ${edges.length} most similar of ${all} pairs of different views that were computed.`
    : `${all} pairs of different views were computed, of ${count * (count - 1) / 2}.`;

  for (const [label, value] of data.facts) {
    const row = document.createElement("div");
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = label;
    dd.textContent = value;
    row.append(dt, dd);
    $("facts").append(row);
  }

  const cloud = makeCloud($("cloud"), {
    ...data, hues, edges,
    positions: new Float32Array(bytes(data.positions).buffer),
    colours: bytes(data.colours),
  });
  for (const name of ["cameras", "pairs", "true"]) {
    $(`show-${name}`).addEventListener("change", (event) => cloud.show(name, event.target.checked));
  }
  $("true-label").hidden = !data.trueCameras;

  function point(i, j) {
    mark(i, j);
    cloud.light(i === j ? [i] : [i, j]);
    [["a", i], ["b", j]].forEach(([side, k]) => {
      $(`name-${side}`).textContent = `${k}: ${data.names[k]}`;
      $(`photo-${side}`).hidden = !data.thumbnails;
      if (data.thumbnails) $(`photo-${side}`).src = data.thumbnails[k];
    });
    const n = i * count + j, said = [`View ${i} looking at view ${j}`];
    if (cosine) said.push(`similarity ${cosine(n).toFixed(3)}`);
    if (level) said.push(["skipped", "low precision", "full precision"][level[n]]);
    if (seen) said.push(`truly sees ${Math.round(seen[n] / 2.55)} % of view ${i}`);
    $("relation").textContent = said.join("; ");
  }
  const mark = makeGraph($("graph"), { count, edges, hues, names: data.names }, point, cloud.lookFrom);

  const panels = [];
  if (similarity) {
    let low = 0.9;
    for (let n = 0; n < count * count; n++) low = Math.min(low, Math.floor(10 * cosine(n) + 1e-3) / 10);
    panels.push({
      name: "Similarity", colour: (n) => ramp(cosine(n), low),
      legend: `Cosine similarity of views, from ${low.toFixed(1)} (dark) to 1 (bright).`,
    });
  }
  if (level) {
    const kept = level.reduce((sum, value) => sum + (value > 0), 0);
    panels.push({
      name: "Computed", colour: (n) => LEVELS[Math.min(2, level[n])],
      legend: `${kept} of ${count * count} ordered pairs computed (dark), the others skipped.`,
    });
  }
  if (seen) {
    panels.push({
      name: "Truth", colour: (n) => ramp(seen[n] / 255, 0),
      legend: "Share of the row's view that the column's view truly sees, 0 (dark) to 1 (bright).",
    });
  }
  $("pairs").hidden = !panels.length;
  makeMatrix($("matrix"), $("tabs"), $("legend"), panels, count, point);
  document.documentElement.dataset.ready = "yes";
}

try {
  main();
} catch (error) {
  const line = document.createElement("p");
  line.id = "error";
  line.textContent = `This page could not be drawn: ${error.message}`;
  document.body.prepend(line);
  throw error;
}
