// The page's language. English is in the code and the markup; words/id.js translates it. What is said by the service,
// such as the text of an error, stays as the service says it.

import { recall, remember } from "./remembered.js";

const LANGUAGES = ["en", "id"];
const KEPT = "language";

export const language = chosen();
const words = language === "id" ? (await import("./words/id.js")).default : {};

/** Texts that were asked for and have no translation, for tests. */
export const missing = new Set();

function chosen() {
  const wanted = [recall(KEPT), ...navigator.languages.map((one) => one.split("-")[0])];
  return wanted.find((one) => LANGUAGES.includes(one)) ?? "en";
}

function translated(text) {
  if (language === "en") return text;
  if (!(text in words)) missing.add(text);
  return words[text] ?? text;
}

/** Return a text in the page's language; `{name}` in it is replaced by the value of that name. */
export function t(text, values = {}) {
  return translated(text).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** Return the text that goes with a number: `plural(2, "{count} photo", "{count} photos")`. */
export const plural = (count, one, many, values = {}) => t(count === 1 ? one : many, { count: number(count), ...values });

/** Write a number as the language does. */
export const number = (value, options = {}) => new Intl.NumberFormat(language, options).format(value);

/** Write a moment, given as the service does, in the reader's time zone. */
export const dateTime = (text) =>
  new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(text));

export const date = (text) => new Intl.DateTimeFormat(language, { dateStyle: "medium" }).format(new Date(text));

const UNITS = [["day", 86_400], ["hour", 3600], ["minute", 60]];

/** Write how long ago a moment is, given as the service does: "3 hours ago". */
export function ago(text) {
  const seconds = Math.max(0, (Date.now() - new Date(text)) / 1000);
  const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? ["second", 1];
  const count = unit === "second" ? 0 : Math.floor(seconds / length);
  return new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(-count, unit);
}

export const rupiah = (value) => `Rp ${number(value)}`;

const ATTRIBUTES = ["aria-label", "title", "placeholder", "alt"];
const NOT_WORDS = /^[^\p{L}]*$/u;

/** Translate the markup below a node, template contents too. */
function translate(root) {
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  for (let node = walk.currentNode; node; node = walk.nextNode()) {
    if (node.nodeType === Node.TEXT_NODE) {
      const text = node.data.trim().replace(/\s+/g, " ");
      if (!NOT_WORDS.test(text) && !node.parentElement?.closest("[lang]:not(html), script, style, [translate=no]")) {
        node.data = node.data.replace(/\S[\s\S]*\S|\S/, () => translated(text));
      }
    } else if (node.nodeType === Node.ELEMENT_NODE) {
      for (const name of ATTRIBUTES) {
        const text = node.getAttribute(name);
        if (text && !NOT_WORDS.test(text)) node.setAttribute(name, translated(text));
      }
      if (node.localName === "template") translate(node.content);
    }
  }
}

/** Translate the page, and let its reader choose another language. */
export function startWords() {
  document.documentElement.lang = language;
  if (language !== "en") translate(document.body);
  const choice = document.getElementById("language");
  choice.value = language;
  choice.addEventListener("change", () => {
    remember(KEPT, choice.value);
    location.reload();
  });
}
