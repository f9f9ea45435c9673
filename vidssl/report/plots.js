"use strict";
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("page-data").textContent);
const touch = matchMedia("(pointer: coarse)").matches;
const near = (act) => {
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      act(entry.target);
    }
  }, { rootMargin: "500px" });
  return watcher;
};

// --- plots: drawn when they come near, and again in other colours when the switch is moved

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const coloured = (value) => {
  if (typeof value === "string") return value.startsWith("@") ? colour(value.slice(1)) : value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one)]));
};
const axis = (own, fixed) => ({ zeroline: false, gridcolor: "@line", linecolor: "@line", tickcolor: "@line", fixedrange: fixed, ...own });
const dressed = (layout, fixed = true) => coloured({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
  font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "@soft" },
  hoverlabel: { bgcolor: "@card", bordercolor: "@line", font: { color: "@ink" } },
  ...layout, xaxis: axis(layout.xaxis, fixed), yaxis: axis(layout.yaxis, fixed),
});
const config = { responsive: true, displaylogo: false, displayModeBar: false };
const drawers = new Map();
// plotly takes longer to start than all the rest, so it lies in the page as text until wanted.
const started = () => {
  if (typeof Plotly !== "undefined") return;
  const script = document.createElement("script");
  script.textContent = byId("plotly").textContent;
  document.head.append(script);
};
const draw = (element) => {
  const { data: traces, layout } = data.charts[Number(element.dataset.chart)];
  // where a finger points and no mouse, dragging moves the page
  const zooms = layout.dragmode === "zoom" && !touch;
  Plotly.react(element, coloured(traces), dressed({ ...layout, dragmode: zooms && "zoom" }, !zooms), config);
};
const drawn = new Set();
const first = near((element) => {
  started();
  drawn.add(element);
  drawers.get(element)(element);
});
const plot = (element, drawer) => {
  drawers.set(element, drawer);
  first.observe(element);
};
for (const element of document.querySelectorAll("[data-chart]")) plot(element, draw);
const redraw = () => { for (const element of drawn) drawers.get(element)(element); };
byId("other").addEventListener("change", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("beforeprint", () => {
  started();
  for (const [element, drawer] of drawers) if (!drawn.has(element)) { drawn.add(element); drawer(element); }
});
