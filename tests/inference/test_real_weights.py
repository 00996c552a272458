"""The complete pipeline on the real open weights, compared with the published graph, pre- and post-processing."""

import dataclasses
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cutout.app.cli.doctor import doctor
from cutout.inference.backends.fastest import Measured, remember
from cutout.inference.backends.mnn_export import convert, folder_for, why_not
from cutout.inference.backends.onnx_export import onnx_graph
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.inference.backends.runners import TorchRunner, open_runner
from cutout.inference.backends.trial import trial_pixels
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.matting import mask as matte
from cutout.inference.options import Options
from cutout.inference.selftest.photos import tier_serves
from cutout.inference.tiers import Tier
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find
from tests.conftest import DATA
from tests.fakes import open_picture, photo_with_disc

pytestmark = pytest.mark.weights

CHECKPOINT = find("isnet-general")
WITH_SUBJECT = ["chelsea", "coffee"]


def source(name: str) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(DATA / f"{name}.jpg").convert("RGB"))


def resize(plane: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.float64]:
    """Resize [H,W,…] bilinearly, without aligned corners or antialiasing; written without torch for comparison."""

    def axis(
        size: int, source: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        place = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, None)
        low = np.minimum(place.astype(np.intp), source - 1)
        return low, np.minimum(low + 1, source - 1), place - low

    top, bottom, down = axis(height, plane.shape[0])
    left, right, across = axis(width, plane.shape[1])
    down = down.reshape(-1, *[1] * (plane.ndim - 1))
    across = across.reshape(1, -1, *[1] * (plane.ndim - 2))
    rows = plane[top] * (1 - down) + plane[bottom] * down
    return np.asarray(rows[:, left] * (1 - across) + rows[:, right] * across)


@pytest.fixture(scope="module")
def published(weights: ModelsFolder) -> onnxruntime.InferenceSession:
    """Return the graph exactly as its authors publish it, in half precision."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(weights.file(CHECKPOINT), options, providers=["CPUExecutionProvider"])


def test_alpha_is_the_published_one(
    cutouts: dict[str, Cutout], published: onnxruntime.InferenceSession
) -> None:
    rgb = source("chelsea")
    pixels = (resize(rgb.astype(np.float64), 1024, 1024) / 255 - 0.5).transpose(2, 0, 1)[None]
    mask = published.run(["output"], {"input": pixels.astype(np.float32)})[0][0, 0].astype(np.float64)
    full = resize(mask, *rgb.shape[:2])
    expected = 255 * (full - full.min()) / (full.max() - full.min())

    alpha = np.asarray(open_picture(cutouts["chelsea"].data))[..., 3]
    difference = np.abs(alpha - expected)
    assert difference.mean() <= 1
    assert np.quantile(difference, 0.999) <= 8
    # There are a subject and a background, so the comparison is meaningful.
    assert 0.1 < (alpha > 127).mean() < 0.9


@pytest.mark.parametrize("name", WITH_SUBJECT)
def test_solid_colours_come_back_bit_for_bit(name: str, cutouts: dict[str, Cutout]) -> None:
    result = open_picture(cutouts[name].data)
    rgba, rgb = np.asarray(result), source(name)
    assert result.mode == "RGBA"
    assert rgba.shape[:2] == rgb.shape[:2]
    shows, solid = rgba[..., 3] > 0, rgba[..., 3] == 255
    assert solid.mean() > 0.05
    np.testing.assert_array_equal(rgba[shows, :3], rgb[shows])
    assert not rgba[~shows, :3].any()  # Removed pixels are not in the file.


@pytest.fixture(scope="module")
def network(weights: ModelsFolder) -> nn.Module:
    """Return the network in torch; a runner of another precision changes it and needs a copy."""
    return load_network(CHECKPOINT, weights)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Return the pixels of a photo with a subject and a background."""
    return matte.to_pixels(torch.from_numpy(source("chelsea").copy()), CHECKPOINT)


@pytest.fixture(scope="module")
def in_torch(network: nn.Module, photo: Tensor) -> Tensor:
    """Return torch's mask of the photo."""
    mask = TorchRunner(network, torch.device("cpu")).run(photo)
    assert 0.1 < mask.mean() < 0.9
    return mask


@pytest.fixture(scope="module")
def in_onnx(weights: ModelsFolder) -> OnnxRunner:
    return OnnxRunner(onnx_graph(CHECKPOINT, weights))


@pytest.fixture(scope="module")
def with_mnn(weights: ModelsFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelsFolder:
    """Return a models folder in which MNN is remembered as the faster library, whichever is so on this host."""
    if reason := why_not():
        pytest.skip(reason)
    folder = ModelsFolder(tmp_path_factory.mktemp("mnn"))
    folder.file(CHECKPOINT).parent.mkdir()
    folder.file(CHECKPOINT).symlink_to(weights.file(CHECKPOINT).resolve())
    convert(onnx_graph(CHECKPOINT, weights), folder_for(CHECKPOINT, folder, folder.verify(CHECKPOINT)))
    remember(CHECKPOINT, folder, Measured("mnn", "said so"))
    return folder


def test_mnn_gives_the_masks_of_torch_and_lets_other_threads_run(
    with_mnn: ModelsFolder, photo: Tensor, in_torch: Tensor
) -> None:
    runner = open_runner(CHECKPOINT, with_mnn, "cpu")
    assert runner.backend == "mnn-cpu"
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.wait(0.001):
            turns += 1

    with ThreadPoolExecutor(1) as pool:
        pool.submit(count)
        try:
            mask = runner.run(photo)
        finally:
            done.set()
    assert mask.shape == in_torch.shape == (1, 1, 1024, 1024)
    assert (mask - in_torch).abs().max() < 2e-3
    # A run takes a second or more; with the interpreter locked, there would be a turn or two.
    assert turns > 20


def test_onnx_runtime_gives_the_masks_of_torch(in_onnx: OnnxRunner, photo: Tensor, in_torch: Tensor) -> None:
    mask = in_onnx.run(photo)
    assert mask.shape == in_torch.shape
    assert (mask - in_torch).abs().max() < 2e-3


def test_runners_are_compared_on_a_picture_with_a_subject(in_onnx: OnnxRunner) -> None:
    """On noise, the mask of trained weights is 0, and so is that of a runner that is broken."""
    mask = in_onnx.run(trial_pixels(CHECKPOINT.input_size))
    assert 0.15 < mask.mean() < 0.3
    assert mask[..., 512, 512] > 0.9


def test_the_doctor_names_the_library_and_the_reason(
    with_mnn: ModelsFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUTOUT_MODELS_DIR", str(with_mnn.path))
    monkeypatch.setenv("COLUMNS", "500")
    doctor("cpu")
    shown = capsys.readouterr()
    [line] = [line for line in (shown.out + shown.err).splitlines() if "isnet-general: ready" in line]
    assert line.endswith("; runs in mnn (said so)")


@pytest.mark.parametrize(
    ("device", "size"), [("cpu", 256), pytest.param("cuda", 1024, marks=pytest.mark.gpu)]
)
def test_half_precision_gives_the_masks_of_float32(network: nn.Module, device: str, size: int) -> None:
    """At a smaller size on the CPU, where half precision is slow."""
    rgb = torch.from_numpy(source("chelsea").copy())
    pixels = matte.to_pixels(rgb, dataclasses.replace(CHECKPOINT, input_size=size))
    full = TorchRunner(network, torch.device("cpu")).run(pixels)
    half = TorchRunner(deepcopy(network), torch.device(device), dtype=torch.float16)
    levels = 255 * (half.run(pixels.to(device)).cpu() - full).abs()
    assert 0 < levels.mean() < 0.2
    assert 0.1 < full.mean() < 0.9  # There are a subject and a background.


def test_a_photo_without_a_subject_is_said_to_have_none(
    cutouts: dict[str, Cutout], real_engine: Engine
) -> None:
    plain, data = np.full((200, 300, 3), (30, 90, 200), np.uint8), io.BytesIO()
    Image.fromarray(plain).save(data, "PNG")
    for cutout in (cutouts["grass"], real_engine.remove(data.getvalue(), Options())):
        assert cutout.no_foreground
        assert not np.asarray(open_picture(cutout.data)).any()
    assert not any(cutouts[name].no_foreground for name in WITH_SUBJECT)


def test_dearer_tiers_are_nearer_to_the_truth(real_engine: Engine) -> None:
    picture, alpha = photo_with_disc(1500, 2000, 200)
    data = io.BytesIO()
    Image.fromarray(picture.rgb).save(data, "PNG")

    def error(tier: Tier) -> float:
        cutout = open_picture(real_engine.remove(data.getvalue(), Options(tier=tier)).data)
        return float(np.abs(np.asarray(cutout.getchannel("A")) / 255 - alpha).mean())

    # The second look of "industry" begins with what "professional" makes.
    assert error(Tier.INDUSTRY) < 0.5 * error(Tier.BASIC)


@pytest.mark.parametrize("tier", [Tier.BASIC, Tier.PROFESSIONAL])
def test_the_self_test_has_the_alphas_of_these_weights(tier: Tier, real_engine: Engine) -> None:
    fact = tier_serves(real_engine, tier, "float32", trained=True)
    assert "the stored alpha" in fact.text
    assert fact.figures["mean_levels"] < 0.02
