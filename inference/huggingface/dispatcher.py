"""The Hugging Face API behind the face of a local network: pixels out as a JPEG, a mask in.

What is sent is what the network sees, and no more: the upright photo at the network's own size, 1024² for RMBG, prepared
by the same code as for a network of this host. So the mask comes back at that size too, and recipe, second look,
compositing and encoding are the same.

Calls are made on an event loop of their own: only there can one be broken off wherever it hangs, so that the deadline
holds.
"""

import asyncio
import logging
import math
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import torch
from huggingface_hub import get_async_session
from torch import Tensor

from cutout.inference.backends.runners import Runner
from cutout.inference.engine import Engine, Serving
from cutout.inference.errors import (
    DeadlineExceeded,
    DeviceLost,
    ModelUnavailable,
    NetworkFailed,
    Overloaded,
    PhotoTooLarge,
)
from cutout.inference.huggingface import client
from cutout.inference.huggingface.client import ENDPOINT_URL, Offer, Trouble, endpoint_offer, find_offer
from cutout.inference.huggingface.config import Access
from cutout.inference.imaging import encode
from cutout.inference.imaging.encode import Format
from cutout.inference.limits import DEFAULT_LIMITS, Limits
from cutout.inference.matting.mask import to_levels
from cutout.inference.scheduling.circuit_breaker import Breaker
from cutout.inference.tiers import RMBG_2, TIERS, Choice, Tier
from cutout.models.catalog import Checkpoint, HubSource, find

log = logging.getLogger(__name__)

JPEG_QUALITY = 95
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Patience:
    """How often a call that fails is made, and after how many seconds again: `first`, then twice as many each time."""

    attempts: int = 4
    first: float = 0.5
    longest: float = 8.0


class RemoteRunner:
    """A checkpoint that somebody serves."""

    device = CPU

    def __init__(self, offer: Offer, remote: "Remote") -> None:
        self.offer = offer
        self.backend = offer.backend
        self._remote = remote

    def run(self, pixels: Tensor) -> Tensor:
        """Look at each picture, within the deadline of one.

        Raises:
            CutoutError: see `Remote.submit`.

        """
        futures = [self._remote.submit(self, picture) for picture in pixels.split(1)]
        return torch.cat([future.result()[0] for future in futures])

    def warm_up(self, input_size: int) -> None:
        """Do nothing: a call only to wake a model is one that somebody pays."""


class Remote:
    """Calls Hugging Face, up to `concurrency` at once. Safe to use from any number of threads."""

    def __init__(
        self,
        access: Access,
        patience: Patience = Patience(),
        breaker: Breaker | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.location = "huggingface"
        self.seconds = access.seconds
        self.busy_seconds = 0.0
        self.seconds_each = 0.0
        self.breaker = breaker or Breaker()
        self.lost: DeviceLost | None = None
        self._counted = 0.0  # up to here, busy_seconds are
        self._access = access
        self._patience = patience
        self._sleep = sleep
        self._client = get_async_session()
        self._slots = asyncio.Semaphore(access.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="huggingface", daemon=True)
        self._thread.start()

    def require_room(self) -> None:
        """Return if a call would be tried now.

        Raises:
            Overloaded: too many have failed just now.

        """
        if self.breaker.state == "open":
            raise self._left_alone()

    def submit(
        self,
        kind: Runner,
        item: Tensor,
        *,
        caller: Hashable = None,
        deadline: float = math.inf,
        spent: float = 0.0,
    ) -> Future[tuple[Tensor, float]]:
        """Have pixels looked at; the future gives the mask, and the seconds that it took, waiting for a turn left out.

        Without a deadline of its own, as in a batch, a photo waits while the service is left alone, as long as
        `seconds` allow.

        Its errors:
            Overloaded: the service wants a pause longer than there is time, or has failed too often just now.
            DeadlineExceeded: there was no mask by the deadline, or within `seconds`.
            RemoteRefused, RemoteFailed: the service does not serve this host, or failed each time.
            PhotoTooLarge: the service calls the picture too large.

        """
        assert isinstance(kind, RemoteRunner)
        jpeg = to_jpeg(item, kind.offer.checkpoint)
        ends = min(deadline, time.monotonic() + self.seconds - spent)
        looked = self._look(kind.offer, jpeg, ends, patient=deadline == math.inf)
        return asyncio.run_coroutine_threadsafe(looked, self._loop)

    def lose(self, message: str) -> None:
        """Take no more photos: this host's own part of the work has failed."""
        self.lost = DeviceLost(message)

    def close(self) -> None:
        """Break off what is still out, and stop."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
        await self._loop.shutdown_default_executor()

    async def _look(self, offer: Offer, jpeg: bytes, ends: float, *, patient: bool) -> tuple[Tensor, float]:
        """See one picture through, and tell the breaker what became of it."""
        while not self.breaker.admit():
            if not patient or time.monotonic() + self.breaker.wait >= ends:
                raise self._left_alone()
            await self._sleep(self.breaker.wait)
        # A photo that waited long for its turn here says nothing of who is elsewhere.
        telling = ends - time.monotonic() >= self.seconds / 2
        learnt = False
        began = time.monotonic()
        try:
            async with asyncio.timeout_at(ends), self._slots:
                began = time.monotonic()
                mask = await self._until_it_works(offer, jpeg, ends)
            learnt = True
            self.breaker.succeeded()
        except TimeoutError:
            late = f"Hugging Face gave no mask within {self.seconds:g} s (CUTOUT_HF_DEADLINE_SECONDS)."
            if telling:
                learnt = True
                self.breaker.failed(late)
            raise DeadlineExceeded(f"{late} Try again in a moment.") from None
        except Trouble as trouble:
            learnt = True
            self._tell(trouble)
            raise trouble.error from None
        except Exception as error:
            raise NetworkFailed("The Hugging Face API could not be used on this photo. Try again.") from error
        finally:
            if not learnt:
                self.breaker.broken_off()
            ended = time.monotonic()
            self.busy_seconds += ended - max(began, self._counted)
            self._counted = ended
        seconds = ended - began
        each = seconds / self._access.concurrency
        self.seconds_each = 0.8 * self.seconds_each + 0.2 * each if self.seconds_each else each
        return mask, seconds

    async def _until_it_works(self, offer: Offer, jpeg: bytes, ends: float) -> Tensor:
        """Call until there is a mask, or no more sense in it.

        Raises:
            Trouble: what the last call said.

        """
        calls = failures = 0
        while True:
            try:
                data = await client.call(self._client, offer, jpeg, self._access)
                return await asyncio.to_thread(client.read_mask, data, offer.checkpoint.input_size)
            except Trouble as trouble:
                if not trouble.again:
                    raise
                pause = min(self._patience.first * 2 ** min(calls, 10), self._patience.longest)
                pause *= random.uniform(0.5, 1.0)
                calls += 1
                failures += not isinstance(trouble.error, Overloaded)
                if trouble.wait is not None:
                    # Never earlier than it says; not all at the same moment either.
                    pause = max(pause, trouble.wait + random.uniform(0.0, min(1.0, trouble.wait / 10)))
                if failures == self._patience.attempts or time.monotonic() + pause >= ends:
                    raise
                log.info("Hugging Face is asked again in %.1f s: %s", pause, trouble)
            await self._sleep(pause)

    def _tell(self, trouble: Trouble) -> None:
        """Tell the breaker of a photo that failed."""
        error = trouble.error
        if isinstance(error, Overloaded):
            self.breaker.failed(str(error), min(error.retry_after, 300.0))
        elif isinstance(error, PhotoTooLarge):
            self.breaker.succeeded()  # whoever says so is well
        else:
            self.breaker.failed(str(error))

    def _left_alone(self) -> Overloaded:
        wait = max(1.0, self.breaker.wait)
        return Overloaded(
            f"The Hugging Face API has failed several times and is left alone for {wait:.0f} s; the last time:"
            f" {self.breaker.reason}",
            retry_after=wait,
        )


def open_remote(
    access: Access,
    tiers: Iterable[Tier] = tuple(Tier),
    limits: Limits = DEFAULT_LIMITS,
    make_remote: Callable[[Access], Remote] = Remote,
) -> Engine:
    """Ask who serves each of `tiers`, and open an engine whose networks are there. The log says that photos leave this host.

    `make_remote` makes one of another patience.

    Raises:
        ModelUnavailable: nobody serves a tier, or that cannot be asked; the message says why.

    """
    choices = choose_remote(access, tiers)
    remote = make_remote(access)
    runners = {offer: RemoteRunner(offer, remote) for _, offer in choices}
    serving = {choice.tier: Serving(choice, runners[offer]) for choice, offer in choices}
    for offer in runners:
        where = access.endpoint and urlsplit(access.endpoint).hostname
        log.warning(
            "Images leave this host: Hugging Face gets them, for %s at %s",
            offer.checkpoint.name,
            where or offer.provider,
        )
    threads = limits.threads or (os.cpu_count() or 1) + access.concurrency
    return Engine(serving, replace(limits, threads=threads), remote)


def choose_remote(access: Access, tiers: Iterable[Tier]) -> list[tuple[Choice, Offer]]:
    """Find for each tier the first of its checkpoints that somebody serves; any that is served stands in at last.

    Raises:
        ModelUnavailable: nobody serves one, or that cannot be asked.

    """
    if access.endpoint is not None:
        offer = endpoint_offer(find(access.endpoint_model), access.endpoint)
        why = f"{ENDPOINT_URL} serves {access.endpoint_model}"
        return [(Choice(tier, offer.checkpoint, (why,)), offer) for tier in tiers]
    asked: dict[str, Offer | str] = {}
    return [_choose(tier, access, asked) for tier in tiers]


def _choose(tier: Tier, access: Access, asked: dict[str, Offer | str]) -> tuple[Choice, Offer]:
    reasons: list[str] = []
    for checkpoint in map(find, dict.fromkeys(TIERS[tier].checkpoints + RMBG_2)):
        for source in checkpoint.sources:
            if not isinstance(source, HubSource):
                continue
            if checkpoint.name not in asked:
                asked[checkpoint.name] = find_offer(checkpoint, source.repository, access)
            offer = asked[checkpoint.name]
            if isinstance(offer, Offer):
                return Choice(tier, offer.checkpoint, tuple(reasons)), offer
            reasons.append(offer)
    raise ModelUnavailable(
        f"Nobody serves tier {tier} at Hugging Face: {'; '.join(reasons)}. Set {ENDPOINT_URL} to an endpoint of your own,"
        " or CUTOUT_DEVICE=cpu."
    )


def to_jpeg(pixels: Tensor, checkpoint: Checkpoint) -> bytes:
    """Turn a network's input, float32 [1,3,S,S], back into the picture that it was made of."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    levels = to_levels(pixels[0] * std + mean).permute(1, 2, 0).contiguous()
    return encode.encode(levels.numpy(), Format.JPG, JPEG_QUALITY)
