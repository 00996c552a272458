"""The engine: photos in, cut-outs out, with decoding, the network and encoding all at work at once.

Each photo is carried by one thread of a pool through every stage; only the network's turn is taken together with other
photos', in the batcher. So while some photos are in the network, the next are decoded and the last are encoded; on a
GPU, uploads, edges and downloads go on beside the network in streams of their own.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

import torch
from torch import Tensor

from cutout.inference.backends.cuda import (
    HOST_FULL,
    Streams,
    download,
    errors_translated,
    timed,
    upload,
    used_here,
    wait_for,
)
from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.backends.runners import Device, Precision, Runner, open_runner, pick_device
from cutout.inference.errors import (
    CutoutError,
    DeadlineExceeded,
    DeviceLost,
    NetworkFailed,
    OutOfMemory,
    Overloaded,
)
from cutout.inference.imaging import compositing, decode, encode
from cutout.inference.imaging.encode import Format
from cutout.inference.limits import DEFAULT_LIMITS, Limits
from cutout.inference.matting import mask as matte
from cutout.inference.matting.pipeline import Matte, cut_out
from cutout.inference.options import DEFAULT_OPTIONS, Options
from cutout.inference.scheduling.batcher import Batcher
from cutout.inference.scheduling.circuit_breaker import Breaker
from cutout.inference.scheduling.dispatcher import RemoteTurns, Turns
from cutout.inference.scheduling.fair_queue import FairQueue
from cutout.inference.scheduling.futures import answer, fail
from cutout.inference.scheduling.pixel_budget import PixelBudget
from cutout.inference.scheduling.stage_timer import Stopwatch
from cutout.inference.scheduling.timers import Deadlines
from cutout.inference.tiers import Choice, Tier, choose
from cutout.inference.weights.store import ModelsFolder

log = logging.getLogger(__name__)

Key = TypeVar("Key")

# Often enough that a long run stays as small as a short one, seldom enough to cost nothing.
TIDY_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Cutout:
    """A finished picture and what it took.

    `notes` say what of the photo was not taken as it stands in its file. `seconds` is by stage, see `stopwatch.STAGES`; a
    second look counts where the first does.
    """

    data: bytes = field(repr=False)
    format: Format
    width: int
    height: int
    no_foreground: bool
    tier: Tier
    checkpoint: str
    substitute: bool
    backend: str
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Serving:
    """A tier ready to serve: the choice of its checkpoint, and the runner that holds it."""

    choice: Choice
    runner: Runner


@dataclass(eq=False)
class _Request:
    """A photo on its way; `read` gives its bytes, `deadline` is a time of `time.monotonic`.

    Its future is kept apart: an error's traceback holds what was worked on, and the future holds the error.
    """

    read: Callable[[], bytes] = field(repr=False)
    options: Options
    caller: Hashable
    deadline: float = inf


class Engine:
    """Removes backgrounds. Safe to call from any number of threads. All its runners are on one device."""

    def __init__(
        self,
        serving: Mapping[Tier, Serving],
        limits: Limits = DEFAULT_LIMITS,
        remote: RemoteTurns | None = None,
    ) -> None:
        """With `remote`, networks are elsewhere, and only the photos' own work is done on the runners' device."""
        self.serving = dict(serving)
        self.on_lost: Callable[[], None] = lambda: None  # called when the device has failed
        self.device = next(iter(self.serving.values())).runner.device
        self._limits = limits
        self._threads = limits.threads_on(self.device.type)
        self._held = 0
        self._in_work = 0
        self._lock = threading.Lock()
        self._tidied = time.monotonic()
        self._queue: FairQueue[tuple[_Request, Future[Cutout]]] = FairQueue()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="photo")
        self._budget = PixelBudget(limits.pixels_in_work)
        self._streams = Streams(self.device)
        self._deadlines = Deadlines()
        self._remote = remote
        self._turns: Turns = remote or Batcher(
            self._launch,
            self._deadlines,
            max_batch=limits.batch_on(self.device.type),
            max_wait=limits.batch_wait,
            max_started=1 if self.device.type == "cpu" else 2,
            max_waiting=self._threads,
            on_lost=lambda: self.on_lost(),
        )

    @property
    def where(self) -> str:
        """Where networks run: "cuda", "cpu" or "huggingface"."""
        return self.device.type if self._remote is None else self._remote.location

    @property
    def breaker(self) -> Breaker | None:
        """The circuit breaker of the networks' remote service; None where networks run on this host."""
        return None if self._remote is None else self._remote.breaker

    @property
    def network_seconds(self) -> float:
        """How long the device was at work on networks, since the start."""
        return self._turns.busy_seconds

    @property
    def waiting(self) -> int:
        """How many photos wait for their turn."""
        with self._lock:
            return len(self._queue)

    @property
    def in_work(self) -> int:
        """How many photos are being worked on."""
        return self._in_work

    @property
    def lost(self) -> DeviceLost | None:
        """Why no more photos can be taken, if the device has failed."""
        return self._turns.lost

    def remove(self, data: bytes, options: Options = DEFAULT_OPTIONS) -> Cutout:
        """Remove the background of one photo, and wait for it.

        Raises:
            InvalidPhoto: the bytes are no picture that can be taken (see its kinds in `errors`).
            Overloaded: too many photos are waiting.

        """
        return self.submit(data, options).result()

    def require_room(self) -> None:
        """Return if a photo would be taken now.

        Raises:
            Overloaded: too many photos are waiting, or networks elsewhere are left alone for a while.
            DeviceLost: the device has failed.

        """
        self._turns.require_room()
        if self._held >= self._limits.waiting:
            raise Overloaded(
                f"{self._held} photos are waiting already. Try again in a moment.",
                retry_after=max(1.0, self._held * self._turns.seconds_each),
            )

    def submit(self, data: bytes, options: Options, *, caller: Hashable = None) -> Future[Cutout]:
        """Start on one photo; the future gives the cut-out, or raises what `remove` would.

        Callers, whatever names them, take turns. A future that is cancelled in time costs nothing.

        Raises:
            Overloaded: too many photos are waiting.
            DeviceLost: the device has failed.

        """
        with self._lock:
            self.require_room()
            self._held += 1
        deadline = time.monotonic() + self._limits.seconds
        future: Future[Cutout] = Future()
        late = DeadlineExceeded(
            f"The photo was not done in {self._limits.seconds:g} s (CUTOUT_DEADLINE_SECONDS). Try again in a moment."
        )
        ring = self._deadlines.call_at(deadline, lambda: fail(future, late))

        def leave(_: Future[Cutout]) -> None:
            self._deadlines.call_off(ring)
            with self._lock:
                self._held -= 1

        future.add_done_callback(leave)
        self._enter(_Request(lambda: data, options, caller, deadline), future)
        return future

    def remove_many(
        self, photos: Iterable[tuple[Key, Callable[[], bytes]]], options: Options
    ) -> Iterator[tuple[Key, Cutout | CutoutError | OSError]]:
        """Work through many photos, all stages at once; yield each as it is done, in no fixed order.

        Each photo comes as a key of the caller's and a function that reads its bytes; the function
        runs in a worker, so that reading overlaps too. What is wrong with one photo is yielded with
        its key and does not stop the others. The iterable is read only as far ahead as there are
        threads, so it may be endless. Photos have no deadline here.

        Raises:
            DeviceLost: the device has failed; every photo not yielded before is still to be done.

        """
        running: dict[Future[Cutout], Key] = {}
        caller = object()
        try:
            for key, read in photos:
                future: Future[Cutout] = Future()
                self._enter(_Request(read, options, caller), future)
                running[future] = key
                if len(running) > self._threads:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        finally:
            for future in running:
                future.cancel()

    def warm_up(self) -> None:
        """Make every network ready, so that the first photo does not pay for what is done at first use.

        Raises:
            OutOfMemory: the device does not hold what one photo needs.

        """
        sizes = {serving.runner: serving.choice.checkpoint.input_size for serving in self.serving.values()}
        for runner, size in sizes.items():
            runner.warm_up(size)

    def close(self) -> None:
        """Finish what is running and stop the threads."""
        self._pool.shutdown(cancel_futures=True)
        for _, future in self._queue:
            future.cancel()
        self._turns.close()
        self._deadlines.close()

    def _enter(self, request: _Request, future: Future[Cutout]) -> None:
        with self._lock:
            self._queue.push(request.caller, (request, future))
        self._pool.submit(self._carry_next)

    def _carry_next(self) -> None:
        """Carry the photo whose turn it is."""
        with self._lock:
            ((request, future),) = self._queue.take(lambda taken, _: not taken)
            self._in_work += 1
        try:
            if future.done():  # cancelled, or too late
                return
            answer(future, self._remove(request))
        except MemoryError:  # of this photo alone: the others, and the process, go on
            fail(future, OutOfMemory(HOST_FULL))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
            if isinstance(error, DeviceLost):  # maybe at the photo's own work, which the batcher did not see
                self._turns.lose(str(error))
            fail(future, error)
        finally:
            with self._lock:
                self._in_work -= 1
        del future  # the error's traceback ends in this frame

    def _remove(self, request: _Request) -> Cutout:
        data = request.read()
        try:
            return self._remove_from(data, request)
        except (CutoutError, CancelledError, MemoryError):
            raise
        except Exception as error:
            # Whatever a photo makes a library stumble over is that photo's error: others of its batch go on.
            log.exception("A photo could not be worked on")
            raise NetworkFailed(
                "This photo could not be worked on, by a fault of Cutout's own. Try again, or with another."
            ) from error

    def _remove_from(self, data: bytes, request: _Request) -> Cutout:
        options, serving = request.options, self.serving[request.options.tier]
        clock = Stopwatch()
        with ExitStack() as held:

            def hold(pixels: int) -> None:
                clock.lap("decode")
                held.enter_context(self._budget.hold(pixels, request.deadline))
                clock.lap("wait")

            picture = decode.decode(data, self._limits.sizes, hold)
            encode.check_size(options.format, picture.width, picture.height)
            with errors_translated(), self._streams.photo():
                rgb = upload(picture.rgb, self.device)
                own_alpha = None if picture.alpha is None else upload(picture.alpha, self.device)
                clock.lap("decode")
                cut = cut_out(
                    rgb,
                    own_alpha,
                    serving.choice.recipe,
                    lambda part: self._look(part, serving, request, clock),
                    colours=not options.mask_only,
                )
                finished = download(_compose(cut, options))
            clock.lap("edges")
            encoded = encode.encode(finished, options.format, options.quality, picture.dpi)
            clock.lap("encode")
        self._tidy()
        return Cutout(
            data=encoded,
            format=options.format,
            width=picture.width,
            height=picture.height,
            no_foreground=cut.no_foreground,
            tier=options.tier,
            checkpoint=serving.choice.checkpoint.name,
            substitute=serving.choice.substitute,
            backend=serving.runner.backend,
            notes=picture.notes,
            seconds=clock.seconds,
        )

    def _look(self, rgb: Tensor, serving: Serving, request: _Request, clock: Stopwatch) -> Tensor | None:
        """Show a photo, or a part of one, to the network."""
        checkpoint = serving.choice.checkpoint
        clock.lap("edges")
        pixels = matte.to_pixels(rgb, checkpoint)
        wait_for(self.device)
        clock.lap("decode")
        future = self._turns.submit(
            serving.runner,
            pixels,
            caller=request.caller,
            deadline=request.deadline,
            spent=clock.seconds["network"],
        )
        mask, network = future.result()
        clock.lap("wait")
        clock.move("wait", "network", network)
        return matte.find_subject(used_here(mask), checkpoint)

    def _launch(self, runner: Runner, pixels: Sequence[Tensor]) -> Callable[[], list[tuple[Tensor, float]]]:
        with errors_translated(), self._streams.network():
            run = timed(
                self.device, lambda: runner.run(torch.cat(list(pixels)) if len(pixels) > 1 else pixels[0])
            )

        def finish() -> list[tuple[Tensor, float]]:
            with errors_translated():
                masks, seconds = run()
            return [(mask, seconds) for mask in masks.split(1)]

        return finish

    def _tidy(self) -> None:
        with self._lock:
            if time.monotonic() - self._tidied < TIDY_EVERY_SECONDS:
                return
            self._tidied = time.monotonic()
        give_back_freed()


def open_engine(
    folder: ModelsFolder,
    device: Device = "auto",
    *,
    tiers: Iterable[Tier] = tuple(Tier),
    precision: Precision = "auto",
    limits: Limits = DEFAULT_LIMITS,
) -> Engine:
    """Load what each of `tiers` is served by on this host; tiers that share a checkpoint share its runner.

    Raises:
        ModelUnavailable: the device is not there, or a tier has no usable weights.

    """
    target = pick_device(device)
    choices = [choose(tier, folder) for tier in tiers]
    runners = {
        checkpoint.name: open_runner(checkpoint, folder, target, precision, limits.batch_on(target))
        for checkpoint in {choice.checkpoint.name: choice.checkpoint for choice in choices}.values()
    }
    serving = {choice.tier: Serving(choice, runners[choice.checkpoint.name]) for choice in choices}
    return Engine(serving, limits)


def _compose(cut: Matte, options: Options) -> Tensor:
    if options.mask_only:
        return cut.alpha
    background = options.background
    if background is None and not options.format.has_alpha:
        background = (255, 255, 255)
    if background is not None:
        return compositing.on_background(cut.rgb, cut.alpha, background)
    return compositing.transparent(cut.rgb, cut.alpha)


def _finished(
    running: dict[Future[Cutout], Key],
) -> Iterator[tuple[Key, Cutout | CutoutError | OSError]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        key = running.pop(future)
        try:
            yield key, future.result()
        except DeviceLost:
            raise
        except (CutoutError, OSError) as error:
            yield key, error
