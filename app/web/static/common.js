// Shared helpers: elements, the status line and API calls.

import { t } from "./words.js";

export const API = "api/background-remover";

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

export const linkToCredits = () => element("a", { href: "#account" }, t("See your credits"));

/** An error response of the service; `status` is 0 if it did not respond, `retryAfter` are seconds or null. */
export class Refusal extends Error {
  constructor(message, status = 0, code = "", retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }

  static of(status, body, retryAfter = "") {
    const seconds = /^\d+$/.test(retryAfter ?? "") ? Math.max(1, Number(retryAfter)) : null;
    return new Refusal(body?.detail || t("The service answered {status}.", { status }), status, body?.code, seconds);
  }
}

/** Call the service; a refusal is thrown. */
export async function ask(url, init = {}) {
  let answer;
  try {
    answer = await fetch(url, { ...init, headers: { ...OWN, ...init.headers } });
  } catch {
    throw new Refusal(t("The service cannot be reached. Is it still running?"));
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Refusal.of(answer.status, body, answer.headers.get("Retry-After"));
  return body;
}

/** Have a person sign in again; the promise tells whether they did. Set by session.js. */
export let signInAgain = async () => false;

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

export const call = (url, init) => signedIn(() => ask(url, init));
