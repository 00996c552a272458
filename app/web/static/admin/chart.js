// Charts of bars, drawn as SVG: stacked where the values are parts of a whole, else side by side. The mouse, a finger and
// the arrow keys read the values of one place on the axis; a table has them all.

import { element } from "../common.js";
import { number, t } from "../words.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const HEIGHT = 190; // of the bars, in pixels
const LINE = 18; // of the labels of the axis
const ABOVE = 8;
const LETTER = 7.2; // the width of a letter
const FEW = 8; // bars, each of which has its label
const THIN = 6; // bars without a line between them
const PLAIN = 10_000; // the first number of the scale that is shortened
const STEPS = [1, 2, 5, 10];

/**
 * Show a chart in a `figure`, in place of the one that it shows.
 * @param {HTMLElement} figure
 * @param {{
 *   title: string, axis: string,
 *   series: {name: string, kind: string}[], `kind` is a class that gives the colour
 *   bars: {label: string, name: string, values: number[]}[], one value for each series; whole numbers from 0
 *   write: (value: number) => string, stacked: boolean
 * }} chart `axis` says what the bars are, as the head of the table's first column
 */
export function drawChart(figure, chart) {
  const open = figure.querySelector("details")?.open ?? false;
  const help = t("The arrow keys read one bar after the other.");
  const plot = element("div", { className: "plot", tabIndex: 0, role: "img", "aria-label": `${chart.title}. ${help}` });
  const tip = element("div", { className: "tip", role: "status", hidden: true });
  figure.replaceChildren(
    element("figcaption", {}, chart.title),
    element("ul", { className: "legend" }, ...chart.series.map(({ name, kind }) => element("li", {}, swatch(kind), name))),
    element("div", { className: "frame" }, plot, tip),
    table(chart, open),
  );
  let drawn = null;
  const reader = readerOf(chart, plot, tip, () => drawn);
  // The size of the texts stays the same, so the drawing is made anew for each width; also when its view is shown first.
  new ResizeObserver(() => {
    if (!plot.clientWidth) return;
    drawn = draw(chart, plot.clientWidth);
    plot.replaceChildren(drawn.svg);
    reader.again();
  }).observe(plot);
}

const swatch = (kind) => element("i", { className: `swatch ${kind}`, "aria-hidden": "true" });

function shape(name, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Round numbers from 0 to the first that is at least `most`. */
function scaleTo(most) {
  const rough = Math.max(1, most / 4);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = STEPS.find((factor) => factor * power >= rough) * power;
  const count = Math.max(1, Math.ceil(most / step));
  return Array.from({ length: count + 1 }, (_, index) => index * step);
}

const sum = (values) => values.reduce((all, value) => all + value, 0);

/** Return the drawing, and where its bars are: `left` of the first, and the `band` that each has. */
function draw({ series, bars, stacked }, width) {
  const scale = scaleTo(Math.max(0, ...bars.map(({ values }) => (stacked ? sum(values) : Math.max(...values)))));
  const notation = scale.at(-1) < PLAIN ? "standard" : "compact";
  const labels = scale.map((value) => number(value, { notation }));
  const left = 10 + LETTER * Math.max(...labels.map((label) => label.length));
  const band = (width - left) / bars.length;
  const size = (value) => (value / scale.at(-1)) * HEIGHT;
  const room = LETTER * Math.max(...bars.map(({ label }) => label.length)) + 8;
  // Few labels that do not fit side by side have two lines; of many, some are left out.
  const lines = bars.length <= FEW && band < room ? 2 : 1;
  const svg = shape("svg", { width, height: ABOVE + HEIGHT + LINE * lines + 8, "aria-hidden": "true" });
  svg.append(hatching());
  scale.forEach((value, index) => {
    const y = Math.round(ABOVE + HEIGHT - size(value)) + 0.5;
    svg.append(
      shape("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }),
      shape("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, labels[index]),
    );
  });
  svg.append(shape("rect", { class: "band", x: left, y: ABOVE, width: band, height: HEIGHT, visibility: "hidden" }));
  const every = lines === 2 ? 1 : Math.ceil((1.6 * room) / band);
  bars.forEach(({ label, values }, index) => {
    const at = left + index * band;
    svg.append(...columns(values, series, stacked, at, band, size));
    // Counted from the last bar, which is the newest; its label ends where the drawing does.
    if ((bars.length - 1 - index) % every !== 0) return;
    const isLast = index === bars.length - 1 && every > 1;
    const x = isLast ? width : at + band / 2;
    const y = ABOVE + HEIGHT + LINE * (1 + (lines === 2 ? index % 2 : 0));
    svg.append(shape("text", { x, y, "text-anchor": isLast ? "end" : "middle" }, label));
  });
  return { svg, left, band };
}

/** The rectangles of one place on the axis. */
function columns(values, series, stacked, at, band, size) {
  const gap = Math.min(band * 0.25, 12);
  const width = Math.min(band - gap, stacked ? 56 : 96);
  const start = at + (band - width) / 2;
  const each = stacked ? width : width / values.length;
  let below = ABOVE + HEIGHT;
  return values.flatMap((value, index) => {
    if (!value) return [];
    const height = Math.max(size(value), 1.5); // a single one is seen beside thousands
    const y = (stacked ? below : ABOVE + HEIGHT) - height;
    below -= height;
    const x = stacked ? start : start + index * each;
    const edge = band < THIN ? "thin" : "edged";
    return [shape("rect", { class: `part ${edge} ${series[index].kind}`, x, y, width: each, height })];
  });
}

/** The pattern of failures, which are told apart by more than their colour. */
function hatching() {
  const lines = shape("path", { class: "hatch", d: "M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2" });
  const ground = shape("rect", { class: "hatched", width: 6, height: 6 });
  return shape("pattern", { id: "hatching", width: 6, height: 6, patternUnits: "userSpaceOnUse" }, ground, lines);
}

/** Let the mouse, a finger and the keys read one place on the axis after the other. */
function readerOf({ bars, series, write }, plot, tip, drawn) {
  let at = null;

  function read(index) {
    at = index;
    const band = plot.querySelector(".band");
    tip.hidden = at === null;
    band?.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at === null || !band) return;
    const { left, band: width } = drawn();
    band.setAttribute("x", left + at * width);
    const rows = series.flatMap(({ name, kind }, number) => {
      const value = bars[at].values[number];
      return value ? [element("li", {}, swatch(kind), element("span", {}, name), element("b", {}, write(value)))] : [];
    });
    const nothing = rows.length ? [] : [element("li", {}, t("Nothing"))];
    tip.replaceChildren(element("strong", {}, bars[at].name), element("ul", {}, ...rows, ...nothing));
    const middle = left + (at + 0.5) * width;
    const most = plot.clientWidth - tip.offsetWidth;
    tip.style.setProperty("left", `${Math.max(0, Math.min(most, middle - tip.offsetWidth / 2))}px`);
  }

  function point(event) {
    const { left, band } = drawn();
    const index = Math.floor((event.clientX - plot.getBoundingClientRect().left - left) / band);
    const place = Math.min(bars.length - 1, Math.max(0, index));
    if (place !== at) read(place);
  }

  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", () => read(null));
  plot.addEventListener("focus", () => at ?? read(bars.length - 1));
  plot.addEventListener("blur", () => read(null));
  plot.addEventListener("keydown", (event) => {
    const last = bars.length - 1;
    const from = at ?? last;
    const to = { ArrowLeft: Math.max(0, from - 1), ArrowRight: Math.min(last, from + 1), Home: 0, End: last }[event.key];
    if (event.key === "Escape") read(null);
    if (to === undefined) return;
    event.preventDefault();
    read(to);
  });
  return { again: () => at !== null && read(at) };
}

function table({ title, axis, series, bars, write }, open) {
  const head = [axis, ...series.map(({ name }) => name)].map((name) => element("th", { scope: "col" }, name));
  const rows = bars.map(({ name, values }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      ...values.map((value) => element("td", {}, write(value))),
    ),
  );
  const all = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return element(
    "details",
    { open },
    element("summary", {}, t("As a table")),
    element("div", { className: "scrolls", tabIndex: 0, role: "region", "aria-label": title }, all),
  );
}
