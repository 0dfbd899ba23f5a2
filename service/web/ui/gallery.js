// Known faces: photographs that the visitor names by their files, and their embeddings, kept in this page alone.

import { element } from "./dom.js";

const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);

export class Gallery {
  /** `api`: see page.js; `changed` is called when a face is added or removed. The place for it is `this.element`. */
  constructor(api, changed) {
    this.api = api;
    this.changed = changed;
    this.files = new Map(); // name -> File
    this.known = new Map(); // name and models -> embedding
    this.list = element("ul", { className: "rows", ariaLabel: "known faces" });
    const input = element("input", { type: "file", accept: "image/*", multiple: true, ariaLabel: "known faces" });
    input.addEventListener("change", () => this.add(input.files));
    const hint = element("p", { className: "muted", textContent: "one photo of each, named by its file; drop or choose several" });
    this.element = element("div", { className: "slot" }, element("h2", { textContent: "gallery" }), input, hint, this.list);
    this.element.dataset.name = "gallery";
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      this.add(event.dataTransfer.files);
    });
  }

  get isEmpty() {
    return this.files.size === 0;
  }

  add(files) {
    for (const file of files) this.files.set(file.name.replace(/\.\w+$/, ""), file);
    this.show();
  }

  show() {
    const rows = [...this.files.keys()].map((name) => {
      const remove = element("button", { type: "button", textContent: "Remove", ariaLabel: `remove ${name}` });
      remove.addEventListener("click", () => {
        this.files.delete(name);
        this.show();
      });
      return element("li", {}, element("span", { textContent: name }), remove);
    });
    this.list.replaceChildren(...rows);
    this.changed();
  }

  /** [{name, embedding}] of the largest face of each photo, by the models among the parameters. */
  async entries(parameters, signal) {
    const chosen = ["model", "embedder"].filter((name) => parameters.has(name));
    const query = new URLSearchParams(chosen.map((name) => [name, parameters.get(name)])).toString();
    return Promise.all([...this.files].map(([name, file]) => this.entry(name, file, query, signal)));
  }

  async entry(name, file, query, signal) {
    const key = JSON.stringify([name, file.size, file.lastModified, query]);
    if (!this.known.has(key)) {
      const headers = { "Content-Type": "application/octet-stream" };
      const response = await this.api.request(`v1/faces/embed?${query}`, { method: "POST", body: file, headers, signal });
      const { faces } = await response.json();
      if (faces.length === 0) throw new Error(`no face was found in ${file.name}`);
      const largest = faces.reduce((best, face) => (area(face) > area(best) ? face : best));
      this.known.set(key, largest.embedding);
    }
    return { name, embedding: this.known.get(key) };
  }
}
