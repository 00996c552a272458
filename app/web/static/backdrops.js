// What is behind the cut-out on the page: transparency, a few colours, or any colour. It is only shown, unless the
// download is to have it too.

import { $ } from "./common.js";
import { t } from "./words.js";

const BACKDROPS = {
  [t("transparency")]: "",
  [t("white")]: "#fff",
  [t("black")]: "#000",
  [t("green")]: "#0b8a3a",
  [t("blue")]: "#1f5fd0",
};

let chosen = "";

/** The colour that is shown; empty for transparency. */
export const chosenColour = () => chosen;

function put(colour, pressed) {
  chosen = colour;
  $("with-colour").parentElement.hidden = !colour;
  for (const other of $("backdrops").querySelectorAll("button")) other.ariaPressed = String(other === pressed);
  $("colour").classList.toggle("chosen", !pressed);
  $("compare").classList.toggle("plain", colour !== "");
  $("compare").style.setProperty("--backdrop", colour);
}

export function showBackdrops() {
  for (const [name, colour] of Object.entries(BACKDROPS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = button.ariaLabel = name;
    button.ariaPressed = String(colour === "");
    button.style.setProperty("--colour", colour || "repeating-conic-gradient(#bbb 0 25%, #fff 0 50%) 0 0 / 10px 10px");
    button.addEventListener("click", () => put(colour, button));
    $("colour").before(button);
  }
  $("colour").addEventListener("input", () => put($("colour").value, null));
}
