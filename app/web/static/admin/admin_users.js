// The users in the view Admin: search, pages, granting credits, and disabling accounts.

import { $, API, call, element } from "../common.js";
import { showItems, tell } from "./lists.js";
import { date, number, plural, t } from "../words.js";

const PAGE = 10;
const LOCAL_ADMIN = "local:admin"; // stands for everyone on a service without accounts, and cannot be disabled
const PAUSE_MS = 250; // in typing, before the search begins

let search = "";
let page = 0;
let asked = 0; // counts the questions; only the last answer is shown
let typing = 0;
let remember = () => {};
let chosen = null; // the user whom an open dialog is about
let key = ""; // of the grant: the service grants credits for it once

/** Show the page of users that the view's query names. */
export function showUsers(query) {
  search = query.get("search") ?? "";
  page = Math.max(0, Math.floor(Number(query.get("page")) || 1) - 1);
  $("users-search").value = search;
  return reloadUsers();
}

export function hideUsers() {
  clearTimeout(typing);
  $("grant").close();
  $("switch").close();
}

export async function reloadUsers() {
  const mine = ++asked;
  const query = new URLSearchParams({ search, limit: PAGE, offset: Math.min(page * PAGE, 1_000_000) });
  let found;
  try {
    found = await call(`${API}/admin/users?${query}`);
  } catch (error) {
    if (mine === asked) say(error.message, "error");
    return;
  }
  if (mine !== asked) return;
  if (page > 0 && !found.users.length) {
    await turnTo(Math.max(0, Math.ceil(found.total / PAGE) - 1)); // the list has become shorter
    return;
  }
  showItems($("users"), found.users, ({ id }) => id, row, update);
  const first = page * PAGE;
  tell(
    $("users-count"),
    found.total
      ? t("{first}–{last} of {total}", { first: number(first + 1), last: number(first + found.users.length), total: number(found.total) })
      : t("No user matches."),
  );
  setDisabled($("users-back"), page === 0);
  setDisabled($("users-next"), first + found.users.length >= found.total);
}

// A button that is really disabled would lose the focus.
const setDisabled = (button, is) => (button.ariaDisabled = String(is));

function turnTo(to) {
  page = to;
  remember("page", page ? String(page + 1) : "");
  return reloadUsers();
}

function say(text, kind) {
  $("users-told").className = `told ${kind}`;
  tell($("users-told"), text);
}

const nameOf = ({ email, subject }) => email ?? subject;

function row(user) {
  const item = element(
    "li",
    {},
    element("div", { className: "about" }, element("b"), element("span"), element("small")),
    element("div", { className: "actions" }),
  );
  const grant = element("button", { className: "button quiet grants", type: "button" }, t("Grant credits"));
  const change = element("button", { className: "button quiet switches", type: "button" });
  grant.addEventListener("click", () => openGrant(item.user));
  change.addEventListener("click", () => openSwitch(item.user));
  item.lastElementChild.append(grant, change);
  item.user = user;
  return item;
}

function update(item, user) {
  item.user = user;
  const { balance, plan, planEndsAt, recentRemovals, role, disabledAt, createdAt, subject, email } = user;
  item.classList.toggle("disabled", disabledAt !== null);
  const [name, facts, more] = item.firstElementChild.children;
  tell(name, nameOf(user));
  const said = [plural(balance, "{count} credit", "{count} credits")];
  if (plan) said.push(t("{plan} until {day}", { plan, day: date(planEndsAt) }));
  said.push(plural(recentRemovals, "{count} removal in 30 days", "{count} removals in 30 days"));
  tell(facts, said.join(" · "));
  const known = [t("since {day}", { day: date(createdAt) })];
  if (email !== null && email !== subject) known.unshift(subject);
  if (role === "admin") known.unshift(t("admin"));
  if (disabledAt) known.unshift(t("disabled on {day}", { day: date(disabledAt) }));
  tell(more, known.join(" · "));
  const who = nameOf(user);
  item.querySelector(".grants").ariaLabel = t("Grant credits to {who}", { who });
  const change = item.querySelector(".switches");
  tell(change, disabledAt ? t("Enable") : t("Disable"));
  change.hidden = subject === LOCAL_ADMIN;
  change.ariaLabel = disabledAt ? t("Enable {who}", { who }) : t("Disable {who}", { who });
}

function openGrant(user) {
  chosen = user;
  key = `page-${[...crypto.getRandomValues(new Uint32Array(4))].join("-")}`;
  tell($("grant-whom"), t("{who} has {count} credits.", { who: nameOf(user), count: number(user.balance) }));
  $("grant-form").reset();
  tell($("grant-told"), "");
  $("grant-send").ariaDisabled = "false";
  $("grant").showModal();
}

async function grant(event) {
  event.preventDefault(); // the dialog stays until the service has answered
  if ($("grant-send").ariaDisabled === "true") return;
  $("grant-send").ariaDisabled = "true";
  const user = chosen;
  const credits = $("grant-credits").valueAsNumber;
  try {
    const { granted, balance } = await post("credits", {
      userId: user.id,
      credits,
      key, // also after an error: if the first try has arrived, the second grants nothing
      note: $("grant-note").value.trim(),
    });
    const told = { who: nameOf(user), count: number(credits), balance: number(balance) };
    say(
      granted
        ? t("{count} credits were granted to {who}, who has {balance} now.", told)
        : t("This grant had arrived already. {who} has {balance} credits now.", told),
      "done",
    );
    $("grant").close();
  } catch (error) {
    tell($("grant-told"), error.message);
    return;
  } finally {
    $("grant-send").ariaDisabled = "false";
  }
  await reloadUsers();
}

function openSwitch(user) {
  chosen = user;
  const who = nameOf(user);
  const isOff = user.disabledAt !== null;
  tell($("switch-title"), isOff ? t("Enable {who}?", { who }) : t("Disable {who}?", { who }));
  tell(
    $("switch-effect"),
    isOff
      ? t("Their keys and logins work again.")
      : t("Their keys, logins and links to pictures stop working at once. Their pictures and credits are kept."),
  );
  tell($("switch-send"), isOff ? t("Enable") : t("Disable"));
  tell($("switch-told"), "");
  $("switch-send").ariaDisabled = "false";
  $("switch").showModal();
}

async function change() {
  if ($("switch-send").ariaDisabled === "true") return;
  $("switch-send").ariaDisabled = "true";
  const user = chosen;
  try {
    const { disabledAt } = await post(`users/${user.id}/${user.disabledAt === null ? "disable" : "enable"}`);
    const who = nameOf(user);
    say(disabledAt ? t("{who} is disabled.", { who }) : t("{who} is enabled.", { who }), "done");
    $("switch").close();
  } catch (error) {
    tell($("switch-told"), error.message);
    return;
  } finally {
    $("switch-send").ariaDisabled = "false";
  }
  await reloadUsers();
}

function post(path, body) {
  const sent = body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return call(`${API}/admin/${path}`, { method: "POST", ...sent });
}

/** Start; `remembering(name, value)` puts a value into the view's address. */
export function startUsers(remembering) {
  remember = remembering;
  $("users-search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      search = $("users-search").value.trim();
      remember("search", search);
      say("", "");
      turnTo(0);
    }, PAUSE_MS);
  });
  for (const [id, step] of [["users-back", -1], ["users-next", 1]]) {
    $(id).addEventListener("click", () => {
      if ($(id).ariaDisabled !== "true") turnTo(page + step);
    });
  }
  $("grant-form").addEventListener("submit", grant);
  $("switch-send").addEventListener("click", change);
  for (const name of ["grant", "switch"]) $(`${name}-cancel`).addEventListener("click", () => $(name).close());
}
