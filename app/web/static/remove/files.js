// Files that were chosen or dropped, as { file, name }. The name includes the path within a folder.

import { $ } from "../common.js";
import { plural, t } from "../words.js";

const TAKEN = new Set($("file").accept.split(","));
const byName = new Intl.Collator(undefined, { numeric: true });
const { mostImages, photoMb, batchMb } = $("form").dataset;

export function chosen(files) {
  return [...files].map((file) => ({ file, name: file.webkitRelativePath || file.name || "photo" }));
}

export async function dropped(transfer) {
  // Read all items synchronously: the browser clears the list after the event.
  const items = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry() ?? item.getAsFile());
  const found = [];
  for (const item of items) {
    if (item instanceof File) found.push(...chosen([item]));
    else for await (const one of below(item)) found.push(one);
  }
  return found;
}

async function* below(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    yield { file, name: entry.fullPath.slice(1) };
    return;
  }
  const reader = entry.createReader();
  // readEntries returns a folder in chunks, of 100 entries in Chromium.
  for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length; ) {
    for (const one of some) yield* below(one);
  }
}

// Return the images, sorted by name, and the number of other files. Hidden files are ignored.
export function pictures(found) {
  const seen = found.filter(({ name }) => !name.split("/").pop().startsWith("."));
  // A single file is sent whatever its type: the service inspects its contents.
  const photos = seen.length === 1 ? seen : seen.filter(isPicture);
  photos.sort((one, other) => byName.compare(one.name, other.name));
  return { photos, others: seen.length - photos.length };
}

function isPicture({ file, name }) {
  const extension = name.match(/\.[^.]+$/)?.[0] ?? "";
  return TAKEN.has(file.type) || TAKEN.has(extension.toLowerCase());
}

// Return a sentence that says why these photos cannot be sent, or null if they can.
export function objection(photos) {
  if (!photos.length) return t("Your selection contains no picture.");
  if (photos.length > mostImages) {
    const counts = { count: photos.length, most: mostImages };
    return t("You chose {count} photos, but a batch may have at most {most}. Choose fewer.", counts);
  }
  const large = photos.filter(({ file }) => file.size > photoMb * 1e6);
  if (large.length) {
    const values = { name: large[0].name, most: photoMb };
    if (large.length === 1) return t("{name} is larger than {most} MB. Send a smaller file.", values);
    return plural(
      large.length - 1,
      "{name} and {count} other are larger than {most} MB. Send a smaller file.",
      "{name} and {count} others are larger than {most} MB. Send a smaller file.",
      values,
    );
  }
  if (photos.length > 1 && bytesOf(photos) > batchMb * 1e6) {
    return t("Together, these photos are larger than {most} MB. Send them in several batches.", { most: batchMb });
  }
  return null;
}

const bytesOf = (photos) => photos.reduce((sum, { file }) => sum + file.size, 0);
