"""The NVIDIA GPUs of this host, one of which each worker can use."""

import os
import re
import subprocess

VISIBLE = "CUDA_VISIBLE_DEVICES"
# `nvidia-smi -L` prints a line for each GPU, and below it one for each of its MIG slices, indented:
#   GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5b…)
#     MIG 3g.40gb     Device  0: (UUID: MIG-c6…)
LINE = re.compile(r"(?P<indent>\s*)(GPU|MIG) .*\(UUID: (?P<uuid>[^)\s]+)\)\s*", re.ASCII)
PATIENCE_SECONDS = 30.0  # a driver that was not used for a while takes seconds to answer


def visible_cards() -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each card of this host; none without `nvidia-smi` and a driver.

    A card is a GPU, or a MIG slice of one. If CUDA_VISIBLE_DEVICES is set, its cards are returned as they are.
    """
    chosen = os.environ.get(VISIBLE)
    if chosen is not None:
        return [card.strip() for card in chosen.split(",") if card.strip() not in ("", "-1")]
    try:
        told = subprocess.run(  # nosec B607 # the driver's tool is where its package puts it
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return cards_of(told.stdout)


def cards_of(listing: str) -> list[str]:
    """Return the UUIDs of the cards in the output of `nvidia-smi -L`: slices instead of a GPU that is divided."""
    gpus: list[list[str]] = []
    for line in listing.splitlines():
        found = LINE.fullmatch(line)
        if found is None:
            continue
        if not found["indent"]:
            gpus.append([found["uuid"]])
        elif gpus:
            gpus[-1].append(found["uuid"])
    return [card for whole, *slices in gpus for card in slices or [whole]]
