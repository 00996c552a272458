// The upload of a batch, with its progress.

import { API, OWN, Refusal, parsed, unreachable } from "../common.js";
import { t } from "../words.js";

/**
 * Upload an order: `{ photos, key, fields }`.
 * @param tell is called with the bytes sent and their total
 * @param signal an aborted upload rejects with a Refusal without a text
 * @returns the service's answer
 */
export function upload({ photos, key, fields }, tell, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  form.set("imageCount", photos.length);
  for (const { file, name } of photos) form.append("images", file, name);
  // XMLHttpRequest, because fetch does not report upload progress.
  const request = new XMLHttpRequest();
  request.upload.addEventListener("progress", ({ loaded, total }) => tell(loaded, total));
  signal.addEventListener("abort", () => request.abort(), { once: true });
  return new Promise((resolve, reject) => {
    request.addEventListener("load", () => {
      const body = parsed(request.responseText);
      if (request.status === 202) resolve(body);
      else reject(Refusal.of(request.status, body, request.getResponseHeader("Retry-After")));
    });
    request.addEventListener("error", () => reject(navigator.onLine ? interrupted() : unreachable()));
    request.addEventListener("abort", () => reject(new Refusal("")));
    request.open("POST", `${API}/batch`);
    for (const [name, value] of Object.entries(OWN)) request.setRequestHeader(name, value);
    request.setRequestHeader("Idempotency-Key", key);
    request.send(form);
  });
}

const interrupted = () =>
  new Refusal(t("The upload was interrupted: the service cannot be reached, or a file was moved or changed."));
