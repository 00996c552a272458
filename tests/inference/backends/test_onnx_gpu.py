"""Networks in ONNX Runtime and TensorRT on a GPU: the same masks as in torch, and never the CPU in its place."""

import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import onnx
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from torch import Tensor, nn

from cutout.inference.backends import onnx_gpu_runner
from cutout.inference.backends.onnx_gpu_export import export_for_gpu
from cutout.inference.backends.onnx_gpu_runner import Library, OnnxGpuRunner, SessionStream, why_not
from cutout.inference.backends.runners import TorchRunner
from cutout.inference.errors import DeviceLost, DeviceUnavailable, NetworkFailed, OutOfMemory
from cutout.models import isnet, swin
from cutout.models.deform_conv import DeformableConv2d
from cutout.models.optimise import FusedWindowAttention, fold_norms
from tests.parity import fill, image

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZE = 32
Network = TypeVar("Network", bound=nn.Module)


class SmallISNet(nn.Module):
    """Two of IS-Net's blocks with its first and last layers: pooling, joining, dilation, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.stage1 = isnet.ResidualU(4, 8, 4, 8)
        self.stage2 = isnet.DilatedResidualU(8, 4, 8)
        self.stage1d = isnet.ResidualU(4, 16, 4, 8)
        self.side1 = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        first = self.stage1(self.conv_in(pixels))
        x = self.stage1d(isnet.join(self.stage2(isnet.halve(first)), first))
        return isnet.upsample(self.side1(x), pixels)


class SmallBiRefNet(nn.Module):
    """What of BiRefNet is not in IS-Net: attention in shifted, padded windows, and a deformable convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(12)
        self.attention: nn.Module = swin.WindowAttention(12, 2, 3, 1)
        self.deform = DeformableConv2d(12, 4, 3)
        self.last = nn.Conv2d(4, 1, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.norm(self.embed(pixels).permute(0, 2, 3, 1))
        x = x + self.attention(x, swin.shift_mask(x, 3, 1))
        return isnet.upsample(self.last(self.deform(x.permute(0, 3, 1, 2)).relu()), pixels)


def filled(network: Network) -> Network:
    """Fill a network with stand-in weights, ready for inference."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(fill(name, tuple(tensor.shape))))
    return network.eval().requires_grad_(False)


def small_isnet() -> nn.Module:
    network = filled(SmallISNet())
    fold_norms(network)
    return network


def small_birefnet() -> nn.Module:
    network = filled(SmallBiRefNet())
    assert isinstance(network.attention, swin.WindowAttention)
    network.attention = FusedWindowAttention(network.attention)
    return network


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx_gpu") / "isnet.onnx"
    export_for_gpu(small_isnet(), file, SIZE, torch.float16)
    return file


def opened(graph: Path, device: str = "cpu", sizes: tuple[int, ...] = (1, 2, 4)) -> OnnxGpuRunner:
    return OnnxGpuRunner(graph, "onnxruntime", torch.device(device), input_size=SIZE, batch_sizes=sizes)


def photos(count: int) -> Tensor:
    return torch.from_numpy(image(SIZE, batch=count))


def test_weights_are_in_half_precision_and_pixels_and_logits_are_not(graph: Path) -> None:
    model = onnx.load(graph).graph
    weights = {weight.data_type for weight in model.initializer if len(weight.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}
    for value in (model.input[0], model.output[0]):
        kind = value.type.tensor_type
        assert kind.elem_type == onnx.TensorProto.FLOAT
        assert kind.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("device", DEVICES)
def test_masks_in_half_precision_are_those_of_torch_in_batches_of_any_size(graph: Path, device: str) -> None:
    if device == "cuda" and (reason := why_not("onnxruntime")):
        pytest.skip(reason)
    runner = opened(graph, device)
    runner.warm_up(SIZE)
    expected = TorchRunner(small_isnet(), CPU).run(photos(7))
    assert expected.std() > 0.05
    assert (expected[0] - expected[1]).abs().max() > 0.05
    for count in (1, 3, 7):
        masks = runner.run(photos(7)[:count].to(device))
        assert masks.dtype == torch.float32
        torch.testing.assert_close(masks.cpu(), expected[:count], atol=5e-3, rtol=0)
    assert runner.backend == f"onnxruntime-{device}"


def test_batches_are_filled_up_to_sizes_that_were_warmed_up(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = opened(graph)
    sizes: list[int] = []
    session = runner._session

    class Watched:
        def io_binding(self) -> Any:
            binding = session.io_binding()
            bind = binding.bind_input

            def bind_input(*arguments: Any) -> None:
                sizes.append(arguments[4][0])
                bind(*arguments)

            binding.bind_input = bind_input
            return binding

        def run_with_iobinding(self, *arguments: Any) -> None:
            if sizes[-1] > 2:
                raise Fail("Failed to allocate memory for requested buffer of size 1")
            session.run_with_iobinding(*arguments)

    monkeypatch.setattr(runner, "_session", Watched())
    runner.warm_up(SIZE)
    assert sizes == [4, 2, 1]
    sizes.clear()
    # A size that did not fit is done without.
    assert runner.run(photos(7)).shape == (7, 1, SIZE, SIZE)
    assert sizes == [2, 2, 2, 1]
    monkeypatch.setattr(runner, "_sizes", [4])
    with pytest.raises(OutOfMemory, match="CUTOUT_BATCH_SIZE"):
        runner.warm_up(SIZE)


def test_windows_and_deformable_convolutions_are_made_of_operators_that_gpus_have(tmp_path: Path) -> None:
    expected = TorchRunner(small_birefnet(), CPU).run(photos(3))
    export_for_gpu(small_birefnet(), tmp_path / "graph.onnx", SIZE, torch.float16)
    model = onnx.load(tmp_path / "graph.onnx")
    assert [one.version for one in model.opset_import if one.domain == ""] == [18]
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["GridSample"]
    assert operators["Softmax"]
    assert not [name for name in operators if "Sequence" in name or name == "Attention"]
    for count in (1, 3):
        masks = opened(tmp_path / "graph.onnx").run(photos(3)[:count])
        torch.testing.assert_close(masks, expected[:count], atol=5e-3, rtol=0)
    assert expected.std() > 0.05


def test_a_mask_of_numbers_that_overflowed_is_none(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = opened(graph)
    monkeypatch.setattr(runner, "logits", lambda _: torch.tensor([0.0, torch.inf, -torch.inf, torch.nan]))
    assert runner.run(photos(1)).isnan().tolist() == [False, True, True, True]


# What a session of the real library tells, for sessions that go wrong.
class Session:
    """A session of ONNX Runtime that says that it runs on the GPU, unless a test says otherwise."""

    taken: tuple[Any, ...] = ()

    def __init__(self, graph: Path, options: Any, *, providers: Any, enable_fallback: int) -> None:
        assert enable_fallback == 0
        Session.taken = (providers, options)
        self.fallback = True
        self._provider = providers[0][0]

    def disable_fallback(self) -> None:
        self.fallback = False

    def get_providers(self) -> list[str]:
        return [self._provider, "CPUExecutionProvider"]

    def nodes(self) -> dict[str, list[str]]:
        return {self._provider: ["Conv", "Relu"], "CPUExecutionProvider": ["Shape", "Concat"]}

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            types.SimpleNamespace(
                ep_name=provider,
                get_nodes=lambda names=names: [types.SimpleNamespace(op_type=name) for name in names],
            )
            for provider, names in self.nodes().items()
        ]


class OnTheCpu(Session):
    """As the real library behaves where CUDA's libraries are missing."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


class PartlyOnTheCpu(Session):
    def nodes(self) -> dict[str, list[str]]:
        return {self._provider: ["Conv"], "CPUExecutionProvider": ["Shape", "GridSample", "Resize"]}


class Elsewhere(Session):
    """As TensorRT's provider behaves if TensorRT takes none of the operators."""

    def nodes(self) -> dict[str, list[str]]:
        return {"CUDAExecutionProvider" if "Tensor" in self._provider else "Other": ["Conv"]}


class NotStarting(Session):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("onnxruntime_pybind_state.cc:729 Please install TensorRT libraries\nand more")


class Full(Session):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise Fail("BFCArena: Failed to allocate memory for requested buffer of size 1048576")


class Stream:
    """A stream that records what it waits for."""

    cuda_stream = 4660
    events: list[Any] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, device: object = None) -> None:
        self.name = "session's" if device else "current"

    def wait_stream(self, other: "Stream") -> None:
        Stream.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Pretend that there are a GPU and ONNX Runtime for it."""
    real = sys.modules["onnxruntime"]
    fake = types.ModuleType("onnxruntime")
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    vars(fake).update(
        get_available_providers=lambda: names,
        InferenceSession=Session,
        SessionOptions=real.SessionOptions,
        RunOptions=real.RunOptions,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    Stream.events.clear()
    return fake


def on_card(library: Library, engines: Path | None = None) -> OnnxGpuRunner:
    return OnnxGpuRunner(
        Path("graph.onnx"),
        library,
        torch.device("cuda"),
        input_size=1024,
        batch_sizes=(1, 2, 8),
        engines=engines,
    )


LIBRARIES: list[Library] = ["onnxruntime", "tensorrt"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("session", "said"),
    [
        (OnTheCpu, r"could not start its .*Provider \(it fell back to the CPU\).*CUDA 13 and cuDNN 9"),
        (PartlyOnTheCpu, "would run GridSample, Resize on the CPU"),
        (Elsewhere, "runs none of the network's operators"),
        (
            NotStarting,
            r"could not start .*\(onnxruntime_pybind_state.cc:729 Please install TensorRT libraries\)",
        ),
    ],
)
def test_a_session_that_would_run_on_the_cpu_is_refused(
    card: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    library: Library,
    session: type[Session],
    said: str,
) -> None:
    monkeypatch.setattr(card, "InferenceSession", session)
    with pytest.raises(DeviceUnavailable, match=said) as caught:
        on_card(library)
    assert not isinstance(caught.value, OutOfMemory)
    assert "CUTOUT_GPU_BACKEND=torch" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_named_as_such(
    card: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "InferenceSession", Full)
    with pytest.raises(OutOfMemory, match="nvidia-smi"):
        on_card("onnxruntime")


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_to_install_is_said(
    card: types.ModuleType, monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    assert why_not(library) is None
    monkeypatch.setattr(card, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "pip uninstall onnxruntime onnxruntime-gpu && pip install" in str(why_not(library))
    with pytest.raises(DeviceUnavailable, match=r"has no .*ExecutionProvider"):
        on_card(library)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceUnavailable, match=r"run: pip install 'cutout-server\[gpu-onnx\]'"):
        on_card(library)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_session_takes_the_gpu_the_stream_and_the_caches(
    card: types.ModuleType, tmp_path: Path, library: Library
) -> None:
    runner = on_card(library, tmp_path)
    assert not runner._session.fallback
    providers, options = Session.taken
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    names = ["CUDAExecutionProvider"]
    assert [name for name, _ in providers] == (
        ["TensorrtExecutionProvider"] if library == "tensorrt" else []
    ) + names
    for _, settings in providers:
        # The real library checks neither names nor values of options before it has a GPU.
        assert settings["user_compute_stream"] == "4660"
        assert settings["device_id"] == "0"
    assert providers[-1][1]["use_tf32"] == "0"
    if library == "tensorrt":
        settings = providers[0][1]
        assert settings["trt_profile_min_shapes"] == "pixels:1x3x1024x1024"
        assert (
            settings["trt_profile_opt_shapes"] == settings["trt_profile_max_shapes"] == "pixels:8x3x1024x1024"
        )
        assert settings["trt_engine_cache_path"] == settings["trt_timing_cache_path"] == str(tmp_path)
        assert settings["trt_engine_cache_enable"] == settings["trt_timing_cache_enable"] == "1"
        assert settings["trt_fp16_enable"] == "1"
    assert runner._settings.get_run_config_entry("disable_synchronize_execution_providers") == "1"


@pytest.mark.parametrize("fails", [False, True])
def test_the_session_and_torch_wait_for_each_other(
    card: types.ModuleType, graph: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    stream = SessionStream(torch.device("cuda"))
    monkeypatch.undo()  # the real library runs from here on
    runner = opened(graph)
    session = runner._session

    class Watched:
        io_binding = session.io_binding

        def run_with_iobinding(self, *arguments: Any) -> None:
            Stream.events.append("run")
            if fails:
                raise Fail("no")
            session.run_with_iobinding(*arguments)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(runner, "_session", Watched())
    monkeypatch.setattr(runner, "_stream", stream)
    if fails:
        with pytest.raises(NetworkFailed):
            runner.run(photos(1))
    else:
        runner.run(photos(1))
    assert Stream.events == ["session's waits for current", "run", "current waits for session's"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Fail("CUDA failure 700: an illegal memory access was encountered ; GPU=0"), DeviceLost),
        (Fail("Non-zero status code ... CUDA failure 2: out of memory ; GPU=0"), OutOfMemory),
        (
            Fail("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"),
            OutOfMemory,
        ),
        (Fail("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
        (Fail("CUDA failure 9: invalid configuration argument"), NetworkFailed),
        (Fail("TensorRT EP execution context enqueue failed."), NetworkFailed),
        (RuntimeError("not of this library"), RuntimeError),
        (ValueError("nor this"), ValueError),
    ],
)
def test_errors_say_whether_the_gpu_is_lost(
    graph: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    class Failing:
        def io_binding(self) -> Any:
            raise error

    runner = opened(graph)
    monkeypatch.setattr(runner, "_session", Failing())
    with pytest.raises(expected) as caught:
        runner.run(photos(1))
    assert type(caught.value) is expected


def test_an_error_without_a_number_is_asked_of_the_gpu(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def io_binding(self) -> Any:
            raise Fail("TensorRT EP execution context enqueue failed.")

    def lost(_: torch.device) -> None:
        error = torch.AcceleratorError("CUDA error: unspecified launch failure")
        vars(error)["error_code"] = 719
        raise error

    runner = opened(graph)
    monkeypatch.setattr(runner, "_session", Failing())
    monkeypatch.setattr(onnx_gpu_runner, "wait_for", lost)
    with pytest.raises(DeviceLost):
        runner.run(photos(1))
