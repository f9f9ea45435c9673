const { videos, classes } = data;
const COLOURS = ["#3d8fd1", "#e69f00", "#2ca87f", "#d6604d", "#a275c9", "#94805a", "#e377b4", "#7f8c99", "#9fb728", "#26b5c4"];
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross"];
const LEGEND_MOST = 20;

// --- clips: a line of base64 for each video, taken apart when the first one is wanted

let lines = null;
const show = (strip, video) => {
  lines ??= byId("card-strips").textContent.split("\n");
  const [frames, image] = (lines[video] ?? "").split(" ");
  const count = image ? Number(frames) : 1;
  strip.style.backgroundImage = image ? `url("data:image/webp;base64,${image}")` : "none";
  strip.style.setProperty("--n", count);
  strip.style.setProperty("--end", count > 1 ? `${(100 * count) / (count - 1)}%` : "0%");
  strip.classList.toggle("moving", count > 1);
};
const strips = near((strip) => show(strip, Number(strip.dataset.video)));
for (const strip of document.querySelectorAll(".strip[data-video]")) strips.observe(strip);

const share = (value) => `${(100 * value).toFixed(1)} %`;
const className = (label) => (label < 0 ? "class not known" : classes[label]);
const said = (video) => {
  const [label, taken, sure] = [videos.label[video], videos.predicted[video], videos.confidence[video]];
  if (taken < 0) return className(label);
  const how = sure === null ? "" : ` (${share(sure)})`;
  return label === taken ? `${className(label)}, right${how}` : `${className(label)}, taken for ${className(taken)}${how}`;
};

// --- the map

const plane = byId("plane");
const picked = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
let chosen = -1;
const traceOf = (name, rows, { x, y }, marker, opacity = 1) => ({
  type: "scatter", mode: "markers", hoverinfo: "none", name, opacity,
  x: rows.map((row) => x[row]), y: rows.map((row) => y[row]),
  customdata: rows.map((row) => data.map.videos[row]),
  marker: { size: data.map.videos.length > 1500 ? 5 : 8, line: { width: 0 }, opacity: 0.85, ...marker },
});
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/^@/, "&#64;");
const groups = () => {
  const rows = data.map.videos.map((_, row) => row);
  const only = Number(byId("class").value);
  const label = (row) => videos.label[data.map.videos[row]];
  const found = [];
  const rest = rows.filter((row) => only >= 0 && label(row) !== only);
  const kept = rows.filter((row) => only < 0 || label(row) === only);
  if (rest.length) found.push(["other classes", rest, { color: "@soft", opacity: 0.25 }]);
  if (picked("colours") === "right") {
    const taken = (row) => videos.predicted[data.map.videos[row]];
    const of = (test) => kept.filter(test);
    found.push(["right", of((row) => taken(row) >= 0 && taken(row) === label(row)), { color: "@blue", opacity: 0.6 }]);
    found.push(["wrong", of((row) => taken(row) >= 0 && taken(row) !== label(row)), { color: "@bad", symbol: "x" }]);
    found.push(["not asked", of((row) => taken(row) < 0), { color: "@soft", opacity: 0.5 }]);
    return found;
  }
  const byClass = new Map();
  for (const row of kept) {
    if (!byClass.has(label(row))) byClass.set(label(row), []);
    byClass.get(label(row)).push(row);
  }
  for (const [k, own] of [...byClass].sort(([a], [b]) => a - b)) {
    const marker = k < 0 ? { color: "@soft" } : { color: COLOURS[k % COLOURS.length], symbol: SYMBOLS[Math.floor(k / COLOURS.length) % SYMBOLS.length] };
    found.push([className(k), own, marker]);
  }
  return found;
};
const drawMap = () => {
  const projection = data.map.projections[Number(picked("projection"))];
  byId("projection-note").textContent = projection.note;
  const traces = groups().filter(([, rows]) => rows.length).map(([name, rows, marker]) => traceOf(escaped(name.slice(0, 28)), rows, projection, marker));
  const place = data.map.videos.indexOf(chosen);
  if (place >= 0) {
    const ring = { size: 18, color: "rgba(0,0,0,0)", line: { width: 3, color: "@ink" }, opacity: 1 };
    traces.push({ ...traceOf("chosen", [place], projection, ring), hoverinfo: "skip", showlegend: false });
  }
  const legend = traces.length > 1 && traces.length <= LEGEND_MOST + 1;
  Plotly.react(plane, coloured(traces), dressed({
    margin: { l: 12, r: 12, t: 12, b: 12 }, hovermode: "closest", hoverdistance: 24, uirevision: projection.method,
    showlegend: legend, dragmode: touch ? false : "pan",
    legend: { orientation: "h", y: -0.02, itemsizing: "constant", font: { size: 11, color: "@ink" } },
    xaxis: { visible: false, showgrid: false }, yaxis: { visible: false, showgrid: false, scaleanchor: "x" },
  }, false), { ...config, scrollZoom: !touch });
};
const tip = byId("tip");
const hover = (event) => {
  const video = event.points[0].customdata;
  const strip = tip.querySelector(".strip");
  show(strip, video);
  tip.querySelector(".name").textContent = videos.name[video];
  tip.querySelector(".said").textContent = said(video);
  tip.dataset.video = video;
  tip.hidden = false;
  const { clientX: x, clientY: y } = event.event;
  tip.style.left = `${Math.max(8, Math.min(x + 16, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, Math.min(y + 16, innerHeight - tip.offsetHeight - 8))}px`;
};
const made = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};
const tile = (video, words, tone) => {
  const link = made("a", `tile ${tone}`);
  link.href = `#video=${video}`;
  link.title = `${videos.name[video]}: ${said(video)}`;
  const strip = made("span", "strip");
  show(strip, video);
  link.append(strip, made("span", "said", words));
  return link;
};
const choose = (video) => {
  const panel = byId("chosen");
  if (!panel || !(video >= 0 && video < videos.name.length)) return;
  chosen = video;
  const strip = made("div", "strip playing");
  show(strip, video);
  const parts = [strip, made("h3", "", videos.name[video]), made("p", "soft", said(video))];
  const around = data.near[video] ?? [];
  if (around.length) {
    const tiles = made("div", "tiles");
    const tone = (other) => (videos.label[video] < 0 || videos.label[other] < 0 ? "" : videos.label[other] === videos.label[video] ? "right" : "wrong");
    tiles.append(...around.map(([other, cosine]) => tile(other, `${cosine.toFixed(2)} ${className(videos.label[other])}`, tone(other))));
    parts.push(made("p", "soft", "Nearest to it:"), tiles);
  }
  panel.replaceChildren(...parts);
  panel.dataset.video = video;
  if (drawn.has(plane)) drawMap();
};
const follow = () => {
  const asked = /^#video=(\d+)$/.exec(location.hash);
  if (!asked) return;
  choose(Number(asked[1]));
  byId("chosen")?.scrollIntoView({ block: "nearest" });
};
if (plane) {
  plot(plane, () => {
    drawMap();
    if (plane.dataset.ready) return;
    plane.dataset.ready = "yes";
    if (chosen < 0) choose(data.map.videos[0]);
    plane.on("plotly_hover", hover);
    plane.on("plotly_unhover", () => { tip.hidden = true; });
    plane.on("plotly_click", (event) => {
      const video = event.points[0].customdata;
      history.replaceState(null, "", `#video=${video}`);
      choose(video);
    });
  });
  for (const input of document.querySelectorAll(".choices input, .choices select")) input.addEventListener("change", drawMap);
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  addEventListener("hashchange", follow);
  follow();
}
for (const link of document.querySelectorAll('a[href^="#p-"]')) {
  link.addEventListener("click", () => { byId(link.hash.slice(1)).open = true; });
}
