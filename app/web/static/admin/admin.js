// The view Admin: figures of the whole service (here), its health, purchases to confirm, and users.

import { drawChart } from "./chart.js";
import { hideHealth, showHealth } from "./admin_health.js";
import { showPurchases, startPurchases } from "./admin_purchases.js";
import { hideUsers, reloadUsers, showUsers, startUsers } from "./admin_users.js";
import { $, API, call, element } from "../common.js";
import { isShown, registerView, replaceQuery } from "../views.js";
import { language, number, plural, rupiah, t } from "../words.js";

const SPANS = ["1", "7", "30", "90"]; // in days, today included
const USUAL = "30";
const DAY_MS = 86_400_000;

let asked = 0; // counts the questions for figures; only the last answer is shown
let query = new URLSearchParams();

/** Put a value into the address of the view; empty takes it out. */
function remember(name, value) {
  if (value) query.set(name, value);
  else query.delete(name);
  if (isShown("admin")) replaceQuery(query);
}

async function show(wanted) {
  query = new URLSearchParams(wanted);
  const span = SPANS.includes(query.get("days")) ? query.get("days") : USUAL;
  document.querySelector(`#span [value="${span}"]`).checked = true;
  if (!(await showFigures(span))) return;
  showHealth();
  showPurchases();
  showUsers(query);
}

/** Show the figures of the last days; return whether the caller may see this view, and still looks at it. */
async function showFigures(days) {
  const mine = ++asked;
  const today = Math.floor(Date.now() / DAY_MS) * DAY_MS;
  const since = new Date(today - (days - 1) * DAY_MS).toISOString();
  $("figures").ariaBusy = "true";
  try {
    const stats = await call(`${API}/admin/stats?since=${since}`);
    if (mine !== asked || !isShown("admin")) return false;
    allow(true);
    const [byDay, pricing] = await Promise.all([
      call(`${API}/admin/stats/days?since=${since}`),
      call(`${API}/pricing`),
    ]);
    if (mine !== asked) return true;
    $("figures").hidden = false;
    $("figures-told").textContent = "";
    showTiles(stats);
    showCharts(stats, byDay.days, pricing.tiers);
    showTiers(stats, pricing.tiers);
  } catch (error) {
    if (mine !== asked || !isShown("admin")) return false;
    if (error.status === 401 || error.status === 403) {
      allow(false, error.message);
      return false;
    }
    allow(true);
    $("figures-told").textContent = error.message;
  } finally {
    if (mine === asked) $("figures").ariaBusy = "false";
  }
  return true;
}

function allow(may, reason = "") {
  $("admin-parts").hidden = !may;
  $("admin-refused").hidden = may;
  $("admin-refused").textContent = reason;
}

const percent = (share) => number(share, { style: "percent", maximumFractionDigits: 1 });
const nameOf = (tier) => tier[0].toUpperCase() + tier.slice(1);

function showTiles(stats) {
  const { removals, failed, successRate, revenueRupiah, plansRupiah, costRupiah, marginRupiah, activePlans } = stats;
  const plans = Object.entries(activePlans);
  const tiles = [
    [t("Removals"), number(removals), plural(failed, "{count} failed", "{count} failed")],
    [t("Success rate"), successRate === null ? "–" : percent(successRate), ""],
    [t("Revenue"), rupiah(revenueRupiah), t("{plans} from plans", { plans: rupiah(plansRupiah) })],
    [t("Cost"), rupiah(costRupiah), ""],
    [
      t("Margin"),
      rupiah(marginRupiah),
      revenueRupiah ? t("{share} of revenue", { share: percent(marginRupiah / revenueRupiah) }) : "",
    ],
    [
      t("Active plans"),
      number(plans.reduce((all, [, count]) => all + count, 0)),
      plans.map(([plan, count]) => `${nameOf(plan)} ${number(count)}`).join(" · "),
    ],
  ];
  $("tiles").replaceChildren(
    ...tiles.map(([name, value, more]) =>
      element(
        "div",
        { className: "card" },
        element("dt", {}, name),
        element("dd", {}, value),
        element("dd", { className: "small" }, more),
      ),
    ),
  );
}

function showCharts(stats, days, pricing) {
  const short = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", timeZone: "UTC" });
  const long = new Intl.DateTimeFormat(language, { dateStyle: "full", timeZone: "UTC" });
  const perDay = (values) =>
    days.map((one) => {
      const day = new Date(`${one.day}T00:00:00Z`);
      return { label: short.format(day), name: long.format(day), values: values(one) };
    });
  // A free preview is shown only where there were some.
  const tiers = Object.keys(pricing).filter((tier) => pricing[tier].credits || stats.tiers[tier].removals);
  drawChart($("chart-removals"), {
    title: t("Removals per day"),
    axis: t("Day"),
    series: [...tiers.map((tier) => ({ name: nameOf(tier), kind: tier })), { name: t("Failed"), kind: "failed" }],
    bars: perDay((day) => [...tiers.map((tier) => day.tiers[tier].removals), day.failed]),
    write: number,
    stacked: true,
  });
  drawChart($("chart-revenue"), {
    title: t("Revenue per day"),
    axis: t("Day"),
    series: [
      { name: t("Credits"), kind: "first" },
      { name: t("Plans"), kind: "second" },
    ],
    bars: perDay((day) => [day.revenueRupiah - day.plansRupiah, day.plansRupiah]),
    write: rupiah,
    stacked: true,
  });
  drawChart($("chart-times"), {
    title: t("Time by tier, in milliseconds"),
    axis: t("Tier"),
    series: [
      { name: t("Median"), kind: "first" },
      { name: t("95 of 100 are faster"), kind: "second" },
    ],
    bars: tiers.map((tier) => ({
      label: nameOf(tier),
      name: nameOf(tier),
      values: [stats.tiers[tier].medianMs ?? 0, stats.tiers[tier].p95Ms ?? 0],
    })),
    write: (value) => t("{milliseconds} ms", { milliseconds: number(value) }),
    stacked: false,
  });
}

function showTiers(stats, pricing) {
  const rows = Object.entries(pricing).map(([tier, { name, credits, model, backend, substitute, wanted }]) => {
    const { removals, successRate, revenueRupiah, costRupiah, marginRupiah } = stats.tiers[tier];
    const serving = element("td", {}, model, element("small", {}, backend));
    if (substitute) serving.append(element("small", {}, t("substitute for {wanted}", { wanted })));
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      serving,
      ...[
        plural(credits, "{count} credit", "{count} credits"),
        number(removals),
        successRate === null ? "–" : percent(successRate),
        rupiah(revenueRupiah),
        rupiah(costRupiah),
        rupiah(marginRupiah),
      ].map((text) => element("td", {}, text)),
    );
  });
  $("by-tier").replaceChildren(...rows);
}

function hide() {
  asked += 1;
  hideHealth();
  hideUsers();
}

$("span").addEventListener("change", (event) => {
  remember("days", event.target.value === USUAL ? "" : event.target.value);
  showFigures(event.target.value);
});
startPurchases(reloadUsers);
startUsers(remember);
registerView("admin", { show, hide });
