// Controls of a task's parameters, made from its OpenAPI parameters.

import { element } from "./dom.js";

const DECIMALS = 3;

/** Fills a form with a control for each parameter; `changed` is called at every change. */
export function controls(form, parameters, choices, changed) {
  form.replaceChildren(...parameters.map((parameter) => control(parameter, choices, changed)));
}

/** What has been chosen, without what was left at its default: Map of name -> text. */
export function values(form) {
  const chosen = new Map();
  for (const input of form.querySelectorAll("[name]")) {
    if (input.type === "radio" && !input.checked) continue;
    const value = input.type === "checkbox" ? String(input.checked) : input.value.trim();
    if (value !== input.dataset.default && value !== "" && input.dataset.unset === undefined) {
      chosen.set(input.name, value);
    }
  }
  return chosen;
}

function control({ name, description, schema }, choices, changed) {
  const kind = schema.anyOf?.find((one) => one.type !== "null") ?? schema;
  const initial = schema.default ?? null;
  if (choices[name]?.thumbnails) return thumbnails(name, description, choices[name].thumbnails, changed);
  const options = choices[name]?.names ?? kind.enum;
  const input =
    options !== undefined ? select(options, initial) : kind.type === "boolean" ? checkbox(initial) : field(kind, initial);
  if (choices[name]?.suggestions) input.setAttribute("list", choices[name].suggestions);
  input.name = name;
  input.dataset.default = initial === null ? "" : String(initial);
  input.addEventListener("input", changed);
  const row = element("span", { className: "control" }, input);
  if (input.type === "range") row.append(...sliderParts(input, initial, changed));
  return element("label", {}, element("span", { textContent: name }), row, element("small", { textContent: description }));
}

function select(options, initial) {
  const first = initial === null ? [element("option", { value: "", textContent: "default" })] : [];
  const input = element("select", {}, ...first);
  input.append(...options.map((value) => element("option", { value, textContent: value })));
  input.value = initial ?? "";
  return input;
}

function checkbox(initial) {
  return element("input", { type: "checkbox", checked: initial === true });
}

function field(kind, initial) {
  if (kind.type !== "number" && kind.type !== "integer") {
    return element("input", { type: "text", value: initial ?? "", spellcheck: false });
  }
  const least = kind.minimum ?? kind.exclusiveMinimum;
  const most = kind.maximum ?? kind.exclusiveMaximum;
  const step = kind.type === "integer" ? 1 : (most - least) / 100;
  if (least === undefined || most === undefined) {
    const input = element("input", { type: "number", step: kind.type === "integer" ? 1 : "any", value: initial ?? "" });
    if (least !== undefined) input.min = least;
    return input;
  }
  const shift = kind.exclusiveMinimum === undefined ? 0 : step;
  const input = element("input", { type: "range", min: least + shift, max: most, step });
  input.value = initial ?? (least + most) / 2;
  return input;
}

/** The slider's value beside it, and a way back to the default. */
function sliderParts(input, initial, changed) {
  const output = element("output");
  const reset = element("button", { type: "button", textContent: "Reset", title: "back to the default" });
  const show = () => {
    const unset = input.dataset.unset !== undefined;
    output.textContent = unset ? "default" : String(Number(Number(input.value).toFixed(DECIMALS)));
    reset.hidden = unset || input.value === input.dataset.default;
  };
  const clear = () => {
    if (initial === null) input.dataset.unset = "";
    else input.value = initial;
    show();
  };
  input.addEventListener("input", () => {
    delete input.dataset.unset;
    show();
  });
  reset.addEventListener("click", () => {
    clear();
    changed();
  });
  clear();
  return [output, reset];
}

function thumbnails(name, description, entries, changed) {
  const items = entries.map(({ value, title, image }, index) => {
    const input = element("input", { type: "radio", name, value, checked: index === 0 });
    input.dataset.default = entries[0].value;
    input.addEventListener("input", changed);
    return element("label", {}, input, element("img", { src: image, alt: "" }), element("span", { textContent: title }));
  });
  const legend = element("legend", { textContent: name });
  const group = element("div", { className: "styles" }, ...items);
  return element("fieldset", {}, legend, group, element("small", { textContent: description }));
}
