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
  const maps = data.maps.map(({ label, anchors, levels }) => {
    const packed = bytes(levels); // four pairs to a byte
    return { label, anchors, level: (n) => packed[n >> 2] >> 2 * (n & 3) & 3 };
  });
  let map = maps[data.firstMap];
  const seen = data.covisibility && bytes(data.covisibility);
  const hues = data.names.map((_, i) => `hsl(${288 * i / Math.max(count - 1, 1)} 90% 45%)`);

  function edges() { // of the map that is shown, the most similar first
    const found = [];
    for (let i = 0; map && i < count; i++) {
      for (let j = i + 1; j < count; j++) {
        const ij = i * count + j, ji = j * count + i;
        if (map.level(ij) || map.level(ji)) found.push([i, j, cosine ? Math.max(0, cosine(ij)) : 1]);
      }
    }
    return found.sort((a, b) => b[2] - a[2]);
  }

  for (const [label, value] of data.facts) {
    const row = document.createElement("div");
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = label;
    dd.textContent = value;
    row.append(dt, dd);
    $("facts").append(row);
  }

  const cloud = makeCloud($("cloud"), {
    ...data, hues,
    positions: new Float32Array(bytes(data.positions).buffer),
    colours: bytes(data.colours),
  });
  for (const name of ["cameras", "pairs", "true"]) {
    $(`show-${name}`).addEventListener("change", (event) => cloud.show(name, event.target.checked));
  }
  $("true-label").hidden = !data.trueCameras;

  function point(i, j) {
    graph.mark(i, j);
    cloud.light(i === j ? [i] : [i, j]);
    [["a", i], ["b", j]].forEach(([side, k]) => {
      const rank = data.anchors.indexOf(k) + 1;
      $(`name-${side}`).textContent = `${k}: ${data.names[k]}`
        + (rank ? ` (anchor ${rank} of ${data.anchors.length})` : "");
      $(`photo-${side}`).hidden = !data.thumbnails;
      if (data.thumbnails) $(`photo-${side}`).src = data.thumbnails[k];
    });
    const n = i * count + j, said = [`View ${i} looking at view ${j}`];
    if (cosine) said.push(`similarity ${cosine(n).toFixed(3)}`);
    if (map) said.push(["skipped", "low precision", "full precision"][map.level(n)]);
    if (seen) said.push(`truly sees ${Math.round(seen[n] / 2.55)} % of view ${i}`);
    $("relation").textContent = said.join("; ");
  }
  const graph = makeGraph($("graph"), { ...data, count, hues }, point, cloud.lookFrom);

  const marked = data.anchors.length ? " Marked: the anchors, to which every view attends." : "";
  const panels = [], anchors = () => data.anchors;
  if (similarity) {
    let low = 0.9;
    for (let n = 0; n < count * count; n++) low = Math.min(low, Math.floor(10 * cosine(n) + 1e-3) / 10);
    panels.push({
      name: "Similarity", colour: (n) => ramp(cosine(n), low), anchors,
      legend: () => `Cosine similarity of views, from ${low.toFixed(1)} (dark) to 1 (bright).${marked}`,
    });
  }
  if (map) {
    panels.push({
      name: "Computed", colour: (n) => LEVELS[map.level(n)], anchors: () => map.anchors,
      legend: () => {
        let kept = 0;
        for (let n = 0; n < count * count; n++) kept += map.level(n) > 0;
        return `${map.label}: ${kept} of ${count * count} ordered pairs computed (dark), the others `
          + `skipped.${map.anchors.length ? marked : ""}`;
      },
    });
  }
  if (seen) {
    panels.push({
      name: "Truth", colour: (n) => ramp(seen[n] / 255, 0), anchors,
      legend: () => "Share of the row's view that the column's view truly sees, 0 (dark) to 1 (bright).",
    });
  }
  $("pairs").hidden = !panels.length;
  const showPanel = makeMatrix(
    { canvas: $("matrix"), marks: $("marks"), tabs: $("tabs"), legend: $("legend") },
    panels, count, point,
  );

  function showMap() {
    const all = edges(), most = all.slice(0, data.mostEdges);
    graph.draw(most);
    cloud.connect(most);
    $("graph-note").textContent = (all.length > most.length
      ? `The ${most.length} most similar of ${all.length} pairs of different views that were computed.`
      : `${all.length} pairs of different views were computed, of ${count * (count - 1) / 2}.`)
      + (data.anchors.length ? " Anchors have a ring here and a dot in the cloud." : "");
  }
  showMap();
  $("map").hidden = maps.length < 2;
  maps.forEach((each, index) => $("map").append(new Option(each.label, index)));
  $("map").selectedIndex = data.firstMap;
  $("map").addEventListener("change", (event) => {
    map = maps[event.target.value];
    showMap();
    showPanel("Computed");
  });
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
