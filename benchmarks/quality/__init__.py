"""Quality of the cut-outs: scenes with known alpha and colours, error measures, and result tables."""


def run() -> None:
    """Measure the cost of the tiers, the recipes alone, the tiers end to end, and the second look."""
    # OpenCV, pymatting, scikit-image and some others are installed for this benchmark only.
    try:
        from benchmarks.quality import cost, recipe, second, whole
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is missing; run: make quality") from error
    for part in (cost, recipe, whole, second):
        part.run()
