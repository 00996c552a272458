// The view Account: balance, plan and movements. Buying is in purchase.js, API keys are in api_keys.js.

import { $, API, call, element, keepFocus, oneAtATime, tryAgain } from "../common.js";
import { forgetKey, showKeys, startKeys } from "./api_keys.js";
import { askToBuy, startPurchases } from "./purchase.js";
import { atStart } from "../session.js";
import { registerView } from "../views.js";
import { date, dateTime, number, plural, rupiah, t } from "../words.js";

const PAGE = 20;
// The prices do not change while the service runs.
let prices = null;
let plan = null; // the present one: { name, endsAt }
let oldest = null; // the id of the oldest movement that is shown

const tell = (text, kind = "") => {
  $("account-told").textContent = text;
  $("account-told").className = `told ${kind}`;
};

async function show() {
  try {
    const [{ authentication }, subscription, credits] = await Promise.all([
      atStart,
      call(`${API}/subscription`),
      call(`${API}/credits?limit=${PAGE}`),
    ]);
    prices ??= await call(`${API}/pricing`);
    showBalance(credits.balance, subscription.payments);
    showPlan(subscription);
    showPending(subscription.pending);
    showMovements(credits.entries);
    $("buy-elsewhere").hidden = subscription.payments !== "signed";
    // Without accounts nobody asks for a key.
    $("api-keys-section").hidden = authentication === "off";
    if (authentication !== "off") await showKeys();
  } catch (error) {
    tell(error.message, "error");
    $("account-told").append(" ", tryAgain(showAnew, $("account-title")));
  }
}

function showAnew() {
  tell("");
  show();
}

function showBalance(balance, payments) {
  $("balance").textContent = plural(balance, "{count} credit", "{count} credits");
  $("balance-worth").textContent = t("One credit is {price}.", { price: rupiah(prices.rupiahPerCredit) });
  $("credits-form").hidden = payments === "signed";
  $("credits-form").dataset.payments = payments;
  showPrice();
}

function showPrice() {
  const count = $("credits-count");
  $("credits-price").textContent = count.validity.valid
    ? t("{count} cost {price}.", {
        count: plural(count.valueAsNumber, "{count} credit", "{count} credits"),
        price: rupiah(count.valueAsNumber * prices.rupiahPerCredit),
      })
    : t("Choose between {least} and {most} credits.", { least: number(1), most: number(Number(count.max)) });
}

const named = (name) => name[0].toUpperCase() + name.slice(1);

function showPlan({ plan: name, status, endsAt, today, payments }) {
  plan = name && { name: named(name), endsAt };
  const isForSale = payments !== "signed";
  $("plan-name").textContent = name ? named(name) : t("No plan");
  const until = { date: endsAt && date(endsAt) };
  if (status === "active") $("plan-until").textContent = t("Paid until {date}. It does not renew by itself.", until);
  else if (status === "cancelled") $("plan-until").textContent = t("Cancelled. It stays active until {date}.", until);
  else $("plan-until").textContent = t("Each removal is paid with credits. A plan includes removals for every day.");
  $("quota").hidden = !today;
  if (today) showQuota(today);
  $("plan-cancel").hidden = status !== "active";
  $("plan-extend").hidden = !name || !isForSale;
  if (name) {
    const { priceRupiah } = prices.plans[name];
    $("plan-extend").textContent = t("Another month for {price}", { price: rupiah(priceRupiah) });
    $("plan-extend").onclick = () => askToBuy({ plan: name, title: named(name), rupiah: priceRupiah }, payments);
  }
  const offers = name ? [] : Object.entries(prices.plans);
  $("plans").replaceChildren(...offers.map(([offered, info]) => offerOf(offered, info, payments)));
}

function showQuota({ used, left, professionalUsed, professionalLeft }) {
  const all = used + left;
  $("quota-told").textContent = t("{used} of {all} removals used today", { used: number(used), all: number(all) });
  $("quota-used").max = all || 1;
  $("quota-used").value = used;
  const professional = professionalUsed + professionalLeft;
  $("quota-professional").hidden = !professional;
  $("professional-told").textContent = t("{used} of {all} in the tier Professional", {
    used: number(professionalUsed),
    all: number(professional),
  });
  $("professional-used").max = professional || 1;
  $("professional-used").value = professionalUsed;
  const midnight = new Date();
  midnight.setUTCHours(24, 0, 0, 0);
  const time = new Intl.DateTimeFormat(document.documentElement.lang, { timeStyle: "short" }).format(midnight);
  $("quota-resets").textContent = t("A new day begins at {time}. What goes beyond is paid with credits.", { time });
}

function offerOf(name, { priceRupiah, removalsPerDay, professionalPerDay, tiers }, payments) {
  const facts = [plural(removalsPerDay, "{count} removal a day", "{count} removals a day"), tiers.map(named).join(", ")];
  if (professionalPerDay) facts.push(t("at most {count} a day in Professional", { count: number(professionalPerDay) }));
  const choose = element("button", { className: "button", type: "button" }, t("Choose {plan}", { plan: named(name) }));
  choose.addEventListener("click", () => askToBuy({ plan: name, title: named(name), rupiah: priceRupiah }, payments));
  choose.hidden = payments === "signed";
  return element(
    "li",
    {},
    element("b", {}, named(name)),
    element("span", { className: "price" }, t("{price} a month", { price: rupiah(priceRupiah) })),
    element("small", {}, facts.join(" · ")),
    choose,
  );
}

function showPending(pending) {
  $("pending-section").hidden = !pending.length;
  $("pending").replaceChildren(
    ...pending.map((purchase) =>
      element(
        "li",
        {},
        element("b", {}, purchase.plan ? t("A month of {plan}", { plan: named(purchase.plan) }) : creditsOf(purchase)),
        ` ${rupiah(purchase.rupiah)} · `,
        t("reference {reference}", { reference: purchase.paymentId }),
        ` · ${dateTime(purchase.createdAt)}`,
      ),
    ),
  );
}

const creditsOf = ({ credits }) => plural(credits, "{count} credit", "{count} credits");

function showMovements(entries, { isMore = false } = {}) {
  const rows = entries.map(rowOf);
  if (isMore) $("ledger").append(...rows);
  else $("ledger").replaceChildren(...rows);
  oldest = entries.at(-1)?.id ?? oldest;
  $("ledger-more").hidden = entries.length < PAGE;
  $("ledger-none").hidden = $("ledger").childElementCount > 0;
  $("ledger-table").hidden = !$("ledger-none").hidden;
}

function rowOf({ movement, credits, key, note, createdAt }) {
  const what = element("td", {}, meaning(movement, key));
  const batch = /^hold:batch:([0-9a-f-]{36})$/.exec(key)?.[1];
  if (batch) what.append(" ", element("a", { href: `#batch=${batch}` }, t("Show the batch")));
  if (note && !key.startsWith("payment:")) what.append(" ", element("small", { translate: false }, note));
  return element(
    "tr",
    {},
    element("td", {}, element("time", { dateTime: createdAt }, dateTime(createdAt))),
    what,
    element("td", { className: "count" }, credits ? number(credits, { signDisplay: "exceptZero" }) : "–"),
  );
}

/** What a movement of the ledger means to people. */
function meaning(movement, key) {
  const isBatch = key.includes("batch:");
  if (movement === "grant") return key.startsWith("payment:") ? t("Credits bought") : t("Credits received");
  if (movement === "hold") return isBatch ? t("Set aside for a batch") : t("Set aside for a photo");
  if (movement === "charge") return isBatch ? t("Batch done: what was set aside is paid") : t("Photo done: what was set aside is paid");
  return isBatch ? t("Given back: photos of a batch were not made") : t("Given back: the photo was not made");
}

async function showOlder() {
  try {
    const { entries } = await call(`${API}/credits?limit=${PAGE}&before=${oldest}`);
    showMovements(entries, { isMore: true });
  } catch (error) {
    tell(error.message, "error");
  }
  keepFocus($("ledger-title"));
}

async function cancelPlan() {
  $("cancelling-told").textContent = "";
  const reason = $("cancelling-reason").value.trim();
  try {
    await call(`${API}/subscription${reason ? `?${new URLSearchParams({ reason })}` : ""}`, { method: "DELETE" });
    $("cancelling").close();
    await show();
    tell(t("{plan} is cancelled. You can use it until {date}.", { plan: plan.name, date: date(plan.endsAt) }));
    keepFocus($("plan-title"));
  } catch (error) {
    $("cancelling-told").textContent = error.message;
  }
}

function askToCancel() {
  $("cancelling-title").textContent = t("Cancel {plan}?", { plan: plan.name });
  $("cancelling-until").textContent = t("You can use it until {date}, the end of what is paid. Nothing is paid back.", {
    date: date(plan.endsAt),
  });
  $("cancelling-told").textContent = "";
  $("cancelling-reason").value = "";
  $("cancelling").showModal();
}

function bought({ status, plan: name }) {
  if (status === "pending") tell(t("Your order is noted. It counts as soon as your payment is confirmed."));
  else tell(name ? t("{plan} is active.", { plan: named(name) }) : t("The credits are in your balance."));
}

$("credits-count").addEventListener("input", showPrice);
$("credits-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const credits = $("credits-count").valueAsNumber;
  const title = creditsOf({ credits });
  askToBuy({ credits, title, rupiah: credits * prices.rupiahPerCredit }, event.target.dataset.payments);
});
$("plan-cancel").addEventListener("click", askToCancel);
$("cancelling-close").addEventListener("click", () => $("cancelling").close());
$("cancelling-form").addEventListener("submit", oneAtATime(cancelPlan));
$("ledger-more").addEventListener("click", oneAtATime(showOlder));
startPurchases(async (purchase) => {
  await show();
  bought(purchase);
  keepFocus($("plan-title"));
});
startKeys();
registerView("account", {
  show: showAnew,
  hide: forgetKey,
});
