"""U²-Net in its small form, "U²-Net†", the network of the checkpoint u2netp.

Method: Qin et al., "U²-Net" (Pattern Recognition 2020). It is built of the blocks of IS-Net, its successor, with 16
channels in the middle of each. Module names follow the published checkpoint, so that its keys load strictly.

Shapes in the comments below are for a 320×320 input; any size of at least 2 pixels works.
"""

import torch
from torch import Tensor, nn

from cutout.models.isnet import DilatedResidualU, ResidualU, halve, join, upsample


class U2NetP(nn.Module):
    """Matting network: pixels float [B,3,H,W], normalised as the checkpoint specifies, → logits [B,1,H,W].

    The sigmoid of the logits is the mask, 0 (background) … 1 (foreground).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = ResidualU(7, 3, 16, 64)  # → [B,64,320,320]
        self.stage2 = ResidualU(6, 64, 16, 64)  # → [B,64,160,160]
        self.stage3 = ResidualU(5, 64, 16, 64)  # → [B,64,80,80]
        self.stage4 = ResidualU(4, 64, 16, 64)  # → [B,64,40,40]
        self.stage5 = DilatedResidualU(64, 16, 64)  # → [B,64,20,20]
        self.stage6 = DilatedResidualU(64, 16, 64)  # → [B,64,10,10]

        self.stage5d = DilatedResidualU(128, 16, 64)  # → [B,64,20,20]
        self.stage4d = ResidualU(4, 128, 16, 64)  # → [B,64,40,40]
        self.stage3d = ResidualU(5, 128, 16, 64)  # → [B,64,80,80]
        self.stage2d = ResidualU(6, 128, 16, 64)  # → [B,64,160,160]
        self.stage1d = ResidualU(7, 128, 16, 64)  # → [B,64,320,320]

        # A mask at every scale, 1 the finest, and the weights by which they are summed.
        self.side1 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.side2 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.side3 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.side4 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.side5 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.side6 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.outconv = nn.Conv2d(6, 1, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x1 = self.stage1(pixels)
        x2 = self.stage2(halve(x1))
        x3 = self.stage3(halve(x2))
        x4 = self.stage4(halve(x3))
        x5 = self.stage5(halve(x4))
        x6 = self.stage6(halve(x5))

        d5 = self.stage5d(join(x6, x5))
        d4 = self.stage4d(join(d5, x4))
        d3 = self.stage3d(join(d4, x3))
        d2 = self.stage2d(join(d3, x2))
        d1 = self.stage1d(join(d2, x1))

        finest = self.side1(d1)
        coarser = (self.side2(d2), self.side3(d3), self.side4(d4), self.side5(d5), self.side6(x6))
        masks = [finest, *(upsample(mask, finest) for mask in coarser)]
        out: Tensor = self.outconv(torch.cat(masks, dim=1))
        return out
