"""The benchmarks of the recipes and of the tiers as a whole write their tables and pictures, on tiny scenes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

for package in ("cv2", "skimage", "sklearn", "matplotlib", "py_sod_metrics"):
    pytest.importorskip(package, reason="the extra `quality` is not installed")

from benchmarks import report
from benchmarks.quality import hard, methods, order, recipe, scenes, whole
from benchmarks.quality.layers import Bytes
from cutout.inference.tiers import Tier

MEGAPIXELS = 0.12


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the page of results of this test."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    return tmp_path / "performance.md"


def test_the_recipes_are_reported_by_group_and_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results: Path
) -> None:
    monkeypatch.setattr(recipe, "KINDS", ("glass",))
    monkeypatch.setattr(recipe, "SIZES", (MEGAPIXELS,))
    monkeypatch.setattr(recipe, "HARD_SIZES", (0.02, MEGAPIXELS))
    monkeypatch.setattr(recipe, "FRONTIER", tmp_path / "frontier.png")
    monkeypatch.setattr(
        recipe, "METHODS", {name: methods.METHODS[name] for name in ("standard", "professional")}
    )
    monkeypatch.setattr(hard, "KINDS", {"bottle": hard.bottle})
    recipe.run()
    lines = results.read_text().splitlines()
    groups = [line.split(" | ")[0] for line in lines if " | ratio | " in line]
    assert groups == [
        f"| {group}"
        for group in (
            "soft (1)",
            "soft, 0.12 MP (1)",
            "hard (2)",
            "hard, 0.02 MP (1)",
            "hard, 0.12 MP (1)",
            "bottle (2)",
        )
    ]
    assert (tmp_path / "frontier.png").exists()


class _TrueNetwork:
    """A network that knows the truth of the one scene that it is asked for."""

    name = "truth"

    def __init__(self) -> None:
        self._scene = scenes.make("label", MEGAPIXELS, whole.SEEDS[0])

    def look(self, rgb: Tensor) -> Tensor:
        return methods.ideal_mask(self._scene)

    def tiers(self, rgb: Tensor, first: Tensor) -> dict[Tier, tuple[Bytes, Bytes]]:
        return order.tiers(self._scene, rgb.numpy())


def test_the_contact_sheet_shows_a_product_on_white_black_and_green(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results: Path
) -> None:
    monkeypatch.setattr(whole, "Network", _TrueNetwork)
    for name, value in (("KINDS", ("label",)), ("HARD_KINDS", ("label",)), ("SOFT_KINDS", ())):
        monkeypatch.setattr(whole, name, value)
    monkeypatch.setattr(whole, "SIZES", (MEGAPIXELS,))
    monkeypatch.setattr(whole, "WANTED", 1)
    monkeypatch.setattr(whole, "CROP", 100)
    monkeypatch.setattr(whole, "SHEET", tmp_path / "sheet.png")
    whole.run()
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    # The photo, a crop, four tiers and the truth.
    assert sheet.shape == (3 * 100, 7 * 100, 3)
    truth = [row[:, 600:].reshape(-1, 3) for row in np.split(sheet, 3)]
    for ground, tile in zip(whole.PRODUCT_GROUNDS, truth, strict=True):
        assert (tile == ground).all(1).mean() > 0.05
    text = results.read_text()
    assert "truth, 1 hard scenes whose subject it finds, of 1" in text
    assert "truth, 0 soft scenes whose subject it finds, of 0" in text
