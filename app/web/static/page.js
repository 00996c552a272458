// The page: choose a tier, drop a photo, compare before and after, download; several photos become a batch.

import { busy, hide, offer, startBatches } from "./batch.js";
import { $, API, call, say, sayNothing } from "./common.js";
import { chosen, dropped, objection, pictures } from "./files.js";

const BACKDROPS = { transparency: "", white: "#fff", black: "#000", green: "#0b8a3a", blue: "#1f5fd0" };

const RECIPES = {
  mask: "Cuts out the subject",
  clean: "plus edges without the old background's colour",
  refined: "plus hair, fur and lace in full detail",
  "second-look": "plus a second look at small subjects",
};

async function showTiers() {
  const { tiers } = await call(`${API}/pricing`);
  for (const [tier, info] of Object.entries(tiers)) {
    const card = $("tier").content.cloneNode(true);
    const radio = card.querySelector("input");
    radio.value = tier;
    radio.checked = tier === "basic";
    card.querySelector("b").textContent = info.name;
    card.querySelector(".recipe").textContent = info.credits ? RECIPES[info.recipe] : "A small picture at once";
    card.querySelector(".price").textContent = info.credits ? `${info.credits} credits` : "free";
    card.querySelector(".model").textContent = info.substitute
      ? `${info.model}, substitute for ${info.wanted}`
      : info.model;
    $("tiers").append(card);
  }
}

function showBackdrops() {
  for (const [name, colour] of Object.entries(BACKDROPS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = button.ariaLabel = name;
    button.ariaPressed = String(colour === "");
    button.style.background = colour || "repeating-conic-gradient(#bbb 0 25%, #fff 0 50%) 0 0 / 10px 10px";
    button.addEventListener("click", () => {
      for (const other of $("backdrops").children) other.ariaPressed = String(other === button);
      $("compare").classList.toggle("plain", colour !== "");
      $("compare").style.setProperty("--backdrop", colour);
    });
    $("backdrops").append(button);
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
    current++;
    $("result").hidden = true;
    sayNothing();
    await offer(photos, others);
  } else {
    if (!busy()) hide();
    await remove(photos[0].file);
  }
}

let current = 0; // number of the newest removal; the result of an older one is not shown

async function remove(photo) {
  const mine = ++current;
  const start = performance.now();
  const clock = setInterval(() => {
    if (mine === current) say(`Removing the background … ${((performance.now() - start) / 1000).toFixed(0)} s`, "busy");
  }, 1000);
  say("Removing the background …", "busy");
  $("result").hidden = true;
  try {
    const form = new FormData($("form"));
    form.set("image", photo, photo.name || "photo");
    const job = await call(`${API}/remove`, { method: "POST", body: form });
    if (mine === current) await show(photo, job);
  } catch (error) {
    if (mine === current) say(error.message, "error");
  } finally {
    clearInterval(clock);
  }
}

async function show(photo, job) {
  const { before, after, download } = { before: $("before"), after: $("after"), download: $("download") };
  URL.revokeObjectURL(before.src);
  before.src = URL.createObjectURL(photo);
  after.src = job.resultUrl;
  // The browser cannot decode some formats that the service reads; then only the result is shown.
  before.hidden = $("handle").hidden = $("slider").hidden = !(await decodes(before));
  await decodes(after);
  download.href = job.resultUrl;
  download.download = `${(photo.name || "photo").replace(/\.[^.]*$/, "")}-cutout.${job.format}`;
  const seconds = (job.processingMs / 1000).toFixed(1);
  $("facts").textContent = `${job.width} × ${job.height}, ${seconds} s, ${job.model} on ${job.backend}`;
  $("result").hidden = false;
  const remarks = [...job.notes];
  if (job.noForeground) remarks.unshift("No subject was found in this photo, so the result is fully transparent.");
  if (remarks.length) say(remarks.join(" "), "");
  else sayNothing();
}

const decodes = (image) => image.decode().then(() => true, () => false);

function start() {
  $("slider").addEventListener("input", () => $("compare").style.setProperty("--at", `${$("slider").value}%`));
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
  startBatches();
  showTiers().catch((error) => say(error.message, "error"));
}

start();
