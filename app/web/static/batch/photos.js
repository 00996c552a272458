// The photos of a batch, each with its thumbnail and what has become of it. There may be 500: what is out of sight is not
// laid out (batch.css), pictures are made and loaded for what is near, and changes are shown together in the next frame.

import { $, element } from "../common.js";
import { thumbnailOf } from "./thumbnails.js";
import { number, t } from "../words.js";

const STATES = {
  ready: t("Ready"),
  pending: t("Waiting"),
  processing: t("In work"),
  completed: t("Done"),
  failed: t("Failed"),
  cancelled: t("Cancelled"),
};
const NEAR = "400px";

// A card: { photo, node, picture, state, review, advice, isNear, shows }. `shows` is what is in `picture`: "", "file" or "result".
let cards = [];
let shownFor = null; // what `cards` belong to: an order or the id of a batch
const changed = new Set();
const cardOf = new WeakMap();

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const card = cardOf.get(target);
      card.isNear = isIntersecting;
      if (isIntersecting) plan(card);
    }
  },
  { rootMargin: NEAR },
);

/**
 * Show photos `{ name, status, file, … }`, the rest as in a response of the service. Those that are shown for the same
 * `owner` already are changed in their place.
 */
export function showPhotos(owner, photos) {
  if (shownFor === owner && cards.length === photos.length) {
    changePhotos(photos.map((photo, position) => ({ ...photo, position })));
    return;
  }
  watcher.disconnect();
  cards.forEach(release);
  shownFor = owner;
  cards = photos.map(makeCard);
  $("batch-photos").replaceChildren(...cards.map(({ node }) => node));
  for (const { node } of cards) watcher.observe(node);
  filter("all");
  count();
}

/** The photos that are shown belong to this owner from now on. */
export const handPhotosTo = (owner) => (shownFor = owner);

/** Take over what has changed, of each photo with a `position`. */
export function changePhotos(changes) {
  for (const change of changes) {
    const card = cards[change.position];
    if (!card) continue;
    card.photo = { ...card.photo, ...change };
    plan(card);
  }
}

function plan(card) {
  if (!changed.size) requestAnimationFrame(paintAll);
  changed.add(card);
}

function paintAll() {
  for (const card of changed) paint(card);
  changed.clear();
  count();
}

function makeCard(photo) {
  const card = {
    photo,
    isNear: false,
    shows: "",
    picture: element("a", { className: "picture" }),
    state: element("span", { className: "state" }),
    review: element("span", { className: "review", hidden: true }, t("Needs review")),
    advice: element("p", { className: "advice", hidden: true }),
  };
  const name = element("b", { className: "name", title: photo.name }, photo.name);
  const about = element("div", { className: "about" }, name, card.state, " ", card.review, card.advice);
  card.node = element("li", { className: "photo" }, card.picture, about);
  cardOf.set(card.node, card);
  paint(card);
  return card;
}

function paint(card) {
  const { photo, node, state, review, advice, picture } = card;
  node.dataset.status = photo.status;
  node.toggleAttribute("data-review", photo.needsReview === true);
  state.textContent = STATES[photo.status];
  review.hidden = !photo.needsReview;
  advice.hidden = !photo.error;
  advice.textContent = photo.error?.detail ?? "";
  if (photo.resultUrl) {
    picture.href = `#job=${photo.jobId}`;
    picture.ariaLabel = t("Open {name}", { name: photo.name });
  }
  if (card.isNear) showPicture(card);
}

const pictureOf = ({ thumbnailUrl, resultUrl }) => thumbnailUrl ?? resultUrl;

/** Show the cut-out if it is there, until then the photo itself. */
async function showPicture(card) {
  const url = pictureOf(card.photo);
  if (url) {
    if (card.shows === "result") return;
    card.shows = "result";
    const image = element("img", { alt: "", src: url });
    // What is shown stays until the cut-out is there.
    await image.decode().then(() => put(card, image), () => (card.shows = "")); // one that comes near again tries again
  } else if (card.photo.file && !card.shows) {
    card.shows = "file";
    const copy = await thumbnailOf(card.photo.file, () => card.isNear && card.shows === "file");
    if (card.shows !== "file") return;
    if (copy) put(card, element("img", { alt: "", className: "own", src: URL.createObjectURL(copy) }));
    else if (!card.isNear) card.shows = "";
  }
}

function put(card, image) {
  release(card);
  card.picture.replaceChildren(image);
}

/** Give the memory of a small copy back. */
function release({ picture }) {
  const shown = picture.firstElementChild;
  if (shown?.matches(".own")) URL.revokeObjectURL(shown.src);
}

/** Show all photos, the failed ones, or those that a person should look at. */
export function filter(which) {
  $("batch-photos").dataset.show = which;
  for (const button of $("batch-filters").children) button.ariaPressed = String(button.dataset.show === which);
}

function count() {
  const numbers = {
    all: cards.length,
    failed: cards.filter(({ photo }) => photo.status === "failed").length,
    review: cards.filter(({ photo }) => photo.needsReview).length,
  };
  for (const button of $("batch-filters").children) {
    const held = numbers[button.dataset.show];
    button.lastElementChild.textContent = number(held);
    button.hidden = !held;
  }
  $("batch-filters").hidden = !numbers.failed && !numbers.review;
  if (!numbers[$("batch-photos").dataset.show]) filter("all");
}

export function startPhotos() {
  for (const button of $("batch-filters").children) {
    button.addEventListener("click", () => filter(button.dataset.show));
  }
}
