// The view Remove: choose a tier and drop a photo, which is done at once (single.js); several photos become a batch
// (batch.js).

import { showBackdrops } from "../stage/backdrops.js";
import { busy, hide, offer, startBatches } from "../batch/batch.js";
import { $, API, ROOT, call, complain, say, sayNothing } from "../common.js";
import { chosen, dropped, objection, pictures } from "./files.js";
import { startReopening } from "./reopen.js";
import { recall, remember } from "../remembered.js";
import { atStart } from "../session.js";
import { dismiss, offerPreview, remove, startSingle } from "./single.js";
import { isShown, nameThing, registerView } from "../views.js";
import { plural, t } from "../words.js";

const RECIPES = {
  mask: t("Cuts out the subject"),
  clean: t("plus edges without the old background's colour"),
  refined: t("plus hair, fur and lace in full detail"),
  "second-look": t("plus a second look at small subjects"),
};

const KEPT = "tier"; // the one that was chosen last

/** On a phone the tiers are a row that scrolls, and that forgets where it was when its cards become smaller. */
function showChosenTier() {
  const row = $("tiers");
  const card = row.querySelector("label:has(:checked)");
  row.scrollLeft = card.offsetLeft - row.offsetLeft - (row.clientWidth - card.offsetWidth) / 2;
}

/** The tier to begin with. Where nobody pays, the first picture is one with its hair. */
async function firstTier(names) {
  const usual = (await atStart).authentication === "off" ? "professional" : "basic";
  return [recall(KEPT), usual].find((name) => names.includes(name)) ?? names[0];
}

const keepTier = ({ target }) => remember(KEPT, target.value);

async function showTiers() {
  let hasWaited = false;
  const waits = (text) => {
    hasWaited = true;
    say(text, "busy");
  };
  const { preview, ...tiers } = (await call(`${API}/pricing`, { waits })).tiers;
  const first = await firstTier(Object.keys(tiers));
  if (hasWaited) sayNothing();
  // It is shown with every photo, so it has no card; and not where each one costs the operator a call to another service.
  offerPreview(preview !== undefined && !preview.backend.startsWith("huggingface"));
  for (const [tier, info] of Object.entries(tiers)) {
    const card = $("tier").content.cloneNode(true);
    const radio = card.querySelector("input");
    radio.value = tier;
    radio.checked = tier === first;
    card.querySelector("b").textContent = info.name;
    card.querySelector(".recipe").textContent = RECIPES[info.recipe];
    card.querySelector(".price").textContent = plural(info.credits, "{count} credit", "{count} credits");
    card.querySelector(".model").textContent = info.substitute
      ? t("{model} on {backend}, substitute for {wanted}", info)
      : t("{model} on {backend}", info);
    $("tiers").append(card);
  }
  new ResizeObserver(showChosenTier).observe($("tiers"));
}

// A single photo is processed immediately; several become a batch.
async function take(found) {
  const { photos, others } = pictures(found);
  const reason = objection(photos);
  if (reason) {
    say(reason, "error");
  } else if (photos.length > 1 && busy()) {
    say(t("A batch is running. Wait until it has finished, cancel it, or open this page in another tab."), "error");
  } else if (photos.length > 1) {
    dismiss();
    nameThing("#remove"); // a batch or a job that was shown before is no more
    sayNothing();
    await offer(photos, others);
  } else {
    if (!busy()) hide();
    await remove(photos[0].file);
  }
}

/** Take the photo that comes with the page, for those who have none at hand. */
async function takeSample() {
  try {
    const answer = await fetch(`${ROOT}static/sample.jpg`);
    if (!answer.ok) throw new Error();
    await take(chosen([new File([await answer.blob()], "sample.jpg", { type: "image/jpeg" })]));
  } catch {
    say(t("The service cannot be reached. Is it still running?"), "error");
  }
}

/** Take dropped files anywhere on the page: a near miss would make the browser leave it. */
function takeDrops() {
  const drop = $("drop");
  const hasFiles = (event) => event.dataTransfer.types.includes("Files");
  for (const type of ["dragenter", "dragover"]) {
    document.addEventListener(type, (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over"); // it left the window
  });
  document.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    if (!hasFiles(event)) return;
    event.preventDefault();
    goHere();
    dropped(event.dataTransfer).then(take, (error) =>
      say(t("The folder cannot be read: {reason}", { reason: error.message }), "error"),
    );
  });
}

/** Show this view, if another one is shown. */
function goHere() {
  if (!isShown("remove")) location.hash = "remove";
}

export function startRemove() {
  for (const input of [$("file"), $("folder")]) {
    input.addEventListener("change", () => {
      const found = chosen(input.files);
      input.value = ""; // so that choosing the same file again triggers the event
      if (found.length) take(found);
    });
  }
  $("sample").addEventListener("click", takeSample);
  $("tiers").addEventListener("change", keepTier);
  takeDrops();
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    goHere();
    take(chosen(event.clipboardData.files));
  });
  showBackdrops();
  startSingle();
  startBatches(remove, dismiss);
  registerView("remove", {});
  startReopening();
  showTiers().catch(complain);
}
