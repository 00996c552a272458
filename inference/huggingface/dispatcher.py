"""The Hugging Face API behind the interface of a local network: pixels are sent as a JPEG, and a mask comes back.

Only the network's input is sent: the upright photo at the network's input size, 1024² for RMBG, prepared by the same
code as for a local network. So the mask has that size too, and recipes, second look, compositing and encoding need no
special case.

Calls run on an event loop in a thread of its own, where a call can be cancelled wherever it hangs. This is what makes
the deadline reliable.
"""

import asyncio
import logging
import math
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

from cutout.inference.backends.runners import Runner, Serving
from cutout.inference.cores import usable_cores
from cutout.inference.engine import Engine
from cutout.inference.errors import (
    DeadlineExceeded,
    DeviceLost,
    ModelUnavailable,
    NetworkFailed,
    Overloaded,
    PhotoTooLarge,
)
from cutout.inference.figures import Figures
from cutout.inference.huggingface import client
from cutout.inference.huggingface.client import Offer, endpoint_offer, find_offer
from cutout.inference.huggingface.config import HuggingFaceConfig
from cutout.inference.huggingface.faults import ENDPOINT_URL, Trouble
from cutout.inference.imaging import encode
from cutout.inference.imaging.encode import Format
from cutout.inference.limits import DEFAULT_LIMITS, Limits
from cutout.inference.matting.mask import to_levels
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker
from cutout.inference.tiers import RMBG_2, USUAL, Choice, Orders, Tier, candidates, first_of
from cutout.models.catalog import Checkpoint, HubSource, find

log = logging.getLogger(__name__)

JPEG_QUALITY = 95
CPU = torch.device("cpu")


@dataclass(frozen=True)
class RetryPolicy:
    """Retry policy: at most `attempts` calls, with exponential back-off.

    The back-off starts at `first` seconds and doubles each time, up to `longest`.
    """

    attempts: int = 4
    first: float = 0.5
    longest: float = 8.0


class RemoteRunner:
    """Runs a checkpoint through the provider or endpoint that serves it."""

    device = CPU

    def __init__(self, offer: Offer, remote: "HuggingFaceDispatcher") -> None:
        self.offer = offer
        self.backend = offer.backend
        self._remote = remote

    def run(self, pixels: Tensor) -> Tensor:
        """Return the masks of a batch. Every photo is sent at once and gets the time limit of a single photo.

        Raises:
            CutoutError: see `HuggingFaceDispatcher.submit`.

        """
        futures = [self._remote.submit(self, picture) for picture in pixels.split(1)]
        return torch.cat([future.result()[0] for future in futures])

    def warm_up(self, input_size: int) -> None:
        """Do nothing, because a call just to warm up a model would cost money."""


class HuggingFaceDispatcher:
    """Calls Hugging Face, with up to `concurrency` calls at once. Safe to use from any number of threads."""

    def __init__(
        self,
        access: HuggingFaceConfig,
        patience: RetryPolicy = RetryPolicy(),
        breaker: CircuitBreaker | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.location = "huggingface"
        self.seconds = access.seconds
        self.busy_seconds = 0.0
        self.seconds_each = 0.0
        self.breaker = breaker or CircuitBreaker()
        self.figures = Figures()
        self.lost: DeviceLost | None = None
        self._counted = 0.0  # the time up to which busy_seconds is counted
        self._access = access
        self._patience = patience
        self._sleep = sleep
        self._client = get_async_session()
        self._slots = asyncio.Semaphore(access.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="huggingface", daemon=True)
        self._thread.start()

    def require_capacity(self) -> None:
        """Check that a call would be attempted now.

        Raises:
            Overloaded: too many calls have failed recently.

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
        """Submit one photo's pixels; the future gives the mask and the seconds it took, without the wait for a slot.

        A photo without a deadline, as in a batch, waits while the breaker is open, as long as `seconds` allow.

        Errors of the future:
            Overloaded: the service needs a longer pause than there is time for, or has failed too often recently.
            DeadlineExceeded: there was no mask by the deadline, or within `seconds`.
            RemoteRefused, RemoteFailed: the service refuses this host, or failed in every attempt.
            PhotoTooLarge: the service rejected the picture as too large.

        """
        assert isinstance(kind, RemoteRunner)
        jpeg = to_jpeg(item, kind.offer.checkpoint)
        ends = min(deadline, time.monotonic() + self.seconds - spent)
        looked = self._look(kind.offer, jpeg, ends, patient=deadline == math.inf)
        return asyncio.run_coroutine_threadsafe(looked, self._loop)

    def lose(self, message: str) -> None:
        """Mark this host's own device as lost with `message`."""
        self.lost = DeviceLost(message)

    def close(self) -> None:
        """Cancel the calls in progress and stop the thread."""
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
        """Get the mask of one picture, with retries, and report the outcome to the breaker."""
        while not self.breaker.admit():
            if not patient or time.monotonic() + self.breaker.wait >= ends:
                raise self._left_alone()
            await self._sleep(self.breaker.wait)
        # A timeout of a photo that has used up most of its time on this host says nothing about the service.
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
            self.figures.called("timeout")
            late = f"Hugging Face returned no mask within {self.seconds:g} s (CUTOUT_HF_DEADLINE_SECONDS)."
            if telling:
                learnt = True
                self.breaker.failed(late)
            raise DeadlineExceeded(f"{late} Try again in a moment.") from None
        except Trouble as trouble:
            learnt = True
            self._tell(trouble)
            raise trouble.error from None
        except Exception as error:
            raise NetworkFailed("The Hugging Face API failed on this photo. Try again.") from error
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
        """Call until there is a mask, or until another retry is useless or no longer possible.

        Raises:
            Trouble: the failure of the last call.

        """
        calls = failures = 0
        while True:
            try:
                data = await client.call(self._client, offer, jpeg, self._access)
                mask = await asyncio.to_thread(client.read_mask, data, offer.checkpoint.input_size)
            except Trouble as trouble:
                self.figures.called(trouble.kind)
                if not trouble.again:
                    raise
                pause = min(self._patience.first * 2 ** min(calls, 10), self._patience.longest)
                pause *= random.uniform(0.5, 1.0)  # nosec B311 # jitter, no secret
                calls += 1
                failures += not isinstance(trouble.error, Overloaded)
                if trouble.wait is not None:
                    # Never retry earlier than the service asks, and add jitter so that calls do not coincide.
                    jitter = random.uniform(0.0, min(1.0, trouble.wait / 10))  # nosec B311 # no secret
                    pause = max(pause, trouble.wait + jitter)
                if failures == self._patience.attempts or time.monotonic() + pause >= ends:
                    raise
                log.info("Hugging Face is called again in %.1f s: %s", pause, trouble)
                self.figures.waited(trouble.kind, pause)
            else:
                self.figures.called("ok")
                return mask
            await self._sleep(pause)

    def _tell(self, trouble: Trouble) -> None:
        """Report a failed photo to the breaker."""
        error = trouble.error
        if isinstance(error, Overloaded):
            self.breaker.failed(str(error), min(error.retry_after, 300.0))
        elif isinstance(error, PhotoTooLarge):
            self.breaker.succeeded()  # the service works: it examined the picture
        else:
            self.breaker.failed(str(error))

    def _left_alone(self) -> Overloaded:
        wait = max(1.0, self.breaker.wait)
        return Overloaded(
            f"The Hugging Face API has failed several times, so no calls are made for {wait:.0f} s. The last error:"
            f" {self.breaker.reason}",
            retry_after=wait,
        )


def open_remote(
    access: HuggingFaceConfig,
    tiers: Iterable[Tier] = tuple(Tier),
    limits: Limits = DEFAULT_LIMITS,
    make_remote: Callable[[HuggingFaceConfig], HuggingFaceDispatcher] = HuggingFaceDispatcher,
    orders: Orders = USUAL,
) -> Engine:
    """Find a provider for each of `tiers` and open an engine whose networks run there.

    Logs a warning that photos leave this host. `make_remote` allows a `HuggingFaceDispatcher` with another retry policy;
    `orders` replaces the usual order of the checkpoints of some tiers.

    Raises:
        ModelUnavailable: a tier has no provider, or the model hub could not be asked; the message says why.

    """
    choices = choose_remote(access, tiers, orders)
    remote = make_remote(access)
    runners = {offer: RemoteRunner(offer, remote) for _, offer in choices}
    serving = {choice.tier: Serving(choice, runners[offer]) for choice, offer in choices}
    for offer in runners:
        where = access.endpoint and urlsplit(access.endpoint).hostname
        log.warning(
            "Images leave this host: they are sent to Hugging Face, for %s at %s",
            offer.checkpoint.name,
            where or offer.provider,
        )
    threads = limits.threads or usable_cores() + access.concurrency
    return Engine(serving, replace(limits, threads=threads), remote)


def choose_remote(
    access: HuggingFaceConfig, tiers: Iterable[Tier], orders: Orders = USUAL
) -> list[tuple[Choice, Offer]]:
    """Find for each tier the first of its checkpoints that has a provider, or else any checkpoint that has one.

    Raises:
        ModelUnavailable: a tier has no provider, or the model hub could not be asked.

    """
    if access.endpoint is not None:
        offer = endpoint_offer(find(access.endpoint_model), access.endpoint)
        why = f"{ENDPOINT_URL} serves {access.endpoint_model}"
        return [(Choice(tier, offer.checkpoint, (why,), first_of(tier, orders)), offer) for tier in tiers]
    asked: dict[str, Offer | str] = {}
    return [_choose(tier, access, asked, orders) for tier in tiers]


def _choose(
    tier: Tier, access: HuggingFaceConfig, asked: dict[str, Offer | str], orders: Orders
) -> tuple[Choice, Offer]:
    reasons: list[str] = []
    for checkpoint in dict.fromkeys([*candidates(tier, orders), *map(find, RMBG_2)]):
        if checkpoint.like is not None:
            reasons.append(f"{checkpoint.name}: your own weights run on this machine, not at Hugging Face")
        for source in checkpoint.sources:
            if not isinstance(source, HubSource):
                continue
            if checkpoint.name not in asked:
                asked[checkpoint.name] = find_offer(checkpoint, source.repository, access)
            offer = asked[checkpoint.name]
            if isinstance(offer, Offer):
                return Choice(tier, offer.checkpoint, tuple(reasons), first_of(tier, orders)), offer
            reasons.append(offer)
    raise ModelUnavailable(
        f"No provider at Hugging Face serves tier {tier}: {'; '.join(reasons)}. Set {ENDPOINT_URL} to your own endpoint,"
        " or set CUTOUT_DEVICE=cpu."
    )


def to_jpeg(pixels: Tensor, checkpoint: Checkpoint) -> bytes:
    """Convert a network's normalised input, float32 [1,3,S,S], back to a picture, and encode it as a JPEG."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    levels = to_levels(pixels[0] * std + mean).permute(1, 2, 0).contiguous()
    return encode.encode(levels.numpy(), Format.JPG, JPEG_QUALITY)
