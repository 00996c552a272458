// Shared helpers: element look-up, the status line and API calls.

export const API = "api/background-remover";

export const $ = (id) => document.getElementById(id);

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
    return new Refusal(body?.detail || `The service answered ${status}.`, status);
  }
}

export async function call(url, init = {}) {
  let answer;
  try {
    answer = await fetch(url, { ...init, headers: { Accept: "application/json", ...init.headers } });
  } catch {
    throw new Refusal("The service cannot be reached. Is it still running?");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Refusal.of(answer.status, body);
  return body;
}

/** Encode a canvas at once; `toBlob` waits for the browser to be idle, which can take a second. */
export function encoded(canvas, type, quality) {
  const bytes = atob(canvas.toDataURL(type, quality).split(",")[1]);
  return new Blob([Uint8Array.from(bytes, (one) => one.charCodeAt(0))], { type });
}

export const several = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
