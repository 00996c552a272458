// Shared helpers: elements, the status line and API calls.

import { t } from "./words.js";

// The service's address as this page sees it. A proxy may serve it below a path that the service does not know.
const ROOT = new URL("..", import.meta.url).href;

export const API = `${ROOT}api/background-remover`;

// Pages of other origins cannot send a header of this name.
const OWN = { Accept: "application/json", "X-Cutout-Page": "1" };

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

// An error response of the service; `status` is 0 if it did not respond.
export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }

  static of(status, body) {
    return new Refusal(body?.detail || t("The service answered {status}.", { status }), status);
  }
}

export async function call(url, init = {}) {
  let answer;
  try {
    answer = await fetch(url, { ...init, headers: { ...OWN, ...init.headers } });
  } catch {
    throw new Refusal(t("The service cannot be reached. Is it still running?"));
  }
  const body = parsed(await answer.text().catch(() => ""));
  if (!answer.ok) throw Refusal.of(answer.status, body);
  return body;
}

/** Read JSON of the service. Paths in it, as in `resultUrl`, become addresses that hold for this page; no JSON is `{}`. */
export function parsed(text) {
  try {
    return JSON.parse(text, (name, value) => (name.endsWith("Url") ? addressOf(value) : value)) ?? {};
  } catch {
    return {};
  }
}

const addressOf = (path) => (path?.startsWith("/") ? ROOT + path.slice(path.lastIndexOf("/api/") + 1) : path);

/** Encode a canvas at once; `toBlob` waits for the browser to be idle, which can take a second. */
export function encoded(canvas, type, quality) {
  const bytes = atob(canvas.toDataURL(type, quality).split(",")[1]);
  return new Blob([Uint8Array.from(bytes, (one) => one.charCodeAt(0))], { type });
}
