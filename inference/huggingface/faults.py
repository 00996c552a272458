"""Faults of Hugging Face: each response that is not a mask becomes an error, with a hint whether a retry may help."""

import email.utils
import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub.utils._http import parse_ratelimit_headers

from cutout.inference.errors import (
    CutoutError,
    ModelUnavailable,
    Overloaded,
    PhotoTooLarge,
    RemoteFailed,
    RemoteRefused,
)

log = logging.getLogger(__name__)

TOKEN, ENDPOINT_URL = "CUTOUT_HF_INFERENCE_TOKEN", "CUTOUT_HF_ENDPOINT"
# The wait for a model that is being loaded, if the response does not say how long.
LOADING_SECONDS = 20.0
LONGEST_PAUSE = 86_400.0

REFUSALS = {
    401: f"Hugging Face rejected the token (401). Set {TOKEN} to a valid one, from"
    " https://huggingface.co/settings/tokens.",
    402: "The Hugging Face account has no credits left (402). Add some, or a payment method, at"
    " https://huggingface.co/settings/billing.",
    403: f"The token lacks a permission (403). Give the token in {TOKEN} the permission to make calls to Inference"
    " Providers, or to the endpoint, at https://huggingface.co/settings/tokens.",
}


class Trouble(Exception):
    """A call that failed; `error` is raised to the caller unless a retry succeeds.

    `again` says whether a retry may help; `wait` is the number of seconds to wait before it, if the service named one.
    `kind` is one of a few words for the figures.
    """

    def __init__(
        self,
        error: CutoutError,
        *,
        again: bool = False,
        wait: float | None = None,
        kind: Literal["loading", "rate_limited", "refused", "too_large", "failed"] = "failed",
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.wait = wait
        self.kind = kind


def trouble(status: int, headers: Mapping[str, str], body: bytes) -> Trouble:
    """Translate a response that is not 200. Its text is not quoted, because it may contain parts of the request."""
    if status == 503:
        wait = _estimated(body)
        if wait is None:
            wait = _retry_after(headers)
        if wait is None:
            wait = LOADING_SECONDS
        log.warning("Model loading: Hugging Face answered 503 and is called again in %.1f s", wait)
        loading = f"Hugging Face is still loading the model. Try again in {math.ceil(wait)} s."
        return Trouble(Overloaded(loading, max(1.0, wait)), again=True, wait=wait, kind="loading")
    if status == 429:
        wait = _retry_after(headers)
        log.warning(
            "HuggingFace rate limit exceeded: 429, called again %s",
            "later" if wait is None else f"in {wait:.1f} s",
        )
        limited = "The Hugging Face account has reached its rate limit. Try again in a moment."
        return Trouble(
            Overloaded(limited, max(1.0, wait or LOADING_SECONDS)), again=True, wait=wait, kind="rate_limited"
        )
    if status in REFUSALS:
        return Trouble(RemoteRefused(REFUSALS[status]), kind="refused")
    if status == 404:
        gone = f"Hugging Face serves no model at this URL (404). Check {ENDPOINT_URL} and CUTOUT_HF_PROVIDER."
        return Trouble(RemoteRefused(gone), kind="refused")
    if status == 413:
        large = "Hugging Face rejected the picture as too large (413), although it was sent at the network's input size."
        return Trouble(
            PhotoTooLarge(f"{large} Try another photo, or raise the endpoint's limit."), kind="too_large"
        )
    failed = RemoteFailed(f"Hugging Face answered {status}. Try again in a moment.")
    return Trouble(failed, again=status >= 500 or status == 408)


def _estimated(body: bytes) -> float | None:
    try:
        return _seconds(json.loads(body)["estimated_time"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after")
    if told is not None:
        seconds = _seconds(told)
        if seconds is not None:
            return seconds
        try:
            at = email.utils.parsedate_to_datetime(told).timestamp()
        except (ValueError, OverflowError):
            return None
        return _seconds(max(0.0, at - time.time()))
    try:
        limit = parse_ratelimit_headers(headers)
    except ValueError:  # a number has too many digits
        return None
    return _seconds(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _seconds(told: Any) -> float | None:
    try:
        seconds = float(told)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(seconds, LONGEST_PAUSE) if math.isfinite(seconds) and seconds >= 0 else None


def not_understood(how: str) -> Trouble:
    """Return the error of a response that is no mask."""
    return Trouble(
        RemoteFailed(f"The response of Hugging Face is not a mask ({how}). Try again."), again=True
    )


def hub_answered(status: int) -> ModelUnavailable:
    """Translate a response of the model hub that is not 200."""
    if status in REFUSALS:
        return RemoteRefused(REFUSALS[status])
    return RemoteFailed(
        f"The model hub answered {status} to the request for the models' providers. Try again later."
    )


def hub_away(error: Exception) -> RemoteFailed:
    """Translate a call of the model hub that failed."""
    return RemoteFailed(
        f"The model hub cannot be asked for the models' providers ({type(error).__name__}). Check the network, or set"
        " CUTOUT_DEVICE=cpu."
    )
