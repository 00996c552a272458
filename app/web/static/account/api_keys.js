// API keys: create one, which is shown once, and revoke.

import { $, ROOT, call, element, oneAtATime } from "../common.js";
import { date, t } from "../words.js";

const KEYS = `${ROOT}api/auth/keys`;

let revoked = null; // the key that is about to be revoked
let freshId = null; // the id of the key that is shown

export async function showKeys() {
  const { keys } = await call(KEYS);
  const valid = keys.filter((key) => !key.revokedAt);
  const old = keys.filter((key) => key.revokedAt);
  $("api-keys").replaceChildren(...valid.map(rowOf));
  $("api-keys-old").replaceChildren(...old.map(rowOf));
  $("api-keys-revoked").hidden = !old.length;
}

function rowOf(key) {
  const { name, shown, createdAt, revokedAt } = key;
  const when = revokedAt
    ? t("revoked on {date}", { date: date(revokedAt) })
    : t("created on {date}", { date: date(createdAt) });
  const beginning = element("small", {}, element("code", { translate: false }, `${shown}…`), ` ${when}`);
  const row = element("li", {}, element("span", {}, element("b", { translate: false }, name), beginning));
  if (!revokedAt) {
    const properties = { className: "button quiet", type: "button", "aria-label": t("Revoke {name}", { name }) };
    const revoke = element("button", properties, t("Revoke"));
    revoke.addEventListener("click", () => askToRevoke(key));
    row.append(revoke);
  }
  return row;
}

async function create() {
  tell("");
  const name = $("api-key-name").value.trim();
  if (!name) return;
  try {
    const made = await call(KEYS, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name }),
    });
    $("api-key-name").value = "";
    freshId = made.id;
    $("api-key-value").value = made.key;
    $("api-key-new-told").textContent = t("This is the key {name}. Copy it now: it is not shown again.", { name });
    $("api-key-copied").textContent = "";
    $("api-key-new").hidden = false;
    $("api-key-value").focus();
    $("api-key-value").select();
    await showKeys();
  } catch (error) {
    tell(error.message, "error");
  }
}

/** Show the key that was just created no longer. */
export function forgetKey() {
  $("api-key-value").value = "";
  $("api-key-new").hidden = true;
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("api-key-value").value);
    $("api-key-copied").textContent = t("Copied.");
  } catch {
    // Browsers allow it only by https and on this machine.
    $("api-key-value").select();
    $("api-key-copied").textContent = t("Press Ctrl+C or ⌘C to copy it.");
  }
}

function tell(text, kind = "") {
  $("api-keys-told").textContent = text;
  $("api-keys-told").className = `told ${kind}`;
}

function askToRevoke(key) {
  revoked = key;
  $("revoking-title").textContent = t("Revoke {name}?", { name: key.name });
  $("revoking-told").textContent = "";
  $("revoking").showModal();
}

async function revoke() {
  try {
    await call(`${KEYS}/${revoked.id}`, { method: "DELETE" });
    $("revoking").close();
    if (revoked.id === freshId) forgetKey();
    await showKeys();
    tell(t("{name} is revoked.", revoked));
    $("api-keys-title").focus();
  } catch (error) {
    $("revoking-told").textContent = error.message;
  }
}

export function startKeys() {
  $("api-key-form").addEventListener("submit", oneAtATime(create));
  $("api-key-copy").addEventListener("click", copy);
  $("revoking-close").addEventListener("click", () => $("revoking").close());
  $("revoking-form").addEventListener("submit", oneAtATime(revoke));
}
