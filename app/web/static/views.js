// The views of the page. The fragment of its address says which one is shown, and with what: `#history?status=failed`.
// `#batch=…` and `#job=…` are things of the view Remove.

import { $ } from "./common.js";

const FIRST = "remove";

const views = new Map();
let shown = null; // the name of the view that is shown
let thing = `#${FIRST}`; // the address of what the view Remove shows

/**
 * Add a view, whose markup is in views/NAME.html.
 * @param {{show?: (query: URLSearchParams) => void, hide?: () => void}} view `show` is called each time when the view
 *   is shown and when its query changes; `hide` when another view takes its place
 */
export function registerView(name, view) {
  views.set(name, view);
}

export const isShown = (name) => shown === name;

/** Whether a view is shown and the address still leads to it: an address that was just changed shows its view later. */
const isStaying = (name) => isShown(name) && wanted()[0] === name;

/** Put a query into the address of the view that is shown, without a new entry in the browser's history. */
export function replaceQuery(query) {
  if (!isStaying(shown)) return;
  const text = query.toString();
  history.replaceState(null, "", text ? `#${shown}?${text}` : `#${shown}`);
  linkTo(shown).href = location.hash;
}

/**
 * Let the address name a thing of the view Remove, such as `#job=…`; `#remove` names none.
 * @param isNew whether it gets an entry of its own in the browser's history
 */
export function nameThing(fragment, { isNew = false } = {}) {
  thing = fragment;
  linkTo(FIRST).href = fragment;
  if (!isStaying(FIRST)) return;
  if (isNew) history.pushState(null, "", fragment);
  else history.replaceState(null, "", fragment);
}

/** An address without a thing leads to what came while another view was shown. */
function findThing() {
  if (location.hash.includes("=")) thing = location.hash;
  else if (thing !== `#${FIRST}`) history.replaceState(null, "", thing);
}

const linkTo = (name) => document.querySelector(`nav [data-to="${name}"]`);

function wanted() {
  const [name, query = ""] = location.hash.slice(1).split("?");
  return views.has(name) ? [name, query] : [FIRST, ""];
}

function show({ isFirst = false } = {}) {
  const [name, query] = wanted();
  if (shown !== name) {
    if (shown) views.get(shown).hide?.();
    shown = name;
    for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== name;
    for (const link of document.querySelectorAll("nav [data-to]")) {
      link.ariaCurrent = link.dataset.to === name ? "page" : null;
    }
    const title = $(`${name}-title`);
    document.title = name === FIRST ? "Cutout" : `${title.textContent} · Cutout`;
    if (!isFirst) {
      scrollTo(0, 0);
      title.focus({ preventScroll: true }); // the keyboard and a screen reader begin at the new view
    }
  }
  if (name === FIRST) findThing();
  // The link leads back to what the view shows now.
  if (location.hash) linkTo(name).href = location.hash;
  views.get(name).show?.(new URLSearchParams(query));
}

/** Show the view that the address names; with `takesFocus`, the keyboard begins at it. */
export function startViews({ takesFocus }) {
  addEventListener("hashchange", show);
  show({ isFirst: !takesFocus });
}
