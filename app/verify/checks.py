"""The checklist: each step checks one thing that has to work, and says what is wrong and how to fix it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from cutout.app.billing.pricing import CREDITS
from cutout.app.db import migrate
from cutout.app.verify import images
from cutout.app.verify.checklist import Fact, Skipped, Step, Target
from cutout.app.verify.client import (
    API,
    BatchAcceptedShape,
    BatchShape,
    Client,
    CreditsShape,
    EntryShape,
    Failed,
    HealthShape,
    JobShape,
    JobsShape,
    OpenApiShape,
    PriceShape,
    PricingShape,
    ProblemShape,
    Refused,
    SubscriptionShape,
)
from cutout.app.verify.images import PHOTOS
from cutout.inference.tiers import SOLD, Tier
from cutout.version import __version__

# 100 standard images cost 800 credits, less 10 %.
PRICED_IMAGES, PRICED_CREDITS = 100, 720
PROBLEM, NO_PHOTO = "application/problem+json", b"This is not a photo.\n"
# Pauses between polls of a batch: short at first, then long enough to stay far below a user's 120 reads per minute.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS, CANCEL_SECONDS = 0.2, 2.0, 5.0
LEDGER_PAGE, MOST_PAGES = 200, 20
PROMPTLY = Target(1)
TARGETS = dict.fromkeys(SOLD, Target(10, 5)) | dict.fromkeys((Tier.BASIC, Tier.PREVIEW), Target(5, 2))
OF_BATCH = Target(len(PHOTOS) * TARGETS[Tier.BASIC].high, len(PHOTOS) * TARGETS[Tier.BASIC].low)


class Visit:
    """State of one run of the checklist: what was found so far, and which jobs were made and charged."""

    def __init__(
        self,
        client: Client,
        tiers: Sequence[Tier] = SOLD,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare without sending requests. `tell` is called with the progress of a long step."""
        self._client = client
        self._tiers = list(dict.fromkeys(tiers))
        self._tell = tell
        self._health: HealthShape
        self._pricing: PricingShape
        self._before: CreditsShape
        self._jobs: dict[str, Tier] = {}
        # Credits charged, by the key of the ledger entries.
        self._charged: dict[str, int] = {}
        # Number of removals paid by the quota, and the day of that quota.
        self._of_quota = 0
        self._day = ""
        self._open_batch: str | None = None
        self._how_far = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave_nothing()

    def steps(self) -> list[Step]:
        """Return the checklist in order."""
        removals = [
            Step(f"removal, {tier}", partial(self._remove, tier), ("credits",), TARGETS[tier])
            for tier in self._tiers
        ]
        return [
            Step("health", self._see_health, target=PROMPTLY),
            Step("version and schema", self._see_version, ("health",)),
            Step("queue", self._see_queue, ("health",)),
            Step("workers", self._see_workers, ("queue",)),
            Step("prices", self._see_prices, ("health",), PROMPTLY),
            Step("price of a batch", self._price_batch, ("health",), PROMPTLY),
            Step(
                "credits", self._count_credits, ("version and schema", "prices", "price of a batch"), PROMPTLY
            ),
            *removals,
            Step("batch", self._make_batch, ("credits", "workers"), OF_BATCH),
            Step("ledger", self._see_ledger, ("credits",), PROMPTLY),
            Step("quota", self._see_quota, ("credits",), PROMPTLY),
            Step("an error", self._make_error, ("credits",), PROMPTLY),
            Step("API description", self._see_description, ("health",), PROMPTLY),
        ]

    async def leave_nothing(self) -> None:
        """Cancel the batch if it has not ended, so that its remaining photos are not charged."""
        if self._open_batch is not None:
            batch, self._open_batch, self._how_far = self._open_batch, None, ""
            with suppress(Failed, TimeoutError):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await self._client.call("DELETE", f"{API}/batch/{batch}")

    @property
    def how_far(self) -> str:
        """The progress of the current batch in parentheses, to append to a message; empty if there is none."""
        return f" ({self._how_far})" if self._how_far else ""

    async def _see_health(self) -> Fact:
        # While the database is down, the service responds with 503 and the same schema.
        answer = await self._client.call("GET", "/api/health", wanted=(200, 503), as_user=False)
        if answer.status_code == 503 and answer.headers.get("Content-Type") == PROBLEM:
            raise Failed(self._client.parse(ProblemShape, answer).detail)
        health = self._health = self._client.parse(HealthShape, answer)
        if health.schema_revision is None:
            raise Failed(
                "The database does not answer the service. Check that it is running and that DATABASE_URL is right."
            )
        if answer.status_code != 200 or health.status != "ok":
            why = " ".join(problem.detail for problem in health.problems) or "See its log for the reason."
            raise Failed(f"The service reports the status {health.status}. {why}")
        return Fact(f"{health.version} on {health.device}")

    async def _see_version(self) -> Fact:
        there, here = self._health, await asyncio.to_thread(migrate.head)
        if there.version != __version__:
            raise Failed(
                f"The deployment runs version {there.version} (schema {there.schema_revision}), but this command is version"
                f" {__version__} (schema {here}). Restart the deployment, or use the `cutout verify` of its version."
            )
        if there.schema_revision != here:
            raise Failed(
                f"The database is at schema {there.schema_revision}, but version {__version__} needs {here}. Run:"
                " cutout migrate"
            )
        return Fact(f"version {__version__}, schema {here}")

    async def _see_queue(self) -> Fact:
        queue = self._health.queue
        if queue is None:
            raise Failed(
                "The service has no queue, so it accepts no batches. Set REDIS_URL, or let `cutout serve` start a queue"
                " (CUTOUT_WORKERS above 0)."
            )
        if not queue.answers:
            raise Failed(
                "The queue does not answer the service. Check that Redis or Valkey is running and that REDIS_URL is right."
            )
        return Fact(f"{queue.waiting} photos of {queue.batches} batches are waiting")

    async def _see_workers(self) -> Fact:
        workers = self._health.workers
        if not workers:
            raise Failed(
                "No worker is alive. Start one (cutout worker), or see its log for why it ended. A worker that has just"
                " started must load its models first."
            )
        others = [worker for worker in workers if worker.version != self._health.version]
        if others:
            named = ", ".join(f"{worker.name} ({worker.version})" for worker in others)
            raise Failed(
                f"Some workers have another version than the service ({self._health.version}): {named}. Update them."
            )
        at_batches = [worker for worker in workers if "batch" in worker.queues]
        if not at_batches:
            raise Failed("No worker processes batches. Start one with --queues interactive,batch.")
        return Fact(f"{len(workers)} alive, {len(at_batches)} of them process batches")

    async def _see_prices(self) -> Fact:
        pricing = self._pricing = await self._client.read(
            PricingShape, "GET", f"{API}/pricing", as_user=False
        )
        substitutes: dict[str, list[str]] = {}
        for tier in SOLD:
            credits, told = CREDITS[tier], pricing.tiers.get(tier)
            if told is None:
                raise Failed(f"The tier {tier} is not offered.")
            if not told.model or not told.backend:
                raise Failed(f"The model or backend of tier {tier} is not named.")
            if told.credits != credits:
                raise Failed(f"{tier} costs {told.credits} credits there, but {credits} in this version.")
            if told.substitute:
                substitutes.setdefault(f"{told.model} is a substitute for {told.wanted}", []).append(tier)
        if substitutes:
            text = "; ".join(f"{', '.join(tiers)}: {which}" for which, tiers in substitutes.items())
            return Fact(text, doubtful=True)
        served = {tier: pricing.tiers[tier] for tier in SOLD}
        return Fact(", ".join(f"{tier}: {told.model} ({told.backend})" for tier, told in served.items()))

    async def _price_batch(self) -> Fact:
        wanted = {"tier": Tier.STANDARD, "imageCount": PRICED_IMAGES}
        price = await self._client.read(PriceShape, "POST", f"{API}/pricing/calculate", json=wanted)
        text = f"{PRICED_IMAGES} standard images cost {price.final_credits} credits"
        if price.final_credits != PRICED_CREDITS:
            raise Failed(f"{text}, not {PRICED_CREDITS}.")
        return Fact(text)

    async def _count_credits(self) -> Fact:
        """Check that the balance covers all later steps before any of them is charged."""
        self._before = await self._credits()
        subscription = await self._subscription()
        self._day = subscription.today.day if subscription.today else ""
        needed = self._needed(subscription)
        total, balance = sum(needed.values()), self._before.balance
        if balance < total:
            costs = ", ".join(f"{credits} for the {what}" for what, credits in needed.items() if credits)
            raise Failed(
                f"This takes {total} credits ({costs}), but the user has {balance}. Nothing was charged. Grant some (cutout"
                f" credits grant USER {total - balance}), or test fewer tiers: --tier basic."
            )
        return Fact(f"{total} of {balance:,} needed")

    async def _remove(self, tier: Tier) -> Fact:
        photo = images.photo()
        answer = await self._client.call(
            "POST",
            f"{API}/remove",
            files={"image": ("verify.jpg", photo, "image/jpeg")},
            data={"tier": tier},
            headers={"Accept": images.PNG},
        )
        percent = images.require_cut_out(answer.content, answer.headers.get("Content-Type", ""))
        job, model = (answer.headers.get(f"X-Cutout-{name}") for name in ("Job", "Model"))
        if not job or not model:
            raise Failed(
                "The response lacks the headers X-Cutout-Job and X-Cutout-Model. Check whether a proxy removes them."
            )
        self._jobs[job] = tier
        text = f"{model}, {percent} % foreground"
        told = self._pricing.tiers[tier].model
        return Fact(text if model == told else f"{text}; the price list names {told}", doubtful=model != told)

    async def _make_batch(self) -> Fact:
        accepted = await self._client.read(
            BatchAcceptedShape,
            "POST",
            f"{API}/batch",
            wanted=(202,),
            files=[("images", (name, images.photo(colour), "image/jpeg")) for name, colour in PHOTOS.items()],
            data={"tier": Tier.BASIC, "imageCount": len(PHOTOS)},
        )
        self._open_batch = accepted.batch_id
        batch = await self._watch(accepted.batch_id)
        self._open_batch = None
        self._charged[f"batch:{accepted.batch_id}"] = batch.credits_charged or 0
        if batch.status != "completed":
            reasons = {f"{p.name}: {p.error.detail}" for p in batch.photos if p.error is not None}
            raise Failed(f"The batch ended with status {batch.status}. {' '.join(sorted(reasons))}".rstrip())
        if batch.credits_charged != accepted.price.final_credits:
            raise Failed(f"{batch.credits_charged} credits were charged, not {accepted.price.final_credits}.")
        if batch.zip_url is None:
            raise Failed("The batch is completed but has no ZIP.")
        # The URL is signed, so that it works without a login, for example from an e-mail.
        archive = await self._client.call("GET", batch.zip_url, as_user=False)
        images.require_archive(archive.content, PHOTOS)
        return Fact(
            f"{len(PHOTOS)} photos, {len(archive.content) / 1000:.0f} kB of ZIP that matches its manifest"
        )

    async def _watch(self, batch_id: str) -> BatchShape:
        wait = FIRST_LOOK_SECONDS
        while True:
            batch = await self._client.read(BatchShape, "GET", f"{API}/batch/{batch_id}")
            if batch.finished_at is not None:
                self._how_far = ""
                return batch
            self._how_far = batch.told
            self._tell(batch.told)
            await asyncio.sleep(wait)
            wait = min(1.5 * wait, LAST_LOOK_SECONDS)

    async def _see_ledger(self) -> Fact:
        for job_id, tier in self._jobs.items():
            job = await self._client.read(JobShape, "GET", f"{API}/jobs/{job_id}")
            by_quota = job.paid_by == "quota"
            self._of_quota += by_quota
            cost = 0 if by_quota else CREDITS[tier]
            if (job.status, job.tier, job.credits) != ("completed", tier, cost):
                raise Failed(
                    f"The {tier} job has status {job.status}, tier {job.tier} and {job.credits} credits, not {cost}."
                )
            self._charged[f"job:{job_id}"] = cost
        if not self._charged:
            raise Skipped("no earlier step made a charge")
        after, entries = await self._new_entries(self._before)
        for key, cost in self._charged.items():
            own = [entry for entry in entries if entry.key.partition(":")[2] == key]
            movements = sorted(entry.movement for entry in own)
            moved = sum(entry.credits for entry in own)
            if moved != -cost or (cost and "charge" not in movements):
                raise Failed(
                    f"{key} costs {cost} credits, but its ledger entries are: {', '.join(movements) or 'none'}, {moved:+d}."
                )
        total = sum(self._charged.values())
        others = [entry for entry in entries if entry.key.partition(":")[2] not in self._charged]
        if others:
            return Fact(f"{total} credits charged; the account was also used by other requests")
        if after.balance != self._before.balance - total:
            raise Failed(
                f"{total} credits were charged, but the balance went from {self._before.balance} to {after.balance}."
            )
        return Fact(f"{total} credits charged, {after.balance:,} left")

    async def _see_quota(self) -> Fact:
        found = await self._subscription()
        if found.plan is None:
            if not found.plans:
                raise Failed(f"There is no plan (status {found.status}), and none is offered.")
            return Fact(f"no plan; offered: {', '.join(found.plans)}")
        plan, today = self._pricing.plans.get(found.plan), found.today
        if plan is None or today is None:
            raise Failed(f"The plan is {found.plan}, but its quota is missing.")
        if today.left != max(0, plan.removals_per_day - today.used):
            raise Failed(
                f"{today.used} of {plan.removals_per_day} removals are used, but {today.left} are left."
            )
        if today.used < self._of_quota and today.day == self._day:
            raise Failed(
                f"{self._of_quota} removals were paid by the quota, but only {today.used} are counted."
            )
        return Fact(f"{found.plan}, {today.left} of {plan.removals_per_day} left today")

    async def _make_error(self) -> Fact:
        before = await self._credits()
        try:
            await self._client.call(
                "POST", f"{API}/remove", files={"image": ("verify.txt", NO_PHOTO, "text/plain")}
            )
        except Refused as refused:
            if refused.status not in (400, 415):
                raise
            told = f"{refused.status} {refused.code}"
        else:
            raise Failed("A file that is not a photo was accepted as one.")
        after, entries = await self._new_entries(before)
        failed = await self._client.read(JobsShape, "GET", f"{API}/jobs", params={"status": "failed"})
        keys = {f"job:{job.job_id}" for job in failed.jobs}
        kept = sum(entry.credits for entry in entries if entry.key.partition(":")[2] in keys)
        if kept or (not entries and after.balance != before.balance):
            raise Failed(
                f"A file that is not a photo was refused, but {-kept or before.balance - after.balance} credits were charged."
            )
        return Fact(f"invalid photo: {told}, nothing charged")

    async def _see_description(self) -> Fact:
        described = await self._client.read(OpenApiShape, "GET", "/openapi.json", as_user=False)
        if described.info.version != self._health.version:
            raise Failed(
                f"/openapi.json has version {described.info.version}, but /api/health has {self._health.version}. Check whether"
                " several versions run behind this URL."
            )
        return Fact(f"{len(described.paths)} paths in version {described.info.version}")

    async def _credits(self) -> CreditsShape:
        return await self._client.read(CreditsShape, "GET", f"{API}/credits", params={"limit": LEDGER_PAGE})

    async def _new_entries(self, before: CreditsShape) -> tuple[CreditsShape, list[EntryShape]]:
        """Return the current credits and the ledger entries since `before`."""
        known = {entry.id for entry in before.entries}
        # If two entries are written concurrently, the one with the lower id may become visible later.
        oldest = min(known, default=0)
        first = page = await self._credits()
        entries = []
        for _ in range(MOST_PAGES):
            entries += [entry for entry in page.entries if entry.id > oldest and entry.id not in known]
            if len(page.entries) < LEDGER_PAGE or page.entries[-1].id <= oldest:
                break
            page = await self._client.read(
                CreditsShape,
                "GET",
                f"{API}/credits",
                params={"limit": LEDGER_PAGE, "before": page.entries[-1].id},
            )
        return first, entries

    async def _subscription(self) -> SubscriptionShape:
        return await self._client.read(SubscriptionShape, "GET", f"{API}/subscription")

    def _needed(self, subscription: SubscriptionShape) -> dict[str, int]:
        """Return the credits needed for each removal and the batch; those that the quota pays need 0."""
        needed, today = {}, subscription.today
        plan = self._pricing.plans.get(subscription.plan or "")
        left = today.left if today is not None else 0
        for tier in self._tiers:
            paid = plan is not None and tier in plan.tiers and left > 0
            if paid and tier is Tier.PROFESSIONAL:
                paid = today is not None and today.professional_left > 0
            left -= paid
            needed[f"removal ({tier})"] = 0 if paid else CREDITS[tier]
        return needed | {"batch": len(PHOTOS) * CREDITS[Tier.BASIC]}
