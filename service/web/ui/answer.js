// The parts of an answer as elements: labels, places, embeddings, a verdict.

import { element, svg } from "./dom.js";
import { caption, colour, regions } from "./view.js";

const SHOWN = 512; // numbers of an embedding that are drawn

/**
 * Shows a JSON answer in `parent`, and what it says of places in the views.
 * `views`: View by the name of its image; `parameters`: what was asked for.
 */
export function showAnswer(parent, answer, views, parameters) {
  const parts = [];
  if (typeof answer.verified === "boolean") parts.push(verdict(answer));
  if (Array.isArray(answer.matches)) parts.push(matches(answer));
  for (const [name, view] of views) {
    const own = views.size > 1 ? answer.faces?.[name] : named(answer);
    const size = own?.image ?? { width: view.bitmap.width, height: view.bitmap.height };
    const found = regions(own, parameters, size);
    view.show(found);
    if (found.length > 0) parts.push(places(view, found, views.size > 1 ? name : ""));
  }
  parts.push(...lists(answer));
  if (parts.length === 0) parts.push(element("p", { textContent: "Nothing was found." }));
  parent.replaceChildren(...parts);
}

/** Labels, embeddings and problems at any depth, with the name of the part that they are in. */
function lists(value, name = "") {
  if (value === null || typeof value !== "object") return [];
  const parts = [];
  for (const [key, inner] of Object.entries(value)) {
    if (key === "labels" && Array.isArray(inner)) parts.push(labels(inner, name));
    else if (key === "embedding" && Array.isArray(inner)) parts.push(embedding(inner, name));
    else if (key === "problem" && inner !== null) parts.push(element("p", { textContent: `${name}: ${inner.detail}` }));
    else if (key === "label" && "heat" in value) parts.push(labels([value], name));
    else if (!["box", "landmarks", "heat", "scores", "activations"].includes(key)) parts.push(...lists(inner, key === "results" ? name : key));
  }
  return parts;
}

/** Names of a face, nearest first. */
function matches({ matches: found, threshold, metric }) {
  const rows = found.map(({ name, distance, verified }) =>
    element(
      "li",
      {},
      element("span", { textContent: verified ? `${name}: the same person` : name }),
      element("span", { className: "number", textContent: distance.toFixed(3) }),
      element("meter", { min: 0, max: 2 * threshold || 1, low: threshold, high: threshold, optimum: 0, value: distance }),
    ),
  );
  const list = element("ol", { className: "rows", ariaLabel: "matches" }, ...rows);
  const text = `${metric} distance; the same person up to ${threshold}`;
  return element("figure", {}, element("figcaption", { className: "muted", textContent: text }), list);
}

/** The answer with the face labelled by the name that it was given. */
function named(answer) {
  const best = answer.matches?.[0];
  return answer.probe && best?.verified ? { ...answer, probe: { ...answer.probe, label: best.name } } : answer;
}

function labels(entries, name) {
  const rows = entries.map(({ label, score }) =>
    element(
      "li",
      {},
      element("span", { textContent: label }),
      element("span", { className: "number", textContent: score.toFixed(4) }),
      element("meter", { min: 0, max: 1, value: score }),
    ),
  );
  return element("ol", { className: "rows", ariaLabel: name || "labels" }, ...rows);
}

function places(view, found, name) {
  const rows = found.map((one, index) => {
    const button = element("button", { type: "button" }, element("span", { className: "swatch" }), one.label);
    button.firstChild.style.background = colour(one.index);
    for (const event of ["focus", "pointerenter"]) button.addEventListener(event, () => view.choose(index));
    for (const event of ["blur", "pointerleave"]) button.addEventListener(event, () => view.choose(-1));
    button.title = caption(one);
    return element("li", {}, button, element("span", { className: "number", textContent: one.score?.toFixed(4) ?? "" }));
  });
  return element("ul", { className: "rows", ariaLabel: name || "found" }, ...rows);
}

function embedding(numbers, name) {
  const some = numbers.slice(0, SHOWN);
  const most = Math.max(...some.map(Math.abs), 1e-9);
  const bars = some.map((number, index) => {
    const height = (Math.abs(number) / most) * 30;
    return svg("rect", { x: index, y: number < 0 ? 30 : 30 - height, width: 1, height, fill: number < 0 ? "#c2410c" : "#0369a1" });
  });
  const chart = svg("svg", { viewBox: `0 0 ${some.length} 60`, preserveAspectRatio: "none", role: "img" }, ...bars);
  chart.setAttribute("aria-label", "the embedding as bars");
  const part = name && Number.isNaN(Number(name)) ? `${name}: ` : "";
  const text = `${part}${numbers.length} numbers, the first ${some.length}:`;
  return element("figure", {}, element("figcaption", { className: "muted", textContent: text }), chart);
}

/** The distance of two faces on a scale with the threshold. */
function verdict({ verified, distance, threshold, metric }) {
  const most = Math.max(distance, threshold) * 1.4;
  const at = (value) => 10 + (280 * value) / most;
  const mark = (value, text, y, fill) => [
    svg("line", { x1: at(value), x2: at(value), y1: 25, y2: 45, stroke: fill, "stroke-width": 3 }),
    Object.assign(svg("text", { x: at(value), y, fill, "font-size": 11, "text-anchor": "middle" }), { textContent: text }),
  ];
  const chart = svg(
    "svg",
    { viewBox: "0 0 300 62", role: "img" },
    svg("rect", { x: 10, y: 31, width: at(threshold) - 10, height: 8, fill: "#15803d" }),
    svg("rect", { x: at(threshold), y: 31, width: 290 - at(threshold), height: 8, fill: "#b3261e" }),
    ...mark(threshold, `threshold ${threshold}`, 18, "currentColor"),
    ...mark(distance, `${metric} distance ${distance.toFixed(3)}`, 58, "currentColor"),
  );
  chart.setAttribute("aria-label", `distance ${distance}, threshold ${threshold}`);
  const words = verified ? "The same person." : "Not the same person.";
  return element("figure", {}, element("figcaption", { textContent: words }), chart);
}

/** `Server-Timing` and what is left of the whole, as a bar. */
export function showTiming(parent, header, whole) {
  const steps = [...(header ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
  const known = steps.reduce((sum, [, ms]) => sum + ms, 0);
  steps.push(["other", Math.max(0, whole - known)]);
  const track = element("div", { className: "track" });
  const legend = element("div", { className: "legend" });
  steps.forEach(([name, ms], index) => {
    const part = element("span");
    part.style.flexGrow = String(ms);
    part.style.background = colour(index);
    track.append(part);
    const entry = element("span", {}, element("span", { className: "swatch" }), `${name} ${ms.toFixed(1)} ms`);
    entry.firstChild.style.background = colour(index);
    legend.append(entry);
  });
  parent.replaceChildren(track, legend);
  parent.hidden = false;
}
