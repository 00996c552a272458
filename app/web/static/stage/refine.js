// Refinements: the first job's result, made again with the strokes of the brush. A large photo's is shown in a small picture
// first, which the service makes at once, and in full size when the brush rests. There is one request of each kind at a
// time, the latest state wins, and what was answered before is not asked for again.

import { API, call, callForPicture } from "../common.js";
import { withinOf } from "./box.js";
import { keyOf, masksOf } from "./brush.js";
import { shownUrl } from "../remove/places.js";

const PAUSE_MS = 120; // after a stroke, since another may follow
const REST_MS = 2500; // after the last stroke; the full size takes the service's time from the next view
const CLOSE_REST_MS = 500; // where the view is too small for what is seen
const NO_VIEW = 409;

/** The body of a refinement with the strokes of a state, and these fields beside them. */
export async function refinement(state, fields = {}) {
  const form = new FormData();
  for (const [name, mask] of Object.entries(await masksOf(state))) form.set(name, mask, `${name}.png`);
  const within = withinOf(state);
  if (within) form.set("within", within);
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  return form;
}

export const refine = (jobId, form) => call(`${API}/jobs/${jobId}/refine`, { method: "POST", body: form });

/** The URL of a picture of a refinement to look at, of at most so many pixels. */
function view(jobId, form, pixels) {
  form.set("viewMegapixels", (pixels / 1e6).toFixed(3));
  return callForPicture(`${API}/jobs/${jobId}/refine/view`, { method: "POST", body: form });
}

/**
 * Return a function that takes the strokes that hold now, and sees to it that their result is shown.
 * @param first the first job, which is the result without strokes
 * @param ways `show(url, job, state, isWanted)`, which may take its time, with no job for a view; `working()`;
 *   `failed(error)`; `viewPixels()`, the pixels that a view needs, 0 for none; `isClose()`, whether a view has too few now
 * @param known the job that is shown, and its strokes
 */
export function refinerOf(first, { show, working, failed, viewPixels, isClose }, known = { job: first, state: [] }) {
  const jobs = new Map([["", first], [keyOf(known.state), known.job]]); // by the keys of states
  const views = new Map();
  const making = new Map(); // promises of jobs
  let pixels = 0;
  let ready = Promise.resolve(); // when the service knows the photo
  let canView = true;
  let wanted = known.state;
  let isBusy = false;
  let isForgotten = false;
  let timer = 0;

  const isWanted = (key) => keyOf(wanted) === key;
  const showing = (state, url, job) => show(url, job, state, () => isWanted(keyOf(state)));

  /** Return the job of a state, which is made if it was not yet. */
  function jobOf(state) {
    const key = keyOf(state);
    if (jobs.has(key)) return Promise.resolve(jobs.get(key));
    if (!making.has(key)) making.set(key, made(state).finally(() => making.delete(key)));
    return making.get(key);
  }

  async function made(state) {
    const form = await refinement(state);
    // Strokes beside the photo change nothing.
    const job = [...form.keys()].length ? await refine(first.jobId, form) : first;
    jobs.set(keyOf(state), job);
    return job;
  }

  async function viewOf(state) {
    const form = await refinement(state);
    await ready;
    if (!canView || !pixels || ![...form.keys()].length) return null;
    const url = await viewed(form);
    if (url) views.set(keyOf(state), url);
    return url;
  }

  async function viewed(form) {
    try {
      return await view(first.jobId, form, pixels);
    } catch (error) {
      if (error.status !== NO_VIEW) throw error;
      canView = false;
      return null;
    }
  }

  async function next() {
    const state = wanted;
    const key = keyOf(state);
    isBusy = true;
    try {
      const url = await viewOf(state);
      const job = url ? null : await jobOf(state);
      if (isWanted(key)) await showing(state, url ?? shownUrl(job), job);
      if (isWanted(key) && url) rest(isClose() ? CLOSE_REST_MS : REST_MS);
    } catch (error) {
      if (isWanted(key)) failed(error);
    } finally {
      isBusy = false;
      if (!isWanted(key)) want(wanted, 0);
    }
  }

  /** Show the full size of what is wanted once the brush has rested for a while. */
  function rest(pause) {
    clearTimeout(timer);
    if (!isForgotten) timer = setTimeout(full, pause);
  }

  async function full() {
    clearTimeout(timer);
    const state = wanted;
    if (making.size && !making.has(keyOf(state))) return void rest(PAUSE_MS);
    try {
      const job = await jobOf(state);
      if (isWanted(keyOf(state))) await showing(state, shownUrl(job), job);
    } catch {
      // The view stays; whoever saves it or looks closer is told.
    }
  }

  function want(state, pause = pixels && canView ? 0 : PAUSE_MS) {
    wanted = state;
    clearTimeout(timer);
    const key = keyOf(state);
    if (jobs.has(key)) return void showing(state, shownUrl(jobs.get(key)), jobs.get(key));
    if (views.has(key)) {
      showing(state, views.get(key), null);
      return void rest(isClose() ? CLOSE_REST_MS : REST_MS);
    }
    working();
    if (!isBusy) timer = setTimeout(next, pause);
  }

  return {
    first,
    want,
    jobOf,
    /** Make ready for strokes: the service then knows the photo when the first one comes. */
    prepare() {
      if (pixels || !canView) return;
      pixels = viewPixels();
      if (pixels) ready = viewed(new FormData()).then((url) => url && URL.revokeObjectURL(url), () => {});
    },
    /** Show the full size soon if somebody looks closer than the view allows. */
    closer() {
      const key = keyOf(wanted);
      if (views.has(key) && !jobs.has(key) && isClose()) rest(CLOSE_REST_MS);
    },
    forget() {
      isForgotten = true;
      clearTimeout(timer);
      for (const url of views.values()) URL.revokeObjectURL(url);
      views.clear();
    },
  };
}
