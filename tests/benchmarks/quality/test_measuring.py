"""The measures of a perfect and a wrong cut-out, and the benchmarks that print them."""

import csv
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="the extra `quality` is not installed")
pytest.importorskip("skimage", reason="the extra `quality` is not installed")
pytest.importorskip("sklearn", reason="the extra `quality` is not installed")

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.quality import alignment, compare, methods, order, real, scenes
from benchmarks.quality.layers import Scene, levels
from benchmarks.quality.measures import measure
from cutout.inference.imaging import decode
from cutout.inference.tiers import Tier

MEGAPIXELS = 0.03


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scenes.make("label", MEGAPIXELS, 2)


@pytest.fixture
def folder(tmp_path: Path, scene: Scene) -> Path:
    """Return a folder with a manifest of two photos, one of them with its alpha in a fourth channel."""
    alpha = levels(255 * scene.alpha)
    (tmp_path / "a.jpg").write_bytes(scene.photo)
    (tmp_path / "b.jpg").write_bytes(scene.photo)
    Image.fromarray(alpha).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([scene.foreground, alpha])).save(tmp_path / "b.png")
    entries = [
        {"photo": "a.jpg", "alpha": "a.png", "group": "product", "licence": "CC0"},
        {"photo": "b.jpg", "alpha": "b.png", "group": "hair"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    return tmp_path


def test_the_truth_has_no_error(scene: Scene) -> None:
    error = measure(scene, scene.foreground, levels(255 * scene.alpha))
    assert max(error.mae, error.edge, error.gradient, error.composite) < 2
    assert error.colour == error.islands == error.holes == 0
    assert error.connectivity == pytest.approx(0, abs=1e-3)
    assert (error.roughness, error.fringe) == pytest.approx((1, 1), abs=0.02)


def test_an_empty_alpha_has_every_error(scene: Scene) -> None:
    error = measure(scene, scene.foreground, np.zeros(scene.alpha.shape, np.uint8))
    assert error.mae == pytest.approx(1000 * float(scene.alpha.mean()), rel=1e-4)
    assert error.sad == pytest.approx(float(scene.alpha.sum()) / 1000, rel=1e-4)
    assert error.roughness == 0


def test_the_mask_is_the_truth_made_soft(scene: Scene) -> None:
    full, half = methods.ideal_mask(scene), methods.ideal_mask(scene, 512)
    assert full.shape == (1, 1, 1024, 1024)
    assert half.shape == (1, 1, 512, 512)
    for mask in (full, half):
        assert float(mask.mean()) == pytest.approx(float(scene.alpha.mean()), rel=1e-3)
        assert 0 <= float(mask.min()) <= float(mask.max()) <= 1


def test_compare_prints_raw_refined_and_their_ratio(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "--kinds",
        "bottle",
        "--megapixels",
        str(MEGAPIXELS),
        "--seeds",
        "1",
        "--pictures",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "quality-compare", *arguments])
    command.main()
    rows = [
        line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("| bottle")
    ]
    assert [step for _, step in rows] == ["raw", "refined", "ratio"]
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_an_order_that_is_broken_is_an_error_with_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(order, "KINDS", ("label",))
    monkeypatch.setattr(order, "SIZES", (MEGAPIXELS,))
    monkeypatch.setattr(order, "TOLERANCE", 10.0)
    order.main(["--scenes", "1"])
    monkeypatch.setattr(order, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="In 3 cases"):
        order.main(["--scenes", "1", "--pictures", str(tmp_path / "pictures")])
    assert len(list((tmp_path / "pictures").glob("label-1000-*.png"))) == 3
    assert "| professional | industry |" in (tmp_path / "performance.md").read_text()


def test_every_tier_is_made_from_the_same_mask(scene: Scene) -> None:
    results = order.tiers(scene, decode.decode(scene.photo).rgb)
    assert set(results) == set(Tier)
    assert (results[Tier.BASIC][1] == results[Tier.STANDARD][1]).all()
    assert (results[Tier.STANDARD][1] != results[Tier.PROFESSIONAL][1]).any()


def test_real_photos_are_measured_in_groups_at_two_sizes_of_the_mask(folder: Path) -> None:
    offsets, full, half = real.tables(folder, folder / "pictures")
    assert [float(row[-1]) <= real.ALIGNED for row in offsets.rows] == [True, True]
    for table in (full, half):
        groups = [row[0] for row in table.rows[::3]]
        assert groups == ["hair (1)", "product (1)", "all (2)", "alpha within 0.75 pixels of the edge (2)"]
        # Both photos are the same one.
        assert table.rows[0][2:] == table.rows[3][2:]
    edge = full.columns.index("edge")
    assert float(full.rows[0][edge]) < float(half.rows[0][edge])
    assert len(list((folder / "pictures").iterdir())) == 4


@pytest.mark.parametrize("shift", [1, 3])
def test_an_alpha_beside_the_photos_edge_is_found(scene: Scene, shift: int) -> None:
    rgb = decode.decode(scene.photo).rgb
    moved = np.roll(scene.alpha, (shift, shift), (0, 1))
    assert alignment.offset(rgb, scene.alpha) <= real.ALIGNED
    assert alignment.offset(rgb, moved) == pytest.approx(shift, abs=0.5)
    assert alignment.offset(rgb, np.zeros_like(moved)) == 0


def test_an_alpha_without_mixed_pixels_is_measured(scene: Scene) -> None:
    binary = dataclasses.replace(scene, alpha=(scene.alpha > 0.5).astype(np.float32))
    error = measure(binary, scene.foreground, levels(255 * scene.alpha))
    assert 0 < error.edge < 200
    assert error.colour == 0


def test_a_manifest_may_be_a_table(folder: Path) -> None:
    entries = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["photo", "alpha", "group", "licence"])
        writer.writeheader()
        writer.writerows(entries)
    assert [(one.group, one.licence) for one in real.manifest(folder)] == [("product", "CC0"), ("hair", "")]


def test_alphas_of_16_bits_are_read(folder: Path, scene: Scene) -> None:
    Image.fromarray(np.rint(scene.alpha * 65535).astype(np.uint16)).save(folder / "a.png")
    read = real.load(real.manifest(folder)[0]).alpha
    assert np.abs(read - scene.alpha).max() < 1e-4


def test_a_faulty_folder_is_an_error_that_names_the_file(folder: Path) -> None:
    Image.new("L", (30, 20)).save(folder / "a.png")
    with pytest.raises(SystemExit, match=r"a\.jpg and .*a\.png differ in size: .* and 30 × 20"):
        real.tables(folder)
    (folder / "b.png").unlink()
    with pytest.raises(SystemExit, match=r"b\.png is missing; .*manifest\.json names it"):
        real.main([str(folder)])
    for text, message in (
        ("[]", "names no photos"),
        ('[{"photo": "a.jpg"}]', "needs photo"),
        ("{", "needs photo"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(SystemExit, match=message):
            real.manifest(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(SystemExit, match=r"neither manifest\.json nor"):
        real.manifest(folder)


def test_the_place_of_the_largest_error_is_saved(tmp_path: Path, scene: Scene) -> None:
    rgb = decode.decode(scene.photo).rgb
    alpha = levels(255 * scene.alpha)
    compare.save(tmp_path / "new" / "a.png", scene, rgb, [alpha, alpha])
    side = min(compare.CROP, *alpha.shape)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.size == (4 * 2 * side, 2 * side)
