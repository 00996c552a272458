"""Scenes are what they promise: sizes, exact alpha, true colours, conditions, and the same bytes for the same seed."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

cv2 = pytest.importorskip("cv2", reason="the extra `quality` is not installed")
pytest.importorskip("skimage", reason="the extra `quality` is not installed")
pytest.importorskip("sklearn", reason="the extra `quality` is not installed")

from benchmarks.quality import hard, scenes, studio
from benchmarks.quality.camera import Camera, random_camera
from benchmarks.quality.coverage import coverage
from benchmarks.quality.layers import Layer, Scene
from benchmarks.quality.outlines import ellipse

CLEAN = Camera(lens=0.5, noise=0, jpeg=100)
# Soft subjects that are drawn; the others need the emoji from the network.
DRAWN = ("lace", "glass")


@pytest.mark.parametrize("megapixels", [0.02, 0.2])
@pytest.mark.parametrize("kind", [*hard.KINDS, *DRAWN])
def test_a_scene_is_what_it_promises(kind: str, megapixels: float) -> None:
    scene = scenes.make(kind, megapixels, 3, CLEAN)
    photo = pixels(scene)
    assert photo.shape == scene.foreground.shape == (*scene.alpha.shape, 3)
    assert scene.alpha.size == pytest.approx(megapixels * 1e6, rel=0.02)
    assert scene.alpha.dtype == np.float32
    assert scene.alpha.min() == 0
    assert 0.3 < scene.alpha.max() <= 1
    opaque = scene.alpha == 1
    if opaque.any():
        # Chroma is stored at half the size.
        difference = np.abs(photo[opaque].astype(float) - scene.foreground[opaque])
        assert difference.mean() < 12
    # A border of background all around: no subject is cut off.
    assert max(scene.alpha[0].max(), scene.alpha[:, 0].max(), scene.alpha[:, -1].max()) == 0


@pytest.mark.parametrize("kind", ["label", "wire"])
def test_the_same_seed_gives_the_same_scene(kind: str) -> None:
    one, same, other = (scenes.make(kind, 0.02, seed) for seed in (5, 5, 6))
    assert one.photo == same.photo
    assert (one.alpha == same.alpha).all()
    assert one.photo != other.photo


@pytest.mark.parametrize("kind", ["bottle", "white-on-white"])
def test_a_hard_edge_is_as_wide_as_the_lens_leaves_it(kind: str) -> None:
    alpha = scenes.make(kind, 0.2, 1, Camera(lens=0.3)).alpha
    mixed = ((alpha > 0.02) & (alpha < 0.98)).astype(np.uint8)
    # No mixed pixel has mixed pixels all around it.
    assert cv2.erode(mixed, np.ones((5, 5), np.uint8)).max() == 0


@pytest.mark.parametrize("kind", hard.TONES)
@pytest.mark.parametrize("seed", range(3))
def test_the_edge_of_a_faint_subject_differs_by_a_few_levels(kind: str, seed: int) -> None:
    scene = scenes.make(kind, 0.1, seed, CLEAN)
    photo, kernel = pixels(scene).mean(2), np.ones((7, 7), np.uint8)
    inside = (scene.alpha > 0.99) & (cv2.erode(scene.alpha, kernel) < 0.5)
    outside = (scene.alpha < 0.01) & (cv2.dilate(scene.alpha, kernel) > 0.5)
    height = np.arange(len(photo))[:, None] < len(photo) * 0.6  # above the shadow of the foot
    contrast = abs(np.median(photo[inside & height]) - np.median(photo[outside & height]))
    assert 0.5 < contrast <= hard.CONTRAST[1] + 8


def test_wires_have_their_widths() -> None:
    for seed in range(2):
        alpha = scenes.make("wire", 3.0, seed, CLEAN).alpha
        radius = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        # Where bars cross or meet in a hub, they are wider.
        assert 1 <= np.quantile(radius[radius > 0], 0.95) <= 12


def test_a_shadow_is_background_that_is_darker() -> None:
    alpha = coverage([ellipse((100, 100), 40, 60)], 200, 200)
    ground = np.full((200, 200, 3), 250, np.float32)
    shaded = studio.shaded(np.random.default_rng(1), ground, alpha)
    assert shaded[:20].min() > 249
    assert shaded[159:163, 90:110].max() < 245
    assert shaded.min() > 0


def test_a_white_sweep_is_nearly_white() -> None:
    sweep = studio.sweep(np.random.default_rng(0), np.zeros((50, 60), np.float32), 246.0)
    assert sweep.shape == (50, 60, 3)
    assert 240 < sweep.min() <= sweep.max() <= 246


def test_the_camera_sharpens_adds_noise_and_compresses() -> None:
    light = np.full((64, 64, 3), 60, np.float32)
    light[:, 32:] = 180

    def taken(camera: Camera) -> npt.NDArray[np.float64]:
        data = camera.take(np.random.default_rng(0), light)
        return np.asarray(Image.open(io.BytesIO(data)), float)

    plain, sharp = taken(CLEAN), taken(Camera(noise=0, sharpening=1.0, jpeg=100))
    assert (plain.min(), plain.max()) == (60, 180)
    assert sharp.min() < 50
    assert sharp.max() > 190
    assert taken(Camera(noise=3, jpeg=100))[:, :28].mean(2).std() > 1
    sizes = [len(Camera(jpeg=quality).take(np.random.default_rng(0), light)) for quality in (60, 95)]
    assert sizes[0] < sizes[1]


def test_the_lens_blurs_colours_and_alpha_alike() -> None:
    alpha = coverage([ellipse((20, 20), 9, 9)], 40, 40)
    blurred = Camera(lens=1.0).through_lens(Layer(alpha[..., None] * np.full(3, 200, np.float32), alpha))
    assert np.abs(blurred.colour - 200 * blurred.alpha[..., None]).max() < 0.01
    assert blurred.alpha.sum() == pytest.approx(float(alpha.sum()), rel=1e-4)


def test_random_cameras_are_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    cameras = [random_camera(rng) for _ in range(50)]
    assert {60 <= one.jpeg <= 95 for one in cameras} == {True}
    assert {one.sharpening > 0 for one in cameras} == {True, False}


def pixels(scene: Scene) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(scene.photo)))
