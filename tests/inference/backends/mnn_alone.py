"""Convert and run a small network in MNN, and record what the process does besides: run by `test_mnn` on its own.

`python -m tests.inference.backends.mnn_alone GRAPH FOLDER`, with the ONNX graph of `Small`, writes FOLDER/told.json and
must leave stdout empty.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from cutout.inference.backends import mnn_export
from cutout.inference.backends.mnn_runner import MnnRunner

WATCHED = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.")
SIZE = 32


class Small(nn.Module):
    """A network with the kinds of layers that IS-Net has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=2, dilation=2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        halved = nn.functional.max_pool2d(self.first(pixels).relu(), 2, ceil_mode=True)
        out: torch.Tensor = self.second(nn.functional.interpolate(halved, pixels.shape[2:], mode="bilinear"))
        return 5 * out


def pixels(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) - 0.5


def main(graph: Path, folder: Path) -> None:
    """Convert the network and run it, and write what the two processes did."""
    converter = folder / "converter.json"
    mnn_export.CONVERTER = (
        "import sys; events = []\n"
        f"sys.addaudithook(lambda event, _: events.append(event) if event.startswith({WATCHED!r}) else None)\n"
        f"{mnn_export.CONVERTER}\n"
        f"import json; json.dump([events, sorted(sys.modules)], open({str(converter)!r}, 'w'))\n"
    )
    events: list[tuple[str, str]] = []
    sys.addaudithook(
        lambda event, what: events.append((event, repr(what))) if event.startswith(WATCHED) else None
    )
    mnn_export.convert(graph, folder / "converted")
    of_converting, at_running = events[:], len(events)
    runner = MnnRunner(folder / "converted")
    runner.warm_up(SIZE)
    masks = runner.run(pixels(3))
    of_converter, modules_of_converter = json.loads(converter.read_text())
    told = {
        "converting": of_converting,
        "converter": of_converter,
        "running": events[at_running:],
        "modules": [*sys.modules, *modules_of_converter],
        "masks": masks.tolist(),
    }
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
