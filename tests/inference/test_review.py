"""Which results a person should look at."""

import pytest

from cutout.inference.review import LEAST_COVERAGE, MOST_COVERAGE, MOST_UNCERTAIN, needs_review


@pytest.mark.parametrize(
    ("no_subject", "coverage", "uncertainty", "review"),
    [
        (False, 0.4, 0.02, False),
        (False, LEAST_COVERAGE, MOST_UNCERTAIN, False),
        (False, MOST_COVERAGE, 0.0, False),
        (True, 0.0, 0.0, True),
        (False, LEAST_COVERAGE / 2, 0.0, True),
        (False, (1 + MOST_COVERAGE) / 2, 0.0, True),
        (False, 0.4, MOST_UNCERTAIN + 0.01, True),
    ],
)
def test_a_person_looks_at_what_is_unlikely(
    no_subject: bool, coverage: float, uncertainty: float, review: bool
) -> None:
    assert needs_review(no_subject, coverage, uncertainty) is review
