// The page: choose a tier and drop a photo, which is done at once (single.js); several photos become a batch (batch.js).

import { showBackdrops } from "./backdrops.js";
import { busy, hide, offer, startBatches } from "./batch.js";
import { $, API, call, say, sayNothing } from "./common.js";
import { chosen, dropped, objection, pictures } from "./files.js";
import { dismiss, offerPreview, remove, startSingle } from "./single.js";

const RECIPES = {
  mask: "Cuts out the subject",
  clean: "plus edges without the old background's colour",
  refined: "plus hair, fur and lace in full detail",
  "second-look": "plus a second look at small subjects",
};

async function showTiers() {
  const { preview, ...tiers } = (await call(`${API}/pricing`)).tiers;
  // It is shown with every photo, so it has no card; and not where each one costs the operator a call to another service.
  offerPreview(preview !== undefined && !preview.backend.startsWith("huggingface"));
  for (const [tier, info] of Object.entries(tiers)) {
    const card = $("tier").content.cloneNode(true);
    const radio = card.querySelector("input");
    radio.value = tier;
    radio.checked = tier === "basic";
    card.querySelector("b").textContent = info.name;
    card.querySelector(".recipe").textContent = RECIPES[info.recipe];
    card.querySelector(".price").textContent = `${info.credits} credits`;
    card.querySelector(".model").textContent = info.substitute
      ? `${info.model}, substitute for ${info.wanted}`
      : info.model;
    $("tiers").append(card);
  }
}

// A single photo is processed immediately; several become a batch.
async function take(found) {
  const { photos, others } = pictures(found);
  const reason = objection(photos);
  if (reason) {
    say(reason, "error");
  } else if (photos.length > 1 && busy()) {
    say("A batch is running. Wait until it has finished, cancel it, or open this page in another tab.", "error");
  } else if (photos.length > 1) {
    dismiss();
    sayNothing();
    await offer(photos, others);
  } else {
    if (!busy()) hide();
    await remove(photos[0].file);
  }
}

function start() {
  for (const input of [$("file"), $("folder")]) {
    input.addEventListener("change", () => {
      const found = chosen(input.files);
      input.value = ""; // so that choosing the same file again triggers the event
      if (found.length) take(found);
    });
  }
  const drop = $("drop");
  for (const type of ["dragenter", "dragover"]) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!event.dataTransfer.types.includes("Files")) return;
    dropped(event.dataTransfer).then(take, (error) => say(`The folder cannot be read: ${error.message}`, "error"));
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(chosen(event.clipboardData.files));
  });
  showBackdrops();
  startSingle();
  startBatches();
  showTiers().catch((error) => say(error.message, "error"));
}

start();
