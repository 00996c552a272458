// What is behind the cut-out on the page: transparency, a colour, a picture, or the photo itself, blurred. It is only
// shown, unless the download is to have it too.

import { $, element } from "../common.js";
import { t } from "../words.js";

const BACKDROPS = {
  [t("transparency")]: "",
  [t("white")]: "#fff",
  [t("black")]: "#000",
  [t("green")]: "#0b8a3a",
  [t("blue")]: "#1f5fd0",
};

let chosen = { kind: "none" }; // or colour, with `colour`; picture, with `file`; blur

/** What kind of thing is behind the cut-out: none, colour, picture or blur. */
export const chosenBackdrop = () => chosen.kind;

/** The fields of a refinement that put it behind the subject, if the download is to have it. */
export function backdropFields() {
  if (!$("with-colour").checked || chosen.kind === "none") return {};
  if (chosen.kind === "picture") return { backgroundImage: chosen.file };
  return { background: chosen.kind === "blur" ? "blur" : chosen.colour };
}

function put(what, pressed) {
  chosen = what;
  $("with-colour").parentElement.hidden = what.kind === "none";
  for (const other of $("backdrops").querySelectorAll("button")) other.ariaPressed = String(other === pressed);
  $("colour").classList.toggle("chosen", pressed === $("colour"));
  $("behind-file").parentElement.classList.toggle("chosen", what.kind === "picture");
  $("compare").classList.toggle("plain", what.kind === "colour");
  $("compare").style.setProperty("--backdrop", what.colour ?? "");
  showBehind();
  $("backdrops").dispatchEvent(new Event("backdrop"));
}

/** Show the picture behind, which covers the stage as it covers the result; `photo` is the photo's own image. */
function showBehind() {
  const behind = $("behind");
  if (behind.dataset.own) URL.revokeObjectURL(behind.src);
  delete behind.dataset.own;
  behind.hidden = chosen.kind !== "picture" && chosen.kind !== "blur";
  behind.classList.toggle("blurred", chosen.kind === "blur");
  if (chosen.kind === "picture") {
    behind.src = URL.createObjectURL(chosen.file);
    behind.dataset.own = "true";
  } else if (chosen.kind === "blur") {
    behind.src = $("before").src;
  } else {
    behind.removeAttribute("src");
  }
}

/** Take a new photo's own image for what is blurred. */
export function refreshBackdrop() {
  if (chosen.kind === "blur") showBehind();
}

export function showBackdrops() {
  for (const [name, colour] of Object.entries(BACKDROPS)) {
    const button = element("button", { type: "button", title: name, ariaLabel: name, ariaPressed: String(colour === "") });
    button.style.setProperty("--colour", colour || "repeating-conic-gradient(#bbb 0 25%, #fff 0 50%) 0 0 / 10px 10px");
    button.addEventListener("click", () => put(colour ? { kind: "colour", colour } : { kind: "none" }, button));
    $("colour").before(button);
  }
  $("colour").addEventListener("input", () => put({ kind: "colour", colour: $("colour").value }, $("colour")));
  $("blur").addEventListener("click", () => put({ kind: "blur" }, $("blur")));
  $("behind-file").addEventListener("change", () => {
    const [file] = $("behind-file").files;
    $("behind-file").value = ""; // so that choosing the same file again triggers the event
    if (file) put({ kind: "picture", file }, null);
  });
}
