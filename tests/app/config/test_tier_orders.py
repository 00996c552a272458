"""`CUTOUT_TIER_…`: what they may name, what is downloaded for them, and what serves then."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cutout.app import bootstrap
from cutout.app.config.base import SettingsError
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.inference.backends import runners
from cutout.inference.errors import ModelUnavailable, WeightsUnavailable
from cutout.inference.tiers import TIERS, Tier, choose
from cutout.inference.weights.store import Record
from cutout.models.catalog import CHECKPOINTS, Checkpoint

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that loads settings with an empty models folder, on a CPU."""
    monkeypatch.setattr(runners, "pick_device", lambda _: "cpu")
    return lambda **changes: load_settings(models_dir=tmp_path, **changes)


def add_own(settings: Settings, name: str) -> None:
    """Put own weights there that nobody loads."""
    home = settings.models_folder.own / name
    home.mkdir(parents=True)
    (home / "model.safetensors").write_bytes(b"weights")
    text = '{"source": "here", "sha256": "0", "fetched_at": "2026-11-26", "like": "birefnet-general"}'
    (home / "origin.json").write_text(text)


def pulled_for(settings: Settings, broken: tuple[str, ...] = ()) -> list[str]:
    """Return the checkpoints that the settings download; those that are `broken` cannot be had."""
    pulled: list[str] = []

    def pull(checkpoint: Checkpoint) -> None:
        if checkpoint.name in broken:
            raise WeightsUnavailable(f"{checkpoint.name}: the hub is away.")
        file = settings.models_folder.file(checkpoint)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")
        pulled.append(checkpoint.name)

    bootstrap.pull_missing(settings, Tier, pull)
    return pulled


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ("rmbg-2.0, birefnet-hr,rmbg-2.0", "CUTOUT_TIER_STANDARD: rmbg-2.0 is in the list twice"),
        ("RMBG-2.0", "CUTOUT_TIER_STANDARD: RMBG-2.0 cannot be the name of a checkpoint; a name has"),
        ("../etc", "CUTOUT_TIER_STANDARD: ../etc cannot be the name"),
    ],
)
def test_names_that_cannot_be_are_refused_at_once(
    load: Load, order: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTOUT_TIER_STANDARD", order)
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(told)


def test_checkpoints_that_do_not_exist_are_all_named(load: Load) -> None:
    settings = load(tier_basic="rmgb-1.4", tier_industry="rmbg-2.0,shop-v3")
    for start in (lambda: pulled_for(settings), lambda: bootstrap.engine_from(settings)):
        with pytest.raises(SettingsError) as caught:
            start()
        first, second = str(caught.value).split("\n")
        assert first.startswith(
            "CUTOUT_TIER_BASIC: There is no checkpoint 'rmgb-1.4'. Did you mean rmbg-1.4?"
        )
        assert second.startswith("CUTOUT_TIER_INDUSTRY: There is no checkpoint 'shop-v3'.")
        assert second.endswith("added with: cutout models add FILE --like CHECKPOINT --name shop-v3")


def test_the_order_ends_with_what_every_host_has_unless_substitutes_are_forbidden(load: Load) -> None:
    assert load().tier_orders == {}
    own = load(tier_standard="shop-v3 , birefnet-hr")
    add_own(own, "shop-v3")

    def names(settings: Settings) -> list[str]:
        assert list(settings.tier_orders) == [Tier.STANDARD]
        return [checkpoint.name for checkpoint in settings.tier_orders[Tier.STANDARD]]

    assert names(own) == ["shop-v3", "birefnet-hr", "isnet-general"]
    assert names(load(tier_standard="isnet-general,shop-v3")) == ["isnet-general", "shop-v3"]
    assert names(load(tier_standard="shop-v3", strict_models=True)) == ["shop-v3"]


def test_what_is_named_is_downloaded_and_nothing_else(load: Load) -> None:
    settings = load(tier_standard="birefnet-lite,birefnet-hr", tier_professional="birefnet-lite")
    add_own(settings, "shop-v3")
    assert pulled_for(settings) == ["isnet-general", "birefnet-lite", "u2netp"]
    assert pulled_for(settings) == []
    assert pulled_for(load(tier_basic="birefnet-portrait")) == ["birefnet-portrait"]
    # Own weights are there already. The other tiers take what is there, as ever.
    assert pulled_for(load(tier_industry="shop-v3,birefnet-hr")) == []


def test_the_newer_checkpoints_serve_where_they_are_named(load: Load) -> None:
    settings = load(tier_standard="lucida,rmbg-2.0,birefnet-lite-2k", tier_industry="toonout,feynobg")
    assert pulled_for(settings, broken=("toonout",)) == ["isnet-general", "lucida", "feynobg", "u2netp"]
    served = {
        tier: choose(tier, settings.models_folder, settings.tier_orders).checkpoint.name for tier in Tier
    }
    # A tier of the usual order takes what is there: a general one before a special one, and ToonOut never.
    assert list(served.values()) == ["isnet-general", "lucida", "feynobg", "feynobg", "u2netp"]
    usual = {name for rule in TIERS.values() for name in rule.checkpoints}
    assert set(CHECKPOINTS) - usual == {"toonout"}


def test_own_weights_whose_file_is_missing_are_not_downloaded(load: Load) -> None:
    settings = load(tier_basic="shop-v3,birefnet-lite")
    add_own(settings, "shop-v3")
    (settings.models_folder.own / "shop-v3/model.safetensors").unlink()
    assert pulled_for(settings) == ["birefnet-lite", "u2netp"]
    reasons = choose(Tier.BASIC, settings.models_folder, settings.tier_orders).passed_over
    assert reasons == (
        "shop-v3: weights missing; run: cutout models add FILE --like birefnet-general --name shop-v3 --replace",
    )


def test_what_cannot_be_had_is_replaced_by_the_next(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    settings = load(tier_standard="rmbg-2.0,birefnet-hr,birefnet-lite")
    assert pulled_for(settings, broken=("birefnet-hr",)) == ["isnet-general", "birefnet-lite", "u2netp"]
    assert "birefnet-hr cannot be downloaded; a substitute may be used" in caplog.text
    choice = choose(Tier.STANDARD, settings.models_folder, settings.tier_orders)
    assert (choice.checkpoint.name, choice.wanted) == ("birefnet-lite", "rmbg-2.0")
    assert [reason.partition(":")[0] for reason in choice.passed_over] == ["rmbg-2.0", "birefnet-hr"]


def test_strict_means_the_first_or_nothing(load: Load) -> None:
    settings = load(tier_standard="birefnet-lite", strict_models=True)
    with pytest.raises(ModelUnavailable, match="birefnet-lite: the hub is away"):
        pulled_for(settings, broken=("birefnet-lite",))
    licensed = load(tier_standard="rmbg-2.0", strict_models=True)
    assert pulled_for(licensed) == ["u2netp"]
    with pytest.raises(
        ModelUnavailable, match=r"is ready: rmbg-2\.0: licence .* --accept-licence$"
    ) as caught:
        bootstrap.engine_from(licensed, [Tier.STANDARD])
    assert "birefnet" not in str(caught.value)  # which would be in the usual order


def test_a_host_without_networks_needs_no_own_weights(load: Load) -> None:
    """The service may leave photos to workers, and only those have the weights."""
    settings = load(tier_standard="shop-v3", redis_url="redis://127.0.0.1:1", api_engine="queue")
    assert settings.names_of(Tier.STANDARD) == ("shop-v3",)


def test_a_record_names_what_it_is_like(load: Load) -> None:
    add_own(load(), "shop-v3")
    [checkpoint] = load(tier_basic="shop-v3", strict_models=True).tier_orders[Tier.BASIC]
    assert load().models_folder.record(checkpoint) == Record("here", "0", "2026-11-26", "birefnet-general")
