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
    """A small BiRefNet with all its parts: padded windows, strips, both scales; a full and a half batch.

    An export takes as long as there are operators. So what is there in each of four or five levels is exported once, at
    the finest, where the largest kernel takes two strips. Shifted windows have a test of their own, below.
    """
    tiny = swin.SwinSize(width=8, depths=(1, 0, 0, 0), heads=(2, 1, 1, 1), window=3)
    monkeypatch.setitem(swin.SIZES, "tiny", tiny)
    monkeypatch.setattr("cutout.models.deform_conv.STRIP_PLACES", 2**13)
    plain = BiRefNet("tiny", "wg hg c")
    for block in (plain.squeeze_module[0], *(getattr(plain.decoder, f"decoder_block{n}") for n in (2, 3, 4))):
        block.dec_att = nn.Identity()
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


# One padded window, whole windows and padded windows; each as it is and shifted.
CASES = [(size, shift) for size in (3, 8, 10) for shift in (0, 2)]


class Cases(nn.Module):
    """The results of `Windows` for all of `CASES` in one row, from pictures that are cut to the size of each."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = nn.ModuleList(Windows(4, shift) for _, shift in CASES)

    def forward(self, pixels: Tensor) -> Tensor:
        cut = [pixels[..., :size, :size] for size, _ in CASES]
        return torch.cat([one(x).flatten(1) for one, x in zip(self.windows, cut, strict=True)], dim=1)


@torch.inference_mode()
def test_windows_are_gathered_in_onnx_as_they_are_cut_in_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cases = Cases().eval()
    export_onnx(cases, tmp_path / "graph.onnx", 10, batch=2)
    pixels = 3 * torch.randn(2, 3, 10, 10)
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    rows = torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])
    lengths = [12 * size**2 for size, _ in CASES]
    for case, found, expected in zip(
        CASES, rows.split(lengths, 1), cases(pixels).split(lengths, 1), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=f"size and shift: {case}")
        assert expected.std() > 0.05
