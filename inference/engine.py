"""The engine: photos in, cut-outs out, with decoding, the network and encoding all at work at once.

Each photo is carried by one thread of a small pool through every stage; only the network's turn is
taken one photo at a time, on the device's own thread. So while one photo is in the network the next
is decoded and the last is encoded.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from inference import encode, layout, matte, photo
from inference.encode import Format
from inference.errors import CutoutError, Overloaded
from inference.folder import ModelsFolder
from inference.matting import Matte, cut_out
from inference.memory import give_back_freed
from inference.options import DEFAULT_OPTIONS, Options
from inference.runners import Device, Runner, open_runner, pick_device
from inference.tiers import Choice, Tier, choose

Key = TypeVar("Key")

# Often enough that a long run stays as small as a short one, seldom enough to cost nothing.
TIDY_EVERY_SECONDS = 5.0
STAGES = ("decode", "wait", "network", "edges", "encode")


@dataclass(frozen=True)
class Cutout:
    """A finished picture and what it took.

    `notes` say what of the photo was not taken as it stands in its file. `seconds` is by stage, see `STAGES`; a
    second look counts where the first does.
    """

    data: bytes
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


class Engine:
    """Removes backgrounds. Safe to call from any number of threads.

    At most `max_waiting` photos are held by `submit`; `remove_many` holds one per thread more.
    """

    def __init__(
        self,
        serving: Mapping[Tier, Serving],
        *,
        threads: int | None = None,
        max_waiting: int = 64,
        max_pixels: int = photo.DEFAULT_MAX_PIXELS,
    ) -> None:
        self.serving = dict(serving)
        self.network_seconds = 0.0  # the device's own time since the start
        self._max_pixels = max_pixels
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lock = threading.Lock()
        self._tidied = time.monotonic()
        # One photo in the network, and on each core one being decoded or encoded.
        self._threads = threads or 1 + (os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="photo")
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")

    def remove(self, data: bytes, options: Options = DEFAULT_OPTIONS) -> Cutout:
        """Remove the background of one photo, and wait for it.

        Raises:
            InvalidPhoto: the bytes are no picture that can be taken (see its kinds in `errors`).
            Overloaded: too many photos are waiting.

        """
        return self.submit(data, options).result()

    def submit(self, data: bytes, options: Options) -> Future[Cutout]:
        """Start on one photo; the future gives the cut-out, or raises what `remove` would.

        Raises:
            Overloaded: too many photos are waiting.

        """
        with self._lock:
            if self._waiting >= self._max_waiting:
                raise Overloaded(
                    f"{self._waiting} photos are waiting already. Try again in a moment.", retry_after=5
                )
            self._waiting += 1
        future = self._pool.submit(self._remove, data, options)
        future.add_done_callback(self._leave)
        return future

    def remove_many(
        self, photos: Iterable[tuple[Key, Callable[[], bytes]]], options: Options
    ) -> Iterator[tuple[Key, Cutout | CutoutError | OSError]]:
        """Work through many photos, all stages at once; yield each as it is done, in no fixed order.

        Each photo comes as a key of the caller's and a function that reads its bytes; the function
        runs in a worker, so that reading overlaps too. What is wrong with one photo is yielded with
        its key and does not stop the others. The iterable is read only as far ahead as there are
        threads, so it may be endless.
        """
        running: dict[Future[Cutout], Key] = {}
        try:
            for key, read in photos:
                future = self._pool.submit(lambda read=read: self._remove(read(), options))  # type: ignore[misc]
                running[future] = key
                if len(running) > self._threads:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        finally:
            for future in running:
                future.cancel()

    def warm_up(self) -> None:
        """Run every network once, so that the first photo does not pay for what is done at first use."""
        by_checkpoint = {serving.choice.checkpoint.name: serving for serving in self.serving.values()}
        for serving in by_checkpoint.values():
            size = serving.choice.checkpoint.input_size
            pixels = torch.zeros(1, 3, size, size, device=serving.runner.device)
            self._device.submit(serving.runner.run, pixels).result()

    def close(self) -> None:
        """Finish what is running and stop the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._device.shutdown()

    def _leave(self, _: Future[Cutout]) -> None:
        with self._lock:
            self._waiting -= 1

    def _remove(self, data: bytes, options: Options) -> Cutout:
        serving = self.serving[options.tier]
        clock = _Stopwatch()
        picture = photo.decode(data, self._max_pixels)
        clock.lap("decode")
        cut = cut_out(picture, serving.choice.recipe, lambda part: self._look(part, serving, clock))
        clock.lap("edges")
        encoded = encode.encode(_compose(cut, options), options.format, options.quality)
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

    def _look(self, picture: photo.Photo, serving: Serving, clock: "_Stopwatch") -> torch.Tensor | None:
        """Show a photo, or a part of one, to the network."""
        checkpoint, runner = serving.choice.checkpoint, serving.runner
        clock.lap("edges")
        pixels = matte.to_pixels(picture, checkpoint, runner.device)
        clock.lap("decode")
        mask, network = self._device.submit(self._run, runner, pixels).result()
        clock.lap("wait")
        clock.move("wait", "network", network)
        return matte.find_subject(mask, checkpoint)

    def _tidy(self) -> None:
        with self._lock:
            if time.monotonic() - self._tidied < TIDY_EVERY_SECONDS:
                return
            self._tidied = time.monotonic()
        give_back_freed()

    def _run(self, runner: Runner, pixels: torch.Tensor) -> tuple[torch.Tensor, float]:
        start = time.perf_counter()
        mask = runner.run(pixels)
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)
        seconds = time.perf_counter() - start
        self.network_seconds += seconds
        return mask, seconds


def open_engine(
    folder: ModelsFolder,
    device: Device = "auto",
    *,
    tiers: Iterable[Tier] = tuple(Tier),
    threads: int | None = None,
    max_waiting: int = 64,
    max_pixels: int = photo.DEFAULT_MAX_PIXELS,
) -> Engine:
    """Load what each of `tiers` is served by on this host; tiers that share a checkpoint share its runner.

    Raises:
        ModelUnavailable: the device is not there, or a tier has no usable weights.

    """
    target = pick_device(device)
    choices = [choose(tier, folder) for tier in tiers]
    runners = {
        checkpoint.name: open_runner(checkpoint, folder, target)
        for checkpoint in {choice.checkpoint.name: choice.checkpoint for choice in choices}.values()
    }
    serving = {choice.tier: Serving(choice, runners[choice.checkpoint.name]) for choice in choices}
    return Engine(serving, threads=threads, max_waiting=max_waiting, max_pixels=max_pixels)


def _compose(cut: Matte, options: Options) -> photo.Pixels:
    if options.mask_only:
        return cut.alpha
    background = options.background
    if background is None and not options.format.has_alpha:
        background = (255, 255, 255)
    if background is not None:
        return layout.on_background(cut.rgb, cut.alpha, background)
    return layout.transparent(cut.rgb, cut.alpha)


def _finished(
    running: dict[Future[Cutout], Key],
) -> Iterator[tuple[Key, Cutout | CutoutError | OSError]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        key = running.pop(future)
        try:
            yield key, future.result()
        except (CutoutError, OSError) as error:
            yield key, error


class _Stopwatch:
    """Seconds by stage, each lap counted from the one before; a stage that comes again adds up."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count `seconds` of one stage as another's."""
        self.seconds[source] = max(0.0, self.seconds[source] - seconds)
        self.seconds[target] += seconds
