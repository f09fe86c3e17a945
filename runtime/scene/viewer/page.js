// The most photos that are shown in a row.
const MOST_PHOTOS = 200;

// Decodes the page's data and joins its parts. Names come from files: they only ever become text.
const $ = (id) => document.getElementById(id);

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

function list(into, facts) { // of labels and values, in the place of what is there
  into.replaceChildren(...facts.map(([label, value]) => {
    const row = document.createElement("div");
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = label;
    dd.textContent = value;
    row.append(dt, dd);
    return row;
  }));
}

function decoded(run) {
  return {
    ...run,
    positions: new Float32Array(bytes(run.positions).buffer),
    colours: bytes(run.colours),
    maps: run.maps.map(({ label, anchors, levels }) => {
      const packed = bytes(levels); // four pairs to a byte
      return { label, anchors, level: (n) => packed[n >> 2] >> 2 * (n & 3) & 3 };
    }),
  };
}

function main() {
  const data = JSON.parse($("data").textContent);
  const count = data.names.length;
  const similarity = data.similarity && new Uint16Array(bytes(data.similarity).buffer);
  const cosine = similarity && ((n) => similarity[n] / 32767 - 1);
  const runs = data.runs.map(decoded);
  const compares = runs.length > 1;
  let run = runs[data.first], map = run.maps[run.firstMap];
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

  document.documentElement.classList.toggle("compares", compares);
  const cloud = makeCloud($("cloud"), { ...data, hues, showTrue: compares && !!data.trueCameras });
  for (const name of ["cameras", "pairs", "true"]) {
    $(`show-${name}`).addEventListener("change", (event) => cloud.show(name, event.target.checked));
  }
  $("true-label").hidden = !data.trueCameras;
  $("show-true").checked = compares && !!data.trueCameras;

  function point(i, j) {
    graph.mark(i, j);
    cloud.light(i === j ? [i] : [i, j]);
    photos.forEach((each, k) => each.classList.toggle("on", k === i || k === j));
    [["a", i], ["b", j]].forEach(([side, k]) => {
      const rank = run.anchors.indexOf(k) + 1;
      $(`name-${side}`).textContent = `${k}: ${data.names[k]}`
        + (rank ? ` (anchor ${rank} of ${run.anchors.length})` : "");
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

  const photos = data.thumbnails && count <= MOST_PHOTOS ? data.thumbnails.map((source, i) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    button.style.borderColor = hues[i];
    image.src = source;
    image.alt = data.names[i];
    button.append(image);
    button.addEventListener("pointerenter", () => point(i, i));
    button.addEventListener("focus", () => point(i, i));
    button.addEventListener("click", () => cloud.lookFrom(i));
    $("photos").append(button);
    return button;
  }) : [];

  const marked = (anchors) => anchors.length
    ? " Marked: the anchors, to which every view attends." : "";
  const panels = [], anchors = () => run.anchors;
  if (similarity) {
    let low = 0.9;
    for (let n = 0; n < count * count; n++) low = Math.min(low, Math.floor(10 * cosine(n) + 1e-3) / 10);
    panels.push({
      name: "Similarity", colour: (n) => ramp(cosine(n), low), anchors,
      legend: () => `Cosine similarity of views, from ${low.toFixed(1)} (dark) to 1 (bright).`
        + marked(run.anchors),
    });
  }
  if (runs.some((each) => each.maps.length)) {
    panels.push({
      name: "Computed",
      colour: (n) => LEVELS[map ? map.level(n) : 0], anchors: () => (map ? map.anchors : []),
      legend: () => {
        if (!map) return "This run chose no pairs of views.";
        let kept = 0;
        for (let n = 0; n < count * count; n++) kept += map.level(n) > 0;
        return `${map.label}: ${kept} of ${count * count} ordered pairs computed (dark), the others `
          + `skipped.${marked(map.anchors)}`;
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
  const matrix = makeMatrix(
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
      + (run.anchors.length ? " Anchors have a ring here and a dot in the cloud." : "");
  }
  $("map").addEventListener("change", (event) => {
    map = run.maps[event.target.value];
    showMap();
    matrix.show("Computed");
  });

  const cards = compares ? runs.map((each) => card(each)) : [];
  function card(each) {
    const article = document.createElement("article"), button = document.createElement("button");
    const note = document.createElement("p"), facts = document.createElement("dl");
    const plan = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    button.type = "button";
    button.textContent = each.label;
    note.textContent = each.note;
    plan.setAttribute("viewBox", "0 0 200 200");
    plan.setAttribute("role", "img");
    plan.setAttribute("aria-label", `${each.label}: cameras from above`);
    makePlan(plan, { ...data, hues }, each.cameras);
    list(facts, each.facts);
    article.append(button, note, plan, facts);
    article.addEventListener("click", () => show(each)); // a key on the button clicks, too
    $("runs").append(article);
    return article;
  }
  $("runs").hidden = $("runs-note").hidden = !compares;
  $("runs-note").textContent = "Choose a run to see its cloud and its pairs. Its picture: the cameras "
    + `from above. ${data.note}`;

  function show(each) {
    run = each;
    map = run.maps[run.firstMap];
    list($("facts"), [...run.about, ...data.facts]);
    cards.forEach((article, index) => {
      article.classList.toggle("on", runs[index] === run);
      article.firstChild.setAttribute("aria-pressed", String(runs[index] === run));
    });
    cloud.load(run);
    graph.ring(run.anchors);
    $("map").hidden = run.maps.length < 2;
    $("map").replaceChildren(...run.maps.map((one, index) => new Option(one.label, index)));
    $("map").selectedIndex = run.firstMap;
    showMap();
    matrix.refresh();
  }
  show(run);
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
