"""How good the cut-outs are: scenes with known alpha and colours, measures, and the tables made of them."""


def run() -> None:
    """Measure the recipes alone, the tiers whole, the second look, and what they cost."""
    # OpenCV, pymatting, scikit-image and the rest are installed for this benchmark only.
    try:
        from benchmarks.quality import cost, recipe, second, whole
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is missing; run: make quality") from error
    for part in (cost, recipe, whole, second):
        part.run()
