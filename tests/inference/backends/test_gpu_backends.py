"""Which library runs the networks on a GPU: the one that is set, or the fastest as measured, and never the CPU."""

import dataclasses
import hashlib
import json
import tomllib
import types
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cutout.app import bootstrap
from cutout.app.cli import measure
from cutout.app.config.settings import load as load_settings
from cutout.inference import opening
from cutout.inference.backends import gpu_backends, measure_backends, runners
from cutout.inference.backends.fastest import Measured
from cutout.inference.backends.gpu_backends import GpuBackend, gpu_library, known, remember
from cutout.inference.backends.measure_backends import compare
from cutout.inference.backends.onnx_gpu_runner import EXTRA, Library
from cutout.inference.backends.runners import Runner, open_runner
from cutout.inference.errors import DeviceLost, DeviceUnavailable, WeightsUnavailable
from cutout.inference.tiers import Tier
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find

ROOT = Path(__file__).parents[3]
DATA = b"weights"
CHECKPOINT = dataclasses.replace(find("isnet-general"), sha256=hashlib.sha256(DATA).hexdigest())
HALF = torch.float16
LIBRARIES: tuple[Library, ...] = gpu_backends.LIBRARIES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelsFolder:
    """Return a folder with weights, on a host where both libraries seem to be usable."""
    folder = ModelsFolder(tmp_path)
    folder.file(CHECKPOINT).parent.mkdir()
    folder.file(CHECKPOINT).write_bytes(DATA)
    monkeypatch.setattr(gpu_backends, "why_not", lambda _: None)
    return folder


def measured(folder: ModelsFolder, library: str, batch: int = 8) -> None:
    remember(CHECKPOINT, folder, HALF, batch, Measured(library, "measured here: …", {"torch": 1.0}))


def library_of(folder: ModelsFolder, wanted: GpuBackend = "auto", batch: int = 8) -> str:
    return gpu_library(wanted, CHECKPOINT, folder, HALF, batch)[0]


def build(folder: ModelsFolder) -> None:
    """Place an engine where TensorRT would."""
    engines = gpu_backends.engines_folder(CHECKPOINT, folder, HALF, 8)
    engines.mkdir()
    (engines / "TensorrtExecutionProvider_graph_fp16_sm90.engine").touch()


def test_torch_runs_until_something_faster_was_measured(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, reason = gpu_library("auto", CHECKPOINT, folder, HALF, 8)
    assert (library, "cutout doctor --measure-backends" in reason) == ("torch", True)
    measured(folder, "onnxruntime")
    assert library_of(folder) == "onnxruntime"
    assert library_of(folder, "torch") == "torch"
    assert library_of(folder, "tensorrt") == "tensorrt"

    monkeypatch.setattr(gpu_backends, "why_not", lambda _: "not installed any more")
    assert gpu_library("auto", CHECKPOINT, folder, HALF, 8) == ("torch", "not installed any more")
    # The doctor says why a start will be refused.
    assert gpu_library("tensorrt", CHECKPOINT, folder, HALF, 8) == ("tensorrt", "not installed any more")
    gpu_backends._record(CHECKPOINT, folder, HALF, 8).write_text("{")
    assert library_of(folder) == "torch"


def test_a_measurement_holds_for_one_gpu_one_size_and_the_versions(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(folder, "onnxruntime")
    assert library_of(folder, batch=16) == "torch"
    assert known(CHECKPOINT, folder, torch.float32, 8) is None
    other = dataclasses.replace(CHECKPOINT, sha256=hashlib.sha256(b"others").hexdigest())
    assert known(other, folder, HALF, 8) is None
    for name, changed in (
        ("gpu", lambda: ["NVIDIA L4", "8.9", "24", "58"]),
        ("installed_version", lambda *_: "2.0"),
        ("GPU_GRAPH_VERSION", 99),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(gpu_backends, name, changed)
            assert library_of(folder) == "torch"
    assert library_of(folder) == "onnxruntime"


def test_no_start_builds_an_engine_that_it_was_not_asked_for(folder: ModelsFolder) -> None:
    measured(folder, "tensorrt")
    library, reason = gpu_library("auto", CHECKPOINT, folder, HALF, 8)
    assert (library, "engine is missing" in reason) == ("torch", True)
    assert library_of(folder, "tensorrt") == "tensorrt"
    build(folder)
    assert library_of(folder) == "tensorrt"


def test_a_library_must_be_faster_by_a_tenth() -> None:
    fastest = gpu_backends.fastest_of
    assert fastest({"torch": 1.0, "onnxruntime": 0.91}, {}, 8).library == "torch"
    assert fastest({"torch": 1.0, "onnxruntime": 0.89, "tensorrt": 0.8}, {}, 8).library == "tensorrt"
    one = fastest({"torch": 2.0}, {"tensorrt": "no libnvinfer"}, 8)
    assert one.library == "torch"
    assert one.reason == "measured here: 4 photos/s in torch; tensorrt cannot be used: no libnvinfer"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Pretend that runners for a GPU are opened, and return with what."""
    calls: list[tuple[Any, ...]] = []

    def onnx(graph: Path, library: str, device: torch.device, **options: Any) -> Any:
        calls.append((library, graph.name, options["batch_sizes"], options["engines"]))
        return types.SimpleNamespace(backend=f"{library}-cuda", device=device)

    monkeypatch.setattr(gpu_backends, "OnnxGpuRunner", onnx)
    monkeypatch.setattr(gpu_backends, "gpu_graph", lambda *_: Path("graph.onnx"))
    monkeypatch.setattr(runners, "load_network", lambda *_: None)
    monkeypatch.setattr(runners, "TorchRunner", lambda *_, **__: types.SimpleNamespace(backend="torch-cuda"))
    return calls


def test_the_library_that_is_set_is_opened_for_the_same_batches(
    folder: ModelsFolder, opened: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    open_gpu = partial(open_runner, CHECKPOINT, folder, "cuda", max_batch=8)
    assert open_gpu().backend == "torch-cuda"
    assert open_gpu(gpu_backend="torch").backend == "torch-cuda"
    assert opened == []
    for library in LIBRARIES:
        assert open_gpu(gpu_backend=library).backend == f"{library}-cuda"
    engines = gpu_backends.engines_folder(CHECKPOINT, folder, HALF, 8)
    sizes = [1, 2, 4, 8]
    assert opened == [("onnxruntime", "graph.onnx", sizes, None), ("tensorrt", "graph.onnx", sizes, engines)]
    assert engines.is_dir()
    assert "takes minutes, once" in caplog.text
    caplog.clear()
    engines.rmdir()
    build(folder)
    open_gpu(gpu_backend="tensorrt")
    assert "takes minutes" not in caplog.text


def test_no_other_library_and_no_cpu_takes_the_place_of_the_one_that_is_set(
    folder: ModelsFolder,
    opened: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DeviceUnavailable("it fell back to the CPU")

    def lose(*_: object, **__: object) -> None:
        raise DeviceLost("gone")

    monkeypatch.setattr(gpu_backends, "OnnxGpuRunner", refuse)
    with pytest.raises(DeviceUnavailable, match="fell back"):
        open_runner(CHECKPOINT, folder, "cuda", gpu_backend="onnxruntime", max_batch=8)
    measured(folder, "onnxruntime")
    assert open_runner(CHECKPOINT, folder, "cuda", max_batch=8).backend == "torch-cuda"
    assert "runs in torch, though onnxruntime was faster: it fell back" in caplog.text
    monkeypatch.setattr(gpu_backends, "OnnxGpuRunner", lose)
    with pytest.raises(DeviceLost):
        open_runner(CHECKPOINT, folder, "cuda", max_batch=8)
    assert not opened

    for library in LIBRARIES:
        with pytest.raises(DeviceUnavailable, match="needs a GPU"):
            open_runner(CHECKPOINT, folder, "cpu", gpu_backend=library)
        with pytest.raises(DeviceUnavailable, match="has no bfloat16"):
            gpu_backends.require_precision(library, torch.bfloat16)
    gpu_backends.require_precision("onnxruntime", torch.float32)
    with pytest.raises(DeviceUnavailable, match="in float16 only"):
        gpu_backends.require_precision("tensorrt", torch.float32)
    monkeypatch.setattr(gpu_backends, "why_not", lambda _: "not installed")
    with pytest.raises(DeviceUnavailable, match="not installed"):
        open_runner(CHECKPOINT, folder, "cuda", gpu_backend="onnxruntime", max_batch=8)


class Timed:
    """A runner that takes some milliseconds, by a clock of its own, and finds the orange subject, plus something."""

    clock = 0.0
    device = torch.device("cpu")
    backend = "test-cpu"

    def __init__(self, milliseconds: float, more: float = 0) -> None:
        self._seconds, self._more = milliseconds / 1000, more

    def run(self, pixels: Tensor) -> Tensor:
        Timed.clock += self._seconds
        return ((pixels[:, :1] - pixels[:, 2:]) > 0.2).float() + self._more

    def warm_up(self, input_size: int) -> None:
        self.run(torch.zeros(1, 3, input_size, input_size))


class Blind(Timed):
    """A runner that finds nothing, as fast as it can."""

    def run(self, pixels: Tensor) -> Tensor:
        return torch.zeros_like(pixels[:, :1])


@pytest.fixture
def _by_their_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runners be timed by the clock of `Timed`, since a busy host would delay the faster one too."""

    def timed(_: torch.device, work: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, float]]:
        before = Timed.clock
        masks = work()
        return lambda: (masks, Timed.clock - before)

    monkeypatch.setattr(measure_backends, "timed", timed)


def failing(error: Exception) -> Callable[[], Runner]:
    def opener() -> Runner:
        raise error

    return opener


@pytest.mark.usefixtures("_by_their_clock")
def test_the_faster_library_is_chosen_if_its_masks_are_those_of_torch() -> None:
    told: list[str] = []

    def telling(library: str) -> nullcontext[None]:
        told.append(library)
        return nullcontext()

    found = compare(
        {
            "torch": lambda: Timed(20),
            "onnxruntime": lambda: Timed(4, more=0.001),
            "tensorrt": lambda: Timed(0, more=0.02),
            "blind": lambda: Blind(0),
            "nan": lambda: Timed(0, more=float("nan")),
            "missing": failing(DeviceUnavailable("no libnvinfer")),
        },
        32,
        3,
        telling,
    )
    assert found.library == "onnxruntime"
    assert set(found.seconds) == {"torch", "onnxruntime"}
    assert "tensorrt cannot be used: it gives other masks (by 0.0200" in found.reason
    assert "blind cannot be used: it gives other masks" in found.reason
    assert "nan cannot be used: it gives other masks" in found.reason
    assert "missing cannot be used: no libnvinfer" in found.reason
    assert told == ["torch", "onnxruntime", "tensorrt", "blind", "nan", "missing"]

    for error, openers in (
        (WeightsUnavailable, {"torch": failing(WeightsUnavailable("none"))}),
        (DeviceLost, {"torch": lambda: Timed(0), "onnxruntime": failing(DeviceLost("gone"))}),
    ):
        with pytest.raises(error):
            compare(openers, 32, 1, lambda _: nullcontext())


@pytest.mark.usefixtures("_by_their_clock")
def test_what_was_measured_is_used_from_then_on(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_onnx(library: Library, *given: Any) -> Timed:
        assert given == (CHECKPOINT, folder, HALF, [1, 2, 3])
        if library == "tensorrt":
            raise DeviceUnavailable("no libnvinfer")
        return Timed(4)

    monkeypatch.setattr(measure_backends, "open_runner", lambda *_: Timed(20))
    monkeypatch.setattr(gpu_backends, "open_onnx", open_onnx)
    monkeypatch.setattr(
        "cutout.inference.tiers.choose", lambda *_: types.SimpleNamespace(checkpoint=CHECKPOINT)
    )
    monkeypatch.setenv("COLUMNS", "500")
    small = dataclasses.replace(CHECKPOINT, input_size=32)
    monkeypatch.setattr(
        measure_backends, "compare", lambda openers, _, *rest: compare(openers, small.input_size, *rest)
    )
    settings = load_settings(models_dir=folder.path, batch_size=3)
    said: list[str] = []
    measure.measure_backends(settings, "cpu", said.append)
    assert (said, library_of(folder, batch=3)) == ([], "torch")
    assert "nothing to measure" in capsys.readouterr().err
    measure.measure_backends(settings, "cuda", said.append)
    [line] = said
    assert line.startswith("isnet-general: onnxruntime, measured here: ")
    assert "tensorrt cannot be used: no libnvinfer" in line
    assert library_of(folder, batch=3) == "onnxruntime"
    [record] = folder.file(CHECKPOINT).parent.glob("gpu-fastest-*.json")
    assert json.loads(record.read_text())["library"] == "onnxruntime"


@pytest.mark.parametrize(
    ("device", "wanted", "given"),
    [("auto", "tensorrt", "tensorrt"), ("cuda", "onnxruntime", "onnxruntime"), ("cpu", "tensorrt", "auto")],
)
def test_the_setting_reaches_the_engine_unless_the_device_is_set_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, device: str, wanted: str, given: str
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(bootstrap, "device_of", lambda _: "cpu" if device != "cuda" else device)
    monkeypatch.setattr(opening, "open_engine", lambda *_, **options: taken.append(options))
    bootstrap.engine_from(load_settings(device=device, gpu_backend=wanted), [Tier.BASIC])
    assert taken[0]["gpu_backend"] == given


def test_the_extra_that_messages_name_installs_the_library() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [requirement.split(">=")[0] for requirement in extras[EXTRA]]
    assert names == ["onnx", "onnxruntime-gpu", "onnxscript"]  # the others write the graph
    # Both contain the same module, so that one would overwrite the other.
    assert not [
        extra for extra, needs in extras.items() if extra != EXTRA and "onnxruntime-gpu" in str(needs)
    ]
