// What the view History shows of a photo and of a batch.

import { element } from "../common.js";
import { ago, dateTime, number, plural, t } from "../words.js";

const TIERS = { basic: t("Basic"), standard: t("Standard"), professional: t("Professional"), industry: t("Industry") };
const STATUSES = {
  pending: t("Waiting"),
  processing: t("In work"),
  completed: t("Done"),
  failed: t("Failed"),
  partial: t("Partly done"),
  cancelled: t("Cancelled"),
};

/** @param job as the service lists it */
export function jobCard(job) {
  const name = job.name || t("Photo without a name");
  const card = element("li", { className: `card ${job.status}`, "data-job": job.jobId });
  card.append(job.resultUrl ? pictureOf(job, name) : insteadOf(job), element("div", { className: "about" }, ...aboutOf(job, name)));
  return card;
}

function pictureOf(job, name) {
  const link = element("a", { className: "what", href: `#job=${job.jobId}`, title: name });
  const image = element("img", { alt: t("{name}, open", { name }), loading: "lazy", decoding: "async", width: 320, height: 320 });
  image.addEventListener("error", () => image.replaceWith(element("span", { className: "lost" }, t("This picture cannot be shown now."))));
  image.src = job.thumbnailUrl;
  link.append(image);
  return link;
}

function insteadOf(job) {
  if (job.status === "failed") {
    const way = t("It cost nothing.");
    return element("div", { className: "what why", tabIndex: -1 }, element("p", {}, job.error.detail), element("p", { className: "hint" }, way));
  }
  const text = {
    completed: t("The result is no longer kept. Send the photo again if you need it."),
    cancelled: t("It was cancelled, and cost nothing."),
  }[job.status];
  return element("div", { className: "what why", tabIndex: -1 }, element("p", {}, text ?? t("The result is not there yet.")));
}

function aboutOf(job, name) {
  const parts = [element("b", { className: "name", title: name }, name)];
  const marks = [];
  if (job.status !== "completed") marks.push(element("span", { className: `mark ${job.status}` }, STATUSES[job.status]));
  if (job.needsReview) marks.push(element("span", { className: "mark review", title: t("A person should look at this result.") }, t("Needs review")));
  if (marks.length) parts.push(element("span", { className: "marks" }, ...marks));
  const when = element("time", { dateTime: job.createdAt, title: dateTime(job.createdAt) }, ago(job.createdAt));
  parts.push(element("span", { className: "facts" }, `${TIERS[job.tier] ?? job.tier} · `, when));
  if (job.status === "completed") {
    parts.push(element("span", { className: "facts" }, [priceOf(job), job.model].filter(Boolean).join(" · ")));
  }
  if (job.resultUrl) {
    const file = `${name.replace(/\.[^.]*$/, "")}-cutout.${job.format}`;
    const label = t("Download {name}", { name });
    parts.push(element("a", { className: "get", href: job.resultUrl, download: file, "aria-label": label, title: label }, t("Download")));
  }
  return parts;
}

function priceOf({ credits, paidBy }) {
  if (paidBy === "quota") return t("from the plan");
  if (paidBy === "free") return t("free");
  return plural(credits, "{count} credit", "{count} credits");
}

/** @param batch as the service lists it */
export function batchCard(batch) {
  const link = element("a", { href: `#batch=${batch.batchId}` });
  const when = element("time", { dateTime: batch.createdAt, title: dateTime(batch.createdAt) }, ago(batch.createdAt));
  const failed = batch.counts.failed ? ` · ${t("{count} failed", { count: number(batch.counts.failed) })}` : "";
  link.append(
    element("b", {}, plural(batch.images, "{count} photo", "{count} photos")),
    element("span", {}, `${TIERS[batch.tier] ?? batch.tier} · ${STATUSES[batch.status]}${failed}`),
    element("span", {}, when),
  );
  return element("li", {}, link);
}
