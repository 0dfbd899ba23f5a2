// A job: its progress, its preview, its result, and a way to end it.

import { element } from "./dom.js";

const POLL_MS = 500;

/** Follows the job that was accepted until it ends; `api.request` as in page.js. */
export async function follow(parent, job, api, signal) {
  const bar = element("progress", { max: 1, value: 0, ariaLabel: "progress of the job" });
  const words = element("p", { className: "muted" });
  const image = element("img", { alt: "the image as it is so far", hidden: true });
  const cancel = element("button", { type: "button", textContent: "Cancel" });
  const path = `v1/jobs/${job.id}`;
  cancel.addEventListener("click", () => api.request(path, { method: "DELETE" }).catch(() => undefined));
  parent.replaceChildren(bar, words, image, cancel);
  const show = async (at) => {
    const response = await api.request(at, { signal });
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(await response.blob());
    image.hidden = false;
  };
  let seen = null;
  for (let state = job; ; ) {
    bar.value = state.progress;
    const rest = state.eta_seconds ? `, about ${Math.ceil(state.eta_seconds)} s more` : "";
    words.textContent = `${state.state}: step ${state.step} of ${state.steps}${rest}${state.reason ? `: ${state.reason}` : ""}`;
    if (state.state === "succeeded") await show(`${path}/result`);
    else if (state.preview && state.step !== seen) {
      seen = state.step;
      await show(`${path}/preview`);
    }
    if (!["queued", "running"].includes(state.state)) break;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (signal.aborted) return;
    state = await (await api.request(path, { signal })).json();
  }
  cancel.hidden = true;
}
