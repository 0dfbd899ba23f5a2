// An image on a canvas with what was found in it: boxes, landmarks, labels.

import { element } from "./dom.js";

const GOLDEN_ANGLE = 137.508;
const MAX_SIDE = 1600; // pixels of a canvas

/** One stable colour for a class, whatever else is in the image. */
export const colour = (index) => `hsl(${Math.round((index * GOLDEN_ANGLE) % 360)} 85% 55%)`;

/**
 * What an answer says of places in an image, at any depth: objects with a `box` of four numbers.
 * Gives [{box: [x1, y1, x2, y2] in pixels, label, score, landmarks, index}].
 */
export function regions(answer, parameters, size) {
  const found = [];
  const visit = (value) => {
    if (Array.isArray(value)) value.forEach(visit);
    else if (value !== null && typeof value === "object") {
      if (Array.isArray(value.box) && value.box.length === 4) found.push(value);
      Object.values(value).forEach(visit);
    }
  };
  visit(answer);
  return found.map((one) => ({
    box: corners(one.box, parameters, size),
    label: one.label ?? "face",
    score: one.score,
    landmarks: one.landmarks ?? [],
    index: one.class_id ?? one.index ?? 0,
  }));
}

function corners([a, b, c, d], parameters, size) {
  const normalized = [...parameters].some(([name, value]) => name.endsWith("normalized") && value === "true");
  const format = [...parameters].find(([name]) => name.endsWith("box_format"))?.[1] ?? "xyxy";
  const [w, h] = normalized ? [size.width, size.height] : [1, 1];
  const box = { xyxy: [a, b, c, d], xywh: [a, b, a + c, b + d], cxcywh: [a - c / 2, b - d / 2, a + c / 2, b + d / 2] }[format];
  return [box[0] * w, box[1] * h, box[2] * w, box[3] * h];
}

export class View {
  /** Shows `bitmap` (ImageBitmap) in a new element, `this.element`. */
  constructor(bitmap) {
    this.bitmap = bitmap;
    this.regions = [];
    this.chosen = -1;
    this.scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * this.scale)));
    this.canvas = element("canvas", { width, height });
    this.canvas.setAttribute("role", "img");
    this.tip = element("span", { className: "tip", hidden: true });
    this.element = element("div", { className: "view" }, this.canvas, this.tip);
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => this.choose(-1));
    this.draw();
  }

  /** Draws these regions; see `regions`. */
  show(regions) {
    this.regions = regions;
    this.chosen = -1;
    this.tip.hidden = true;
    const names = regions.map((one) => caption(one)).join(", ");
    this.canvas.setAttribute("aria-label", names ? `the image with ${names}` : "the image");
    this.draw();
  }

  /** Highlights one region; -1: none. */
  choose(index) {
    if (index === this.chosen) return;
    this.chosen = index;
    this.tip.hidden = index < 0;
    if (index >= 0) {
      const { box } = this.regions[index];
      const scale = this.canvas.clientWidth / this.bitmap.width;
      this.tip.textContent = caption(this.regions[index]);
      this.tip.style.left = `${Math.max(0, box[0] * scale)}px`;
      this.tip.style.top = `${Math.max(0, box[1] * scale - 24)}px`;
    }
    this.draw();
  }

  hover({ offsetX, offsetY }) {
    const scale = this.bitmap.width / this.canvas.clientWidth;
    const [x, y] = [offsetX * scale, offsetY * scale];
    let [best, smallest] = [-1, Infinity];
    this.regions.forEach(({ box: [x1, y1, x2, y2] }, index) => {
      const area = (x2 - x1) * (y2 - y1);
      if (x >= x1 && x <= x2 && y >= y1 && y <= y2 && area < smallest) [best, smallest] = [index, area];
    });
    this.choose(best);
  }

  draw() {
    const { canvas, bitmap, scale } = this;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.drawImage(bitmap, 0, 0);
    const unit = Math.max(bitmap.width, bitmap.height) / 400; // readable at any size
    context.font = `600 ${10 * unit}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    this.regions.forEach((region, index) => {
      const [x1, y1, x2, y2] = region.box;
      const faded = this.chosen >= 0 && this.chosen !== index;
      context.globalAlpha = faded ? 0.25 : 1;
      context.lineWidth = (this.chosen === index ? 3 : 1.5) * unit;
      context.strokeStyle = context.fillStyle = colour(region.index);
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
      for (const [x, y] of region.landmarks) {
        context.beginPath();
        context.arc(x, y, 1.8 * unit, 0, 2 * Math.PI);
        context.fill();
      }
      const text = caption(region);
      const height = 12 * unit;
      const top = y1 >= height ? y1 - height : y1;
      context.fillRect(x1, top, context.measureText(text).width + 6 * unit, height);
      context.fillStyle = "#000";
      context.fillText(text, x1 + 3 * unit, top + height - unit);
    });
    context.globalAlpha = 1;
  }
}

export function caption({ label, score }) {
  return score === undefined ? label : `${label} ${score.toFixed(2)}`;
}
