// The page: a tab for each task that the service has, made from its OpenAPI document.

import { showAnswer, showTiming } from "./answer.js";
import { controls, values } from "./controls.js";
import { byId, element } from "./dom.js";
import { Gallery } from "./gallery.js";
import { follow } from "./job.js";
import { View } from "./view.js";

const SAMPLES = ["cat", "coffee", "astronaut"];
const DEBOUNCE_MS = 120;
const OF_MODEL = "/v1/models/{name}/"; // paths of what shows a model itself, which is chosen as a parameter
const MODEL = "model";

const state = { key: "", tasks: [], models: [], task: null, files: new Map(), views: new Map(), choices: {}, running: null, timer: 0 };
const isFile = (schema) => (schema.items ?? schema).format === "binary";

const api = {
  /** fetch with the API key; a problem is thrown as an Error with its text. */
  async request(path, { method = "GET", body, headers = {}, signal } = {}) {
    const all = state.key ? { ...headers, "X-API-Key": state.key } : headers;
    const response = await fetch(path, { method, body, headers: all, signal });
    if (response.status === 401) byId("key-form").hidden = false;
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail ?? problem.title ?? `${response.status} ${response.statusText}`);
  },
};

const gallery = new Gallery(api, () => later());

/** The tasks that take images, and what shows a model itself, as far as their models are served. */
function tasksOf(document, models) {
  const kinds = new Set(models.map((model) => model.task));
  const found = [];
  for (const [path, methods] of Object.entries(document.paths)) {
    const isOfModel = path.startsWith(OF_MODEL);
    const method = methods.post ? "post" : isOfModel ? "get" : "";
    const operation = methods[method];
    const form = operation?.requestBody?.content["multipart/form-data"]?.schema;
    const parameters = (operation?.parameters ?? []).filter((one) => one.in === "query");
    if (isOfModel) {
      const model = operation.parameters.find((one) => one.in === "path");
      if (parameters.length > 0) parameters.unshift({ ...model, name: MODEL, "x-model-kind": model["x-model-kind"] ?? "any" });
    }
    const missing = parameters.some((one) => one["x-model-kind"] && one["x-model-kind"] !== "any" && !kinds.has(one["x-model-kind"]));
    if (!(form || (isOfModel && parameters.length > 0)) || !path.startsWith("/v1/") || missing) continue;
    const [status, good] = Object.entries(operation.responses).find(([code]) => code.startsWith("2"));
    const content = Object.keys(good.content ?? {});
    const fields = form?.properties ?? {};
    found.push({
      method: method.toUpperCase(),
      path: path.slice(1),
      name: path.slice((isOfModel ? OF_MODEL : "/v1/").length),
      summary: operation.description ?? operation.summary,
      slots: Object.keys(fields).filter((name) => isFile(fields[name])),
      hasGallery: "gallery" in fields,
      parameters,
      isJob: status === "202",
      hasJson: content.includes("application/json"),
      imageFirst: Boolean(operation["x-image-first"]) || !content.includes("application/json"),
    });
  }
  return found;
}

function choicesOf(task, models) {
  const choices = { ...state.choices };
  for (const { name, "x-model-kind": kind } of task.parameters) {
    if (kind) choices[name] = { names: models.filter((model) => kind === "any" || model.task === kind).map((model) => model.name) };
    if (name === "layer") choices[name] = { suggestions: "layers" };
  }
  return choices;
}

function open(task, models) {
  state.task = task;
  for (const tab of byId("tabs").children) {
    const selected = tab.dataset.path === task.path;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    if (selected) byId("panel").setAttribute("aria-labelledby", tab.id);
  }
  byId("summary").textContent = task.summary;
  controls(byId("controls"), task.parameters, choicesOf(task, models), () => later());
  byId("parameters").hidden = task.parameters.length === 0;
  byId("json-details").hidden = !task.hasJson;
  byId("slots").replaceChildren(...task.slots.map(slot), ...(task.hasGallery ? [gallery.element] : []));
  byId("controls").querySelector("[name=layer]")?.addEventListener("focus", () => suggestLayers(task, models).catch(() => undefined));
  clear();
  if (task.slots.length === 0) later(0);
  const last = [...state.files.values()].at(-1);
  if (task.slots.length === 1 && last) put(task.slots[0], last);
}

/** The model that is chosen, or the default one of its kind. */
function modelOf(task, models = state.models) {
  const kind = task.parameters.find((one) => one.name === MODEL)?.["x-model-kind"];
  const served = models.filter((model) => kind === "any" || model.task === kind);
  return values(byId("controls")).get(MODEL) ?? (served.find((model) => model.default) ?? served[0])?.name ?? "";
}

/** Names of the model's layers below the field for one. */
async function suggestLayers(task, models) {
  const { layers } = await (await api.request(`v1/models/${encodeURIComponent(modelOf(task, models))}/layers`)).json();
  const options = layers.map(({ name, shape }) => element("option", { value: name, label: shape.join(" × ") }));
  byId("layers").replaceChildren(...options);
}

function clear() {
  state.running?.abort();
  for (const id of ["answer", "json", "status"]) byId(id).replaceChildren();
  byId("problem").hidden = byId("timing").hidden = true;
  curl();
}

/** A place for an image: dropped, chosen or pasted. */
function slot(name) {
  const input = element("input", { type: "file", accept: "image/*", ariaLabel: `image ${name}` });
  const hint = element("p", { className: "muted", textContent: "or drop or paste an image here" });
  const shown = element("div", { className: "shown" }, hint);
  const box = element("div", { className: "slot" }, element("h2", { textContent: name }), input, shown);
  box.dataset.name = name;
  input.addEventListener("change", () => input.files[0] && put(name, input.files[0]));
  box.addEventListener("dragover", (event) => {
    event.preventDefault();
    box.classList.add("over");
  });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("over");
    if (event.dataTransfer.files[0]) put(name, event.dataTransfer.files[0]);
  });
  state.views.delete(name);
  return box;
}

/** The first slot without an image, or the last. */
const nextSlot = () => state.task.slots.find((name) => !state.views.has(name)) ?? state.task.slots.at(-1);

async function put(name, file) {
  const { task } = state;
  if (name === undefined) return; // it takes no image
  state.files.set(name, file);
  const shown = [...byId("slots").children].find((box) => box.dataset.name === name).querySelector(".shown");
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (state.task !== task) return;
  const view = bitmap ? new View(bitmap) : { bitmap: { width: 1, height: 1 }, show() {}, choose() {} };
  state.views.set(name, view);
  shown.replaceChildren(view.element ?? element("p", { className: "muted", textContent: `${file.name}: this browser cannot show it` }));
  if (!task.isJob) later(0);
  else curl();
}

function later(wait = DEBOUNCE_MS) {
  clearTimeout(state.timer);
  curl();
  if (!state.task.isJob) state.timer = setTimeout(run, wait);
}

const complete = () =>
  state.task.slots.every((name) => state.views.has(name) && state.files.has(name)) && !(state.task.hasGallery && gallery.isEmpty);

function address() {
  const { task } = state;
  const chosen = values(byId("controls"));
  const isOfModel = `/${task.path}`.startsWith(OF_MODEL);
  const path = isOfModel ? task.path.replace("{name}", encodeURIComponent(modelOf(task))) : task.path;
  if (isOfModel) chosen.delete(MODEL);
  const query = new URLSearchParams([...chosen]).toString();
  return path + (query ? `?${query}` : "");
}

/** Runs the task on the images that are there. */
async function run() {
  const { task } = state;
  if (!complete()) return;
  state.running?.abort();
  const running = (state.running = new AbortController());
  const begin = performance.now();
  byId("status").textContent = "running";
  byId("problem").hidden = true;
  try {
    const response = await send(task.imageFirst ? "image/jpeg" : "application/json", running.signal);
    await show(task, response, performance.now() - begin, running.signal);
    byId("status").textContent = "done";
  } catch (error) {
    if (running.signal.aborted) return;
    byId("status").textContent = "";
    byId("problem").textContent = error.message;
    byId("problem").hidden = false;
    byId("answer").replaceChildren();
    for (const view of state.views.values()) view.show([]);
  }
}

async function send(accept, signal) {
  const { method } = state.task;
  if (state.task.slots.length === 0) return api.request(address(), { method, headers: { Accept: accept }, signal });
  const form = new FormData();
  if (state.task.hasGallery) form.append("gallery", JSON.stringify(await gallery.entries(values(byId("controls")), signal)));
  for (const name of state.task.slots) form.append(name, state.files.get(name), state.files.get(name).name || name);
  return api.request(address(), { method, body: form, headers: { Accept: accept }, signal });
}

async function show(task, response, whole, signal) {
  showTiming(byId("timing"), response.headers.get("Server-Timing"), whole);
  if (response.headers.get("Content-Type").startsWith("image/")) {
    const image = element("img", { className: "drawn", alt: response.headers.get("X-Explanation") ?? `the answer of ${task.name}` });
    image.src = URL.createObjectURL(await response.blob());
    image.addEventListener("load", () => URL.revokeObjectURL(image.src));
    byId("answer").replaceChildren(image);
    byId("json").textContent = "";
    if (byId("json-details").open) await showJson();
    return;
  }
  const answer = await response.json();
  byId("json").textContent = JSON.stringify(answer, null, 1);
  if (task.isJob) await follow(byId("answer"), answer, api, signal);
  else showAnswer(byId("answer"), answer, state.views, values(byId("controls")));
}

/** The JSON of a task whose first answer is an image, when it is asked for. */
async function showJson() {
  if (!state.task.imageFirst || !state.task.hasJson || !complete() || byId("json").textContent) return;
  const response = await send("application/json");
  byId("json").textContent = JSON.stringify(await response.json(), null, 1);
}

/** The command that does the same. */
function curl() {
  const { task } = state;
  const parts = [task.slots.length === 0 && task.method === "POST" ? "curl -sS -X POST" : "curl -sS"];
  if (state.key) parts.push('-H "X-API-Key: $KEY"');
  if (task.imageFirst) parts.push("-H 'Accept: image/jpeg' -o answer.jpg");
  for (const name of task.slots) parts.push(`-F '${name}=@${(state.files.get(name)?.name ?? `${name}.jpg`).replaceAll("'", "")}'`);
  if (task.hasGallery) parts.push("-F 'gallery=<gallery.json'");
  byId("curl").textContent = `${parts.join(" ")} '${new URL(address(), document.baseURI)}'`;
}

async function camera() {
  const video = byId("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    byId("problem").textContent = `no camera: ${error.message}`;
    byId("problem").hidden = false;
    return;
  }
  await video.play();
  byId("camera-dialog").showModal();
}

function shoot() {
  const video = byId("video");
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => put(nextSlot(), new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.95);
  byId("camera-dialog").close();
}

function tabKeys(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = [...byId("tabs").children];
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  next.focus();
  next.click();
}

async function start() {
  const document_ = await (await api.request("openapi.json")).json();
  const { models } = await (await api.request("v1/models")).json();
  if (models.some((model) => model.task === "style")) {
    const { styles } = await (await api.request("v1/styles")).json();
    state.choices.style = {
      thumbnails: styles.map((one) => ({ value: one.name, title: one.title, image: one.thumbnail?.slice(1) ?? "" })),
    };
  }
  state.models = models;
  state.tasks = tasksOf(document_, models);
  byId("tabs").replaceChildren(
    ...state.tasks.map((task, index) => {
      const tab = element("button", { type: "button", role: "tab", id: `tab-${index}`, textContent: task.name.replaceAll("/", " ") });
      tab.dataset.path = task.path;
      tab.setAttribute("aria-controls", "panel");
      tab.addEventListener("click", () => open(task, models));
      return tab;
    }),
  );
  if (state.tasks.length > 0) open(state.tasks[0], models);
  else byId("summary").textContent = "No model is served.";
}

function begin() {
  byId("problem").hidden = true;
  start().catch((error) => {
    byId("problem").textContent = error.message;
    byId("problem").hidden = false;
  });
}

byId("samples").append(
  ...SAMPLES.map((name) => {
    const image = element("img", { src: `ui/sample-${name}.jpg`, alt: `sample: ${name}` });
    const button = element("button", { type: "button", className: "sample" }, image);
    button.addEventListener("click", async () => {
      const blob = await (await fetch(image.src)).blob();
      await put(nextSlot(), new File([blob], `${name}.jpg`, { type: "image/jpeg" }));
    });
    return button;
  }),
);
byId("camera").addEventListener("click", camera);
byId("shoot").addEventListener("click", shoot);
byId("camera-close").addEventListener("click", () => byId("camera-dialog").close());
byId("camera-dialog").addEventListener("close", () => byId("video").srcObject?.getTracks().forEach((track) => track.stop()));
byId("again").addEventListener("click", run);
byId("copy").addEventListener("click", () => navigator.clipboard.writeText(byId("curl").textContent));
byId("json-details").addEventListener("toggle", () => byId("json-details").open && showJson().catch(() => undefined));
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("tabs").addEventListener("keydown", tabKeys);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = byId("key").value.trim();
  byId("key-form").hidden = true;
  begin();
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) put(nextSlot(), file);
});
begin();
