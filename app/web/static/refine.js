// Refinements: the first job's result, made again with the strokes of the brush. There is one request at a time, the
// latest state wins, and states that were answered before are not asked for again.

import { API, call } from "./common.js";
import { withinOf } from "./box.js";
import { keyOf, masksOf } from "./brush.js";

const PAUSE_MS = 120; // after a stroke, since another may follow

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

/**
 * Return a function that takes the strokes that hold now, and sees to it that their result is shown.
 * @param first the first job, which is the result without strokes
 * @param ways `show(job, state, isWanted)`, which may take its time; `working()`; `failed(error)`
 * @param known the job that is shown, and its strokes
 */
export function refinerOf(first, { show, working, failed }, known = { job: first, state: [] }) {
  const answers = new Map([["", first], [keyOf(known.state), known.job]]);
  let wanted = [];
  let isBusy = false;
  let timer = 0;

  const isWanted = (key) => keyOf(wanted) === key;

  async function next() {
    const state = wanted;
    const key = keyOf(state);
    isBusy = true;
    try {
      const form = await refinement(state);
      // Strokes beside the photo change nothing.
      const job = [...form.keys()].length ? await refine(first.jobId, form) : first;
      answers.set(key, job);
      if (isWanted(key)) await show(job, state, () => isWanted(key));
    } catch (error) {
      if (isWanted(key)) failed(error);
    } finally {
      isBusy = false;
      if (!isWanted(key)) want(wanted, 0);
    }
  }

  function want(state, pause = PAUSE_MS) {
    wanted = state;
    clearTimeout(timer);
    const key = keyOf(state);
    const known = answers.get(key);
    if (known) {
      show(known, state, () => isWanted(key));
      return;
    }
    working();
    if (!isBusy) timer = setTimeout(next, pause);
  }

  return want;
}
