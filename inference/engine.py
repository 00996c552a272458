"""The engine: turns photos into cut-outs, with decoding, the network and encoding running concurrently.

One thread of a pool takes a photo through every stage. Only the network is shared: the batcher runs it on several
photos at once. While some photos are in the network, others are decoded or encoded. On a GPU, uploads, edge refinement
and downloads run on their own streams, in parallel with the network.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from functools import partial
from math import inf
from typing import Self, TypeVar

from torch import Tensor

from cutout.inference.animation_removal import remove_background
from cutout.inference.backends.cuda import (
    HOST_FULL,
    PHOTO_DOES_NOT_FIT,
    Streams,
    errors_translated,
    memory_of,
    pixels_that_fit,
    release_unused,
    used_here,
    wait_for,
)
from cutout.inference.backends.launching import launcher
from cutout.inference.backends.malloc import Tidier
from cutout.inference.backends.runners import Runner, Serving
from cutout.inference.cores import photo_threads
from cutout.inference.cutout import Cutout
from cutout.inference.errors import (
    CutoutError,
    DeadlineExceeded,
    DeviceLost,
    NetworkFailed,
    OutOfMemory,
    Overloaded,
)
from cutout.inference.figures import TURN, DeviceMemory, Figures
from cutout.inference.imaging.levels import levelled
from cutout.inference.limits import DEFAULT_LIMITS, Limits
from cutout.inference.masked_photo import AnySource, Maker, Source
from cutout.inference.matting import mask as matte
from cutout.inference.matting.pipeline import run_recipes
from cutout.inference.options import DEFAULT_OPTIONS, Options
from cutout.inference.recently_seen import RecentlySeen
from cutout.inference.removal import Workplace
from cutout.inference.request import Request
from cutout.inference.scheduling.batcher import Batcher
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker
from cutout.inference.scheduling.dispatcher import Dispatcher, RemoteDispatcher
from cutout.inference.scheduling.futures import answer, completed, fail
from cutout.inference.scheduling.gate import Gate
from cutout.inference.scheduling.photo_queue import PhotoQueue
from cutout.inference.scheduling.pixel_budget import PixelBudget
from cutout.inference.scheduling.stage_timer import StageTimer
from cutout.inference.scheduling.timers import Timers
from cutout.inference.tiers import Tier
from cutout.models import gpu_kernels

log = logging.getLogger(__name__)

Key = TypeVar("Key")
Waiting = tuple[Request, Future[Cutout]]


class Engine:
    """Removes backgrounds. Safe to call from any number of threads. All runners are on the same device."""

    def __init__(
        self,
        serving: Mapping[Tier, Serving],
        limits: Limits = DEFAULT_LIMITS,
        remote: RemoteDispatcher | None = None,
    ) -> None:
        """With `remote`, networks run remotely; only the other stages run on the runners' device."""
        self.serving = dict(serving)
        self.on_lost: Callable[[], None] = lambda: None  # called when the device has failed
        self.device = next(iter(self.serving.values())).runner.device
        self.figures = Figures() if remote is None else remote.figures
        self._limits = limits
        self._threads = limits.threads_on(self.device.type)
        self._frames_at_once = max(2, limits.batch_on(self.device.type))
        self._held = 0
        self._closed = False
        self._lock = threading.Lock()
        self._gate = Gate()
        self._queue = PhotoQueue[Waiting](max(1, self._threads // 2), lambda one: one[0].options.all_frames)
        self._pool = photo_threads(self._threads)
        self.budget = PixelBudget(limits.pixels_in_work)
        self._streams = Streams(self.device)
        # A GPU refines a photo in milliseconds.
        self._recent = RecentlySeen() if self.device.type == "cpu" else None
        self._deadlines = Timers()
        self._tidier = Tidier(self._deadlines.call_at)
        self._remote = remote
        self._turns: Dispatcher = remote or Batcher(
            launcher(self.device, self._streams),
            self._deadlines,
            max_batch=limits.batch_on(self.device.type),
            max_wait=limits.batch_wait,
            max_started=1 if self.device.type == "cpu" else 2,
            # Of each photo there is one, of an animation there may be several frames.
            max_waiting=self._threads * self._frames_at_once,
            on_lost=lambda: self.on_lost(),
            on_batch=self._ran,
            on_no_room=lambda: self.figures.found_no_room("batch"),
        )

    @property
    def where(self) -> str:
        """Return where networks run: "cuda", "cpu" or "huggingface"."""
        return self.device.type if self._remote is None else self._remote.location

    @property
    def breaker(self) -> CircuitBreaker | None:
        """The circuit breaker of the remote service; None where networks run on this host."""
        return None if self._remote is None else self._remote.breaker

    @property
    def network_seconds(self) -> float:
        """Return the seconds that networks have been running since the engine started."""
        return self._turns.busy_seconds

    @property
    def waiting(self) -> int:
        """Return the number of photos that wait for a thread."""
        return len(self._queue)

    @property
    def in_work(self) -> int:
        """Return the number of photos being processed."""
        return self._gate.inside

    @property
    def memory(self) -> DeviceMemory | None:
        """Return the memory of the GPU now; None on a CPU, or if the GPU does not answer."""
        return memory_of(self.device)

    @property
    def kernels_on(self) -> bool | None:
        """Return whether the GPU kernels are in use, or were switched off; None without a GPU."""
        return gpu_kernels.are_on() if self.device.type == "cuda" else None

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def lost(self) -> DeviceLost | None:
        """Return the error of the device if it has failed, or else None."""
        return self._turns.lost

    def remove(self, data: bytes, options: Options = DEFAULT_OPTIONS) -> Cutout:
        """Remove the background of one photo, and wait for it.

        Raises:
            InvalidPhoto: the picture cannot be decoded or is too large (see its subclasses in `errors`).
            Overloaded: too many photos are waiting.

        """
        return self.submit(data, options).result()

    def require_capacity(self) -> None:
        """Check that a photo would be accepted now.

        Raises:
            Overloaded: too many photos are waiting, or for too long; or the remote service is paused after failures.
            DeviceLost: the device has failed.

        """
        self._turns.require_capacity()
        wait = self._held * self._turns.seconds_each
        # Not remote ones, which run at once.
        is_late = self._remote is None and wait > self._limits.longest_wait
        if self._held >= self._limits.waiting or is_late:
            told = f"{self._held} photos are already waiting. Try again in a moment."
            raise Overloaded(told, retry_after=max(1.0, wait))

    def submit(
        self, source: AnySource, options: Options, *, caller: Hashable = None, keep_masks: bool = False
    ) -> Future[Cutout]:
        """Start processing one photo; the future gives the cut-out, or raises what `remove` would.

        `caller` is any key that identifies the caller; callers take turns. With `keep_masks` the cut-out has the
        network's masks. Cancelling the future before processing starts skips all of its work.

        Raises:
            Overloaded: too many photos are waiting.
            DeviceLost: the device has failed.

        """
        with self._lock:
            self.require_capacity()
            self._held += 1
        deadline = time.monotonic() + self._limits.seconds
        future: Future[Cutout] = Future()
        late = DeadlineExceeded(
            f"The photo was not processed within {self._limits.seconds:g} s (CUTOUT_DEADLINE_SECONDS). Try again in a moment."
        )
        alarm = self._deadlines.call_at(deadline, lambda: fail(future, late))

        def leave(_: Future[Cutout]) -> None:
            self._deadlines.call_off(alarm)
            with self._lock:
                self._held -= 1

        future.add_done_callback(leave)
        self._enter(Request(lambda: source, options, caller, keep_masks, deadline), future)
        return future

    def remove_many(
        self,
        photos: Iterable[tuple[Key, Callable[[], Source]]],
        options: Options | Callable[[Key], Options],
        *,
        keep_masks: bool = False,
        on_frame: Callable[[Key, int, int], None] = lambda key, done, frames: None,
        is_wanted: Callable[[Key], bool] = lambda key: True,
    ) -> Iterator[tuple[Key, Cutout | CutoutError | OSError]]:
        """Process many photos, with all stages running at once; yield each result when it is done, in no fixed order.

        Each photo is given as a key, chosen by the caller, and a function that reads it. The function runs
        in a thread of the pool, so that reading overlaps with the other stages. The error of one photo is yielded
        with its key and does not stop the others. The iterable is read only as far ahead as there are threads, so
        it may be endless. These photos have no deadline. `options` are those of all photos, or return those of the photo
        with a key. `on_frame` is told how many frames of an animation are done, and how many it has; it is called in a thread
        of the pool. So is `is_wanted`, before each frame: once it returns False, the rest of an animation is left.

        Raises:
            DeviceLost: the device has failed; no photo that was not yielded before has a result.

        """
        running: dict[Future[Cutout], Key] = {}
        caller = object()
        try:
            for key, read in photos:
                future: Future[Cutout] = Future()
                its_own = options if isinstance(options, Options) else options(key)
                told, wanted = partial(on_frame, key), partial(is_wanted, key)
                self._enter(Request(read, its_own, caller, keep_masks, inf, told, wanted), future)
                running[future] = key
                if len(running) > self._threads:
                    yield from completed(running)
            while running:
                yield from completed(running)
        finally:
            for future in running:
                future.cancel()

    def warm_up(self) -> None:
        """Warm up every network, so that the first photo does not have to wait for one-time work.

        Photos that are submitted meanwhile wait: on a GPU their work could spoil the capture of a graph. Afterwards
        photos in work are limited to the GPU's free memory, if that is less than `Limits.pixels_in_work`.

        Raises:
            OutOfMemory: one photo needs more memory than the device has.

        """
        with self._gate.closed():
            for runner, choice in {one.runner: one.choice for one in self.serving.values()}.items():
                start = time.monotonic()
                runner.warm_up(choice.checkpoint.input_size)
                self.figures.loaded(choice.checkpoint.name, time.monotonic() - start)
            if self.device.type == "cuda":
                with errors_translated(), self._streams.photo():
                    run_recipes({serving.choice.recipe for serving in self.serving.values()}, self.device)
                    wait_for(self.device)
                self.budget.resize(min(self._limits.pixels_in_work, pixels_that_fit(self.device)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the photos being processed, cancel those that wait, and stop the threads."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        for _, future in self._queue:
            future.cancel()
        self._turns.close()
        self._deadlines.close()

    def _enter(self, request: Request, future: Future[Cutout]) -> None:
        request.future = weakref.ref(future)
        self._queue.push(request.caller, (request, future))
        self._pool.submit(self._carry_next)

    def _carry_next(self) -> None:
        """Process the next photo of the queue."""
        with self._gate.photo():
            taken = self._queue.take()
            if taken is None:
                return
            request, future = taken
            try:
                if future.done():  # cancelled, or past its deadline
                    return
                request.turn = time.monotonic() - request.entered
                answer(future, self._remove(request))
            except MemoryError:  # fails this photo only
                fail(future, OutOfMemory(HOST_FULL))
            except BaseException as error:  # noqa: BLE001 - every error is passed to the caller
                if isinstance(error, DeviceLost):  # it may come from a stage that the batcher does not see
                    self._turns.lose(str(error))
                fail(future, error)
            finally:
                with suppress(RuntimeError):  # the engine is being closed, which cancels what waits
                    for _ in range(self._queue.ended(taken)):
                        self._pool.submit(self._carry_next)
            del future, taken  # breaks a cycle: the error's traceback refers to this frame

    def _remove(self, request: Request) -> Cutout:
        """Process a photo. If the memory is full, try again while no other photo is in work."""
        source = request.read()
        with suppress(OutOfMemory):
            return self._try(source, request)
        self.figures.found_no_room("photo")
        # The error is gone here, and with it the tensors that its traceback referred to.
        release_unused(self.device)
        with self.budget.hold(self.budget.total, request.deadline):
            try:
                return self._try(source, request, alone=True)
            except OutOfMemory as error:
                if self.device.type == "cpu":
                    raise
                raise OutOfMemory(PHOTO_DOES_NOT_FIT) from error

    def _try(self, source: AnySource, request: Request, *, alone: bool = False) -> Cutout:
        try:
            return self._remove_from(source, request, alone)
        except (CutoutError, CancelledError, MemoryError):
            raise
        except Exception as error:
            # An unexpected error of a library is that photo's error only; the other photos of its batch continue.
            log.exception("A photo could not be processed")
            raise NetworkFailed(
                "This photo could not be processed because of an error in Cutout. Try again, or try another photo."
            ) from error

    def _remove_from(self, source: AnySource, request: Request, alone: bool) -> Cutout:
        options, serving = request.options, self.serving[request.options.tier]
        clock = StageTimer()
        with ExitStack() as held:

            def hold(pixels: int) -> None:
                clock.lap("decode")
                if not alone:  # or all pixels of the budget are held already
                    held.enter_context(self.budget.hold(pixels, request.deadline))
                clock.lap("wait")

            place = Workplace(
                self.device,
                self._limits.sizes,
                hold,
                self._streams.photo,
                lambda part, timer: self._look(part, serving, request, timer),
                clock,
                # Not photos of batches, which have no deadline: nobody is about to refine one of them.
                None if isinstance(source, bytes) and request.deadline == inf else self._recent,
                request,
                1 if alone else self._frames_at_once,
            )
            choice = serving.choice
            maker = Maker(choice.checkpoint.name, choice.substitute, serving.runner.backend)
            cutout = remove_background(source, options, maker, place, keep_masks=request.keep_masks)
        self._tidier.tidy()
        self.figures.passed(options.tier.value, {TURN: request.turn, **cutout.seconds})
        return cutout

    def _ran(self, runner: Runner, size: int) -> None:
        """Count a batch by the checkpoint of its runner."""
        choice = next(one.choice for one in self.serving.values() if one.runner is runner)
        self.figures.batch_ran(choice.checkpoint.name, size)

    def _look(self, rgb: Tensor, serving: Serving, request: Request, clock: StageTimer) -> Tensor | None:
        """Run the network on a photo, or on a crop of one."""
        clock.lap("edges")
        pixels = matte.to_pixels(levelled(rgb, serving.choice.checkpoint), serving.choice.checkpoint)
        with self._streams.letting_others():
            wait_for(self.device)
            clock.lap("decode")
            spent, caller = clock.seconds["network"], request.caller
            # Not kept in a variable: the traceback of its error would refer to it, and it to the error.
            mask, network = self._turns.submit(
                serving.runner, pixels, caller=caller, deadline=request.deadline, spent=spent
            ).result()
        clock.lap("wait")
        clock.move("wait", "network", network)
        return matte.find_subject(used_here(mask), serving.choice.checkpoint)
