// Shared helpers: elements, the status line and API calls.

import { plural, t } from "./words.js";

// The service's address as this page sees it. A proxy may serve it below a path that the service does not know.
export const ROOT = new URL("..", import.meta.url).href;

export const API = `${ROOT}api/background-remover`;

// Pages of other origins cannot send a header of this name.
export const OWN = { Accept: "application/json", "X-Cutout-Page": "1" };

export const $ = (id) => document.getElementById(id);

/**
 * Make an element: `element("li", { className: "failed" }, "text", otherElement)`. Properties with a dash are attributes.
 * @param {...(Node|string)} children
 */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function say(text, kind) {
  $("status").textContent = text;
  $("status").className = kind;
  $("status").hidden = false;
}

export function sayNothing() {
  $("status").hidden = true;
}

/** Say what an error is, with the way to what helps where there is one. */
export function complain(error) {
  say(error.message, "error");
  if (error.code === "INSUFFICIENT_CREDITS") $("status").append(" ", linkToCredits());
}

/**
 * Return a handler of an event that does nothing while its last call runs: pressed twice, it acts once. The button stays
 * enabled, since a disabled one would lose the focus.
 */
export function oneAtATime(act) {
  let isRunning = false;
  return async (event) => {
    event.preventDefault();
    if (isRunning) return;
    isRunning = true;
    try {
      await act(event);
    } finally {
      isRunning = false;
    }
  };
}

/** Give the keyboard's focus to an element, if what had it is gone. */
export function keepFocus(place) {
  const held = document.activeElement;
  if (!held || held === document.body || !held.checkVisibility()) place.focus({ preventScroll: true });
}

/** A button that tries again; `place` gets the focus if the button goes with what it says. */
export function tryAgain(act, place) {
  const button = element("button", { className: "plain", type: "button" }, t("Try again"));
  button.addEventListener("click", () => {
    act();
    keepFocus(place);
  });
  return button;
}

export const linkToCredits = () => element("a", { href: "#account" }, t("See your credits"));

/** An error response of the service; `status` is 0 if it did not respond, `retryAfter` are seconds or null. */
export class Refusal extends Error {
  constructor(message, status = 0, code = "", retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }

  static of(status, body, retryAfter = "") {
    const seconds = /^\d+$/.test(retryAfter ?? "") ? Math.max(1, Number(retryAfter)) : null;
    return new Refusal(body?.detail || adviceFor(status), status, body?.code, seconds);
  }
}

/** Advice on an answer that comes from a proxy in front of the service, or from something else there. */
function adviceFor(status) {
  if (status === 413) return t("The upload is too large for a server in between. Send smaller photos, or fewer at once.");
  if ([502, 503, 504].includes(status)) {
    return t("The service is not there at the moment; it may be starting. Nothing was charged. Try again in a moment.");
  }
  if (status >= 500) return t("The service failed ({status}). Nothing was charged. Try again; its log says more.", { status });
  return t("The service answered {status}.", { status });
}

/** The error of a request that got no answer. */
export const unreachable = () =>
  new Refusal(
    navigator.onLine
      ? t("The service cannot be reached. Is it still running?")
      : t("You are offline. Connect to the network and try again; nothing is lost."),
  );

// Longer waits are told, and left to the reader.
const LONGEST_WAIT_SECONDS = 90;
const MOST_REPEATS = 5;
// These last until somebody mends something.
const LASTING = ["QUEUE_UNAVAILABLE", "STORAGE_UNAVAILABLE"];

/** Wait whole seconds, and tell each second how many are left, and when they are over. An aborted `signal` ends it at once. */
export async function wait(seconds, tell, signal) {
  for (let left = seconds; left > 0 && !signal?.aborted; left--) {
    tell?.(plural(left, "Trying again in {count} second …", "Trying again in {count} seconds …"));
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, 1000);
      signal?.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
    });
  }
  if (!signal?.aborted) tell?.(t("Trying again …"));
}

/**
 * Do what the service may refuse for a while, again as soon as it allows that. Only for what may be done twice.
 * @param tell is told the reason and how long it takes yet
 */
export async function insist(act, tell, signal) {
  for (let repeats = 0; ; repeats++) {
    try {
      return await act();
    } catch (error) {
      const isSoon = error.retryAfter && error.retryAfter <= LONGEST_WAIT_SECONDS && !LASTING.includes(error.code);
      if (!isSoon || ![429, 503].includes(error.status) || repeats === MOST_REPEATS) throw error;
      await wait(error.retryAfter, tell && ((text) => tell(`${error.message} ${text}`)), signal);
      if (signal?.aborted) throw error;
    }
  }
}

/** Call the service, and return its response; a refusal is thrown. */
async function answered(url, init = {}) {
  let answer;
  try {
    answer = await fetch(url, { ...init, headers: { ...OWN, ...init.headers } });
  } catch {
    throw unreachable();
  }
  if (answer.ok) return answer;
  const body = parsed(await answer.text().catch(() => ""));
  throw Refusal.of(answer.status, body, answer.headers.get("Retry-After"));
}

/** Call the service, and return what the body says. */
export const ask = async (url, init) => parsed(await (await answered(url, init)).text().catch(() => ""));

/** Read JSON of the service. Paths in it, as in `resultUrl`, become addresses that hold for this page; no JSON is `{}`. */
export function parsed(text) {
  try {
    return JSON.parse(text, (name, value) => (name.endsWith("Url") ? addressOf(value) : value)) ?? {};
  } catch {
    return {};
  }
}

const addressOf = (path) => (typeof path === "string" && path.startsWith("/") ? ROOT + path.slice(path.lastIndexOf("/api/") + 1) : path);

/** Have a person sign in again; the promise tells whether they did. Set by session.js. */
let signInAgain = async () => false;

export const onSessionEnd = (have) => (signInAgain = have);

/** Do what may find that the session has ended; where it has, once more when the person has signed in again. */
export async function signedIn(act) {
  try {
    return await act();
  } catch (error) {
    if (error.status !== 401) throw error;
    if (!(await signInAgain())) throw new Refusal(t("You are signed out. Sign in to go on."), 401);
    return signedIn(act);
  }
}

/**
 * Call the service. A GET that it refuses for a while is repeated by itself, another call with `repeats: true`.
 * @param init as for fetch, and `waits(text)`, which is told while it waits
 */
export function call(url, { waits, repeats, ...init } = {}) {
  const once = () => ask(url, init);
  return signedIn(() => ((repeats ?? !init.method) ? insist(once, waits, init.signal) : once()));
}

/** Call the service for a picture; the promise gives its URL, which is to be revoked. */
export const callForPicture = (url, init) =>
  signedIn(async () => URL.createObjectURL(await (await answered(url, init)).blob()));
