"""U²-Net compared with a second implementation on stand-in weights, and with the published graph on the real ones."""

from copy import deepcopy

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from cutout.inference.backends.runners import Runner, open_runner
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models import build_network
from cutout.models.catalog import find
from cutout.models.optimise import optimise
from tests.conftest import DATA
from tests.parity import image, published_state, standin

CHECKPOINT = find("u2netp")


@torch.inference_mode()
def test_meets_the_second_implementation_plain_and_optimised() -> None:
    network = standin("u2netp", published_state("u2netp"))
    expected = np.load(DATA / "u2netp_reference.npz")["u2netp"]
    pixels = torch.from_numpy(image(96))
    np.testing.assert_allclose(network(pixels).sigmoid().numpy(), expected, atol=1e-4, rtol=0)

    optimised = optimise(deepcopy(network))
    np.testing.assert_allclose(optimised(pixels).sigmoid().numpy(), expected, atol=1e-4, rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in optimised.modules())


@torch.inference_mode()
def test_takes_sizes_that_do_not_halve_evenly() -> None:
    assert build_network("u2netp").eval()(torch.zeros(1, 3, 45, 71)).shape == (1, 1, 45, 71)


@pytest.fixture(scope="module")
def pixels() -> npt.NDArray[np.float32]:
    """Return a photo, prepared as its authors do."""
    photo = Image.open(DATA / "astronaut.jpg").convert("RGB").resize((320, 320), Image.Resampling.LANCZOS)
    levels = np.asarray(photo, np.float64)
    normalised = (levels / levels.max() - CHECKPOINT.mean) / CHECKPOINT.std
    prepared: npt.NDArray[np.float32] = normalised.transpose(2, 0, 1)[None].astype(np.float32)
    return prepared


@pytest.fixture(scope="module")
def published(small_weights: ModelsFolder, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mask that the published graph gives, as it is."""
    graph = onnxruntime.InferenceSession(small_weights.file(CHECKPOINT), providers=["CPUExecutionProvider"])
    mask: npt.NDArray[np.float32] = graph.run(None, {"input.1": pixels})[0]
    assert mask.max() > 0.99  # it shows the subject
    return mask


@pytest.mark.weights
@torch.inference_mode()
def test_meets_the_published_graph_in_torch(
    small_weights: ModelsFolder, pixels: npt.NDArray[np.float32], published: npt.NDArray[np.float32]
) -> None:
    mask = load_network(CHECKPOINT, small_weights)(torch.from_numpy(pixels)).sigmoid()
    np.testing.assert_allclose(mask.numpy(), published, atol=1e-4, rtol=0)


@pytest.mark.weights
def test_meets_the_published_graph_in_the_library_of_this_host(
    small_runner: Runner, pixels: npt.NDArray[np.float32], published: npt.NDArray[np.float32]
) -> None:
    mask = small_runner.run(torch.from_numpy(pixels))
    assert small_runner.backend == "onnxruntime-cpu"
    np.testing.assert_allclose(mask.numpy(), published, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def small_runner(small_weights: ModelsFolder) -> Runner:
    return open_runner(CHECKPOINT, small_weights, "cpu")
