// Who is signed in. The session is a cookie that scripts cannot read, so there is nothing to keep here but a name.
//
// A call that is answered 401 asks the person to sign in again, and is made again after it (`call` in common.js): what is
// on the page stays. Only where somebody else signs in is all of it dropped.

import { $, ROOT, ask, onSessionEnd } from "./common.js";
import { t } from "./words.js";

const SESSION = `${ROOT}api/auth/session`;

let user = null; // who is signed in, or was when their session ended
let asked = null; // the promise of a sign-in that is waited for, and its `resolve`

/** A promise of what the service said at the start: `authentication`, "on" or "off", and the `user`. */
export const atStart = ask(SESSION).catch(() => ({ authentication: null, user: null }));

const isAdmin = () => user?.role === "admin";

// The other tabs of this browser have the same cookie.
const tabs = new BroadcastChannel("cutout-session");

/** Have a person sign in; the promise tells whether they did. All that wait share one form. */
function signIn({ isFirst }) {
  if (!asked) {
    asked = withResolvers();
    $("sign-in-why").textContent = isFirst
      ? t("Sign in to remove backgrounds, and to see your pictures and credits.")
      : t("Your session has ended. Sign in to go on; nothing is lost.");
    tell("");
    $("sign-in-later").hidden = isFirst;
    document.body.classList.toggle("signed-out", isFirst);
    if (isFirst) $("sign-in").show();
    else $("sign-in").showModal();
  }
  return asked.promise;
}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

function settle(hasSignedIn) {
  const { resolve } = asked;
  asked = null;
  document.body.classList.remove("signed-out");
  $("sign-in").close();
  for (const form of forms()) form.reset();
  resolve(hasSignedIn);
}

const forms = () => [$("sign-in-password"), $("sign-in-key")];

const tell = (text) => ($("sign-in-told").textContent = text);

async function send(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  button.disabled = true;
  tell("");
  try {
    const body = JSON.stringify(Object.fromEntries(new FormData(form)));
    await ask(SESSION, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const kept = (await ask(SESSION)).user;
    if (kept) {
      tabs.postMessage(kept.id);
      enter(kept);
    } else tell(t("Your browser did not keep the sign-in. Allow cookies for this address, and open it by https if it has that."));
  } catch (error) {
    tell(adviceOn(error, form));
    form.querySelector("input:last-of-type").focus();
  } finally {
    button.disabled = false;
  }
}

function adviceOn(error, form) {
  if (error.status === 429) {
    return t("Too many attempts. Wait {seconds} seconds, then try again.", { seconds: error.retryAfter || 60 });
  }
  if (error.status === 401 && form.id === "sign-in-password") {
    return t("The e-mail address or the password is wrong. Check both, and try again.");
  }
  return error.message;
}

/** Somebody has signed in, here or in another tab. */
function enter(newUser) {
  if (user && user.id !== newUser.id) {
    leave(); // what is on the page is another user's
    return;
  }
  greet(newUser);
  if (asked) settle(true);
}

function greet(newUser) {
  user = newUser;
  $("who-name").textContent = user.email ?? user.subject;
  $("who-name").title = user.email ?? user.subject;
  document.querySelector("nav [data-to=admin]").hidden = !isAdmin();
}

/** Load the page anew, without what it shows. */
function leave() {
  onSessionEnd(() => new Promise(() => {})); // what is still under way asks nobody to sign in
  history.replaceState(null, "", location.pathname + location.search);
  location.reload();
}

async function signOut() {
  try {
    await ask(SESSION, { method: "DELETE" });
  } catch (error) {
    $("who-told").textContent = error.message;
    return;
  }
  tabs.postMessage(null);
  leave();
}

async function hear({ data: id }) {
  if (asked) {
    const { user: newUser } = await ask(SESSION).catch(() => ({}));
    if (newUser && asked) enter(newUser);
  } else if (user && user.id !== id) {
    leave();
  }
}

function showOther() {
  for (const form of forms()) form.hidden = !form.hidden;
  const hasKey = !$("sign-in-key").hidden;
  $("sign-in-other").textContent = hasKey ? t("Use a password instead") : t("Use an API key instead");
  tell("");
  forms()[hasKey ? 1 : 0].querySelector("input").focus();
}

/** The promise is fulfilled when somebody is signed in, or where nobody needs to be; it tells whether they signed in now. */
export async function startSession() {
  for (const form of forms()) form.addEventListener("submit", send);
  $("sign-in-other").addEventListener("click", showOther);
  $("sign-in-later").addEventListener("click", () => settle(false));
  $("sign-in").addEventListener("cancel", (event) => {
    event.preventDefault();
    settle(false);
  });
  $("sign-out").addEventListener("click", signOut);
  tabs.addEventListener("message", hear);
  // A page that comes back from the browser's memory may be of an earlier user.
  addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
  onSessionEnd(async () => {
    await atStart;
    return signIn({ isFirst: false });
  });
  const session = await atStart;
  $("who").hidden = session.authentication !== "on";
  if (session.user) greet(session.user);
  else if (session.authentication === "on") return signIn({ isFirst: true });
  return false;
}
