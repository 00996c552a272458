"""A network exported to ONNX gives the same results in ONNX Runtime as in torch."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cutout.inference.backends.onnx_export import export_onnx
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.inference.backends.runners import TorchRunner
from cutout.models import swin
from cutout.models.birefnet import BiRefNet
from cutout.models.optimise import FusedWindowAttention, optimise
from tests.parity import fill, image

pytestmark = pytest.mark.slow


def test_a_birefnet_runs_in_onnx_runtime_as_in_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small BiRefNet with all its parts: padded and shifted windows, strips, both scales; a full and a half batch."""
    tiny = swin.SwinSize(width=8, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=3)
    monkeypatch.setitem(swin.SIZES, "tiny", tiny)
    monkeypatch.setattr("cutout.models.deform_conv.STRIP_PLACES", 2**12)
    plain = BiRefNet("tiny", "wg hg c", depths=(2, 1, 1, 1))
    # Five times the same parts: a deformable block at the coarsest and one at the finest level are exported.
    for level in (2, 3, 4):
        plain.decoder.get_submodule(f"decoder_block{level}").dec_att = nn.Identity()
    for name, tensor in plain.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(fill(name, tuple(tensor.shape))))
    network = optimise(plain)
    export_onnx(network, tmp_path / "graph.onnx", 64, batch=2)

    pixels = torch.from_numpy(image(64, batch=3))
    expected = TorchRunner(network, torch.device("cpu")).run(pixels)
    found = OnnxRunner(tmp_path / "graph.onnx").run(pixels)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert expected.std() > 0.05
    assert (expected[0] - expected[1]).abs().max() > 0.05


class Windows(nn.Module):
    """One window attention on [B,C,H,W], for `export_onnx`, which exports networks of pictures."""

    def __init__(self, window: int, shift: int) -> None:
        super().__init__()
        plain = swin.WindowAttention(12, 2, window, shift)
        for name, tensor in plain.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(fill(name, tuple(tensor.shape))))
        torch.nn.init.normal_(plain.relative_position_bias_table)
        self.window, self.shift = window, shift
        self.embed = nn.Conv2d(3, 12, kernel_size=1)
        self.attention = FusedWindowAttention(plain)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels).permute(0, 2, 3, 1)
        out: Tensor = self.attention(x, swin.shift_mask(x, self.window, self.shift))
        return out


@torch.inference_mode()
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [3, 8, 10])  # one padded window; whole windows; padded windows
def test_windows_are_gathered_in_onnx_as_they_are_cut_in_torch(tmp_path: Path, size: int, shift: int) -> None:
    torch.manual_seed(0)
    windows = Windows(4, shift).eval()
    export_onnx(windows, tmp_path / "graph.onnx", size, batch=2)
    pixels = 3 * torch.randn(2, 3, size, size)
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixels": pixels.numpy()})[0]
    expected = windows(pixels)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.05
