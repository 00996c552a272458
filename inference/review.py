"""Facts that tell a person which results to look at: how unsure the network was, and how much it kept."""

import torch
from torch import Tensor

# A mask whose undecided share is larger is looked at; measured, see docs/decisions/0022-results-for-review.md.
MOST_UNCERTAIN = 0.12
# Every so many rows and columns of a mask are looked at, which is enough for a share.
EVERY = 2
# So is a subject that takes less of the photo than this, or more: most likely a speck, or nothing was removed.
LEAST_COVERAGE, MOST_COVERAGE = 0.001, 0.98


def uncertainty_of(mask: Tensor) -> Tensor:
    """Return how much of a network's mask, float [1,1,S,S] of 0…1, it is undecided about: float32 [1], of 0…1.

    It is the sum of each pixel's distance to its nearer end, doubled, in parts of the subject's area. A sharp outline has
    little of it; hair and glass have more; a mask that is grey all over has 1.
    """
    mask = mask[..., ::EVERY, ::EVERY]
    undecided = torch.minimum(mask, 1 - mask).sum() * 2
    return (undecided / mask.sum().clamp(min=1e-6)).clamp(0, 1).float().reshape(1)


def needs_review(no_subject: bool, coverage: float, uncertainty: float) -> bool:
    """Return whether a person should look at a result; `coverage` is the share of the photo that the subject takes."""
    likely = LEAST_COVERAGE <= coverage <= MOST_COVERAGE
    return no_subject or not likely or uncertainty > MOST_UNCERTAIN
