// Purchases that wait for an admin's confirmation, in the view Admin.

import { $, API, call, element } from "../common.js";
import { showItems, tell } from "./lists.js";
import { date, dateTime, plural, rupiah, t } from "../words.js";

const PAGE = 20;
const MOST = 200; // the service lists no more at once; the oldest are listed first

let most = PAGE;
let confirmed = () => {};

/** Load the list. */
export async function showPurchases() {
  let payments;
  try {
    ({ payments } = await call(`${API}/admin/payments?status=pending&limit=${most}`));
  } catch (error) {
    say(error.message, "error");
    return;
  }
  showItems($("waiting"), payments, ({ id }) => id, row);
  $("waiting-none").hidden = payments.length > 0;
  $("waiting-more").hidden = payments.length < most || most >= MOST;
}

function say(text, kind) {
  $("waiting-told").className = `told ${kind}`;
  tell($("waiting-told"), text);
}

const whoOf = ({ email, user }) => email ?? user;

function whatOf({ plan, credits }) {
  if (plan === null) return plural(credits, "{count} credit", "{count} credits");
  return t("a month of {plan}", { plan });
}

function row(purchase) {
  const { paymentId, rupiah: price, createdAt } = purchase;
  const button = element("button", { className: "button", type: "button" }, t("Confirm"));
  button.setAttribute("aria-label", t("Confirm {what} for {who}", { what: whatOf(purchase), who: whoOf(purchase) }));
  const item = element(
    "li",
    {},
    element(
      "div",
      { className: "about" },
      element("b", {}, whoOf(purchase)),
      element("span", {}, `${whatOf(purchase)}, ${rupiah(price)}`),
      element("small", {}, t("payment {paymentId}, {time}", { paymentId, time: dateTime(createdAt) })),
    ),
    element("div", { className: "actions" }, button),
  );
  button.addEventListener("click", () => confirm(purchase, item, button));
  return item;
}

async function confirm(purchase, item, button) {
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true"; // a disabled button would lose the focus
  try {
    const done = await call(`${API}/admin/payments/${purchase.id}/confirm`, { method: "POST" });
    say(outcome(purchase, done), "done");
  } catch (error) {
    say(t("{who}: {reason}", { who: whoOf(purchase), reason: error.message }), "error");
    button.ariaDisabled = "false";
    return;
  }
  const hadFocus = item.contains(document.activeElement);
  const next = item.nextElementSibling ?? item.previousElementSibling;
  item.remove();
  if (hadFocus) (next?.querySelector("button") ?? $("waiting-title")).focus();
  await showPurchases();
  confirmed();
}

function outcome(purchase, { endsAt }) {
  const who = whoOf(purchase);
  if (purchase.plan === null) return t("Confirmed: {who} has got {what}.", { who, what: whatOf(purchase) });
  return t("Confirmed: {who} has the plan {plan} until {day}.", { who, plan: purchase.plan, day: date(endsAt) });
}

/** Start; `onConfirmed` is called after each confirmation. */
export function startPurchases(onConfirmed) {
  confirmed = onConfirmed;
  $("waiting-more").addEventListener("click", async () => {
    most = Math.min(MOST, most + PAGE);
    const before = $("waiting").children.length;
    await showPurchases();
    $("waiting").children[before]?.querySelector("button").focus();
  });
}
