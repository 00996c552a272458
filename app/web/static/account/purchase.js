// Buying a month of a plan, or credits: `manual`, the operator confirms the payment; `off`, nobody asks for one.

import { $, API, call, oneAtATime } from "../common.js";
import { rupiah, t } from "../words.js";

const LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"; // none that look alike

let wanted = null; // { plan } or { credits }

/** Make up the reference by which the operator finds a payment. */
const newReference = () =>
  `CUT-${[...crypto.getRandomValues(new Uint8Array(10))].map((one) => LETTERS[one % LETTERS.length]).join("")}`;

/** Ask whether to buy `{ plan | credits, title, rupiah }`, as these payments go. */
export function askToBuy({ title, rupiah: price, ...item }, payments) {
  wanted = item;
  const isManual = payments === "manual";
  $("buy-title").textContent = item.plan ? t("A month of {plan}", { plan: title }) : title;
  $("buy-price").textContent = rupiah(price);
  $("buy-how").textContent = isManual
    ? t("Pay the operator of this service, and write this reference on your payment. If you have paid already, put in the reference that you used. It counts as soon as the operator has confirmed it.")
    : t("On this machine nobody asks for a payment: it counts at once.");
  $("buy-reference-label").hidden = !isManual;
  $("buy-reference").required = isManual;
  $("buy-reference").value = newReference();
  $("buy-send").textContent = isManual ? t("Order") : t("Buy");
  $("buy-told").textContent = "";
  $("buy").showModal();
}

export function startPurchases(bought) {
  $("buy-close").addEventListener("click", () => $("buy").close());
  const buy = async () => {
    $("buy-told").textContent = "";
    try {
      // The reference is used once: sent again, the same is bought once.
      const body = JSON.stringify({ ...wanted, paymentId: $("buy-reference").value.trim() });
      const purchase = await call(`${API}/${wanted.plan ? "subscription" : "credits"}`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body,
      });
      $("buy").close();
      await bought(purchase);
    } catch (error) {
      $("buy-told").textContent = error.message;
    }
  };
  $("buy-form").addEventListener("submit", oneAtATime(buy));
}
