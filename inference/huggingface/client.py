"""Hugging Face's providers: who serves a checkpoint, how each is asked, and how answers are read.

The only place that knows huggingface_hub. Addresses, headers and bodies are the library's own. The calls are made here:
`InferenceClient` neither waits nor tries again; its timeouts are for each read, so that an answer that drips never ends;
its polling of fal-ai has no end at all and cannot be cancelled; and it asks for a model's providers again, without a
timeout and with HF_TOKEN.
"""

import base64
import binascii
import copy
import email.utils
import json
import logging
import math
import time
from asyncio import sleep
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import torch
from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._common import MimeBytes, RequestParameters
from huggingface_hub.inference._providers import get_provider_helper
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import parse_ratelimit_headers
from PIL import Image
from torch import Tensor

from cutout.inference.errors import (
    CutoutError,
    InvalidPhoto,
    ModelUnavailable,
    Overloaded,
    PhotoTooLarge,
    RemoteFailed,
    RemoteRefused,
)
from cutout.inference.huggingface.config import Access
from cutout.inference.imaging import decode
from cutout.inference.imaging.resize import resize_planes
from cutout.inference.limits import SizeLimits
from cutout.models.catalog import Checkpoint

log = logging.getLogger(__name__)

TASK = "image-segmentation"
ENDPOINT = "endpoint"
TOKEN, ENDPOINT_URL = "CUTOUT_HF_INFERENCE_TOKEN", "CUTOUT_HF_ENDPOINT"
# What is waited for a model that is being loaded, where nothing says how long.
LOADING_SECONDS = 20.0
LONGEST_PAUSE = 86_400.0
HUB_SECONDS = 10.0
POLL_SECONDS = 0.5
# A mask of 1024² has 1 MB at most, a cut-out picture of it 4 MB. What is asked for is 2048² pixels at most; reading an
# answer takes up to 20 bytes a pixel, for each call that is out.
LARGEST_ANSWER = 64_000_000
LARGEST_MASK = SizeLimits(pixels=16_800_000)

OFFLINE = "HF_HUB_OFFLINE is set, so Hugging Face may not be asked. Unset it, or set CUTOUT_DEVICE=cpu."
REFUSALS = {
    401: f"Hugging Face does not know the token (401). Set {TOKEN} to a valid one, from"
    " https://huggingface.co/settings/tokens.",
    402: "The Hugging Face account has no credits left (402). Add some, or a payment method, at"
    " https://huggingface.co/settings/billing.",
    403: f"The token may not be used for this (403). Give the one in {TOKEN} the permission to make calls to Inference"
    " Providers, or to the endpoint, at https://huggingface.co/settings/tokens.",
}


class Trouble(Exception):
    """A call that failed: the `error` that it is unless another call helps.

    `again`: another may; then `wait` says after how many seconds, where the service told them.
    """

    def __init__(self, error: CutoutError, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.wait = wait


@dataclass(frozen=True, eq=False)
class Offer:
    """A checkpoint, and who serves it."""

    checkpoint: Checkpoint
    provider: str
    mapping: InferenceProviderMapping

    @property
    def backend(self) -> str:
        return f"huggingface:{self.provider}"


def endpoint_offer(checkpoint: Checkpoint, url: str) -> Offer:
    """Return what an own endpoint serves."""
    mapping = InferenceProviderMapping(  # type: ignore[no-untyped-call]
        provider="hf-inference", hf_model_id=url, providerId=url, status="live", task=TASK
    )
    return Offer(checkpoint, ENDPOINT, mapping)


def find_offer(checkpoint: Checkpoint, repository: str, access: Access) -> Offer | str:
    """Ask the model hub who serves a checkpoint: an offer, or why there is none.

    Raises:
        RemoteRefused, RemoteFailed: the hub cannot be asked.

    """
    try:
        info = HfApi().model_info(
            repository,
            expand=["inferenceProviderMapping"],
            timeout=HUB_SECONDS,
            token=access.token or False,
        )
    except RepositoryNotFoundError:
        return f"{checkpoint.name}: the model hub has no {repository}, or the token may not read it"
    except HfHubHTTPError as error:
        raise _hub_answered(error.response.status_code) from None
    except OfflineModeIsEnabled:
        raise RemoteRefused(OFFLINE) from None
    except (httpx2.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _hub_away(error) from None
    mappings = info.inference_provider_mapping or []
    for mapping in mappings:
        if access.provider in ("auto", mapping.provider) and mapping.status == "live" and _is_known(mapping):
            return Offer(checkpoint, mapping.provider, mapping)
    there = ", ".join(f"{one.provider} ({one.status})" for one in mappings) or "none"
    wanted = "any provider" if access.provider == "auto" else access.provider
    return f"{checkpoint.name}: {repository} has no live {TASK} by {wanted} (there are: {there})"


def whoami(access: Access) -> str:
    """Ask the model hub whose token this is.

    Raises:
        RemoteRefused, RemoteFailed: it does not know the token, or cannot be asked.

    """
    headers = build_hf_headers(token=access.token or False)
    try:
        answer = get_session().get(
            f"{constants.ENDPOINT}/api/whoami-v2", headers=headers, timeout=HUB_SECONDS
        )
    except OfflineModeIsEnabled:
        raise RemoteRefused(OFFLINE) from None
    except httpx2.HTTPError as error:
        raise _hub_away(error) from None
    if answer.status_code != 200:
        raise _hub_answered(answer.status_code)
    try:
        return str(answer.json()["name"])
    except (ValueError, LookupError, TypeError) as error:
        raise _hub_away(error) from None


async def call(client: httpx2.AsyncClient, offer: Offer, jpeg: bytes, access: Access) -> bytes:
    """Have a picture looked at: the bytes of the mask's file, or of the cut-out's.

    Raises:
        Trouble: it did not work this time.

    """
    parameters = _request(offer, jpeg, access)
    timeout = httpx2.Timeout(access.seconds / 2)  # without a byte; then there is time for another call
    try:
        body = await _send(
            client,
            "POST",
            parameters.url,
            timeout,
            headers=parameters.headers,
            json=parameters.json,
            content=parameters.data,
        )
        if offer.provider == "fal-ai":
            return await _poll(client, offer, parameters, timeout, _json(body))
        return _mask_of_list(_json(body))
    except OfflineModeIsEnabled:
        raise Trouble(RemoteRefused(OFFLINE)) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        # Its words may be those of the other side; its kind says enough.
        failed = RemoteFailed(f"Hugging Face could not be reached, or broke off ({type(error).__name__}).")
        raise Trouble(failed, again=True) from None


def read_mask(data: bytes, size: int) -> Tensor:
    """Read a mask's file as a network would give it, float [1,1,size,size] of 0…1.

    A cut-out's alpha is its mask; a picture without one is the mask.

    Raises:
        Trouble: it is no picture.

    """
    try:
        picture = decode.decode(data, LARGEST_MASK)
    except InvalidPhoto as error:
        raise _not_understood(type(error).__name__) from None
    levels = picture.alpha
    if levels is None:
        levels = np.array(Image.fromarray(picture.rgb).convert("L"))
    mask = torch.from_numpy(levels)[None, None].float().div_(255)
    if mask.shape[-2:] != (size, size):
        mask = resize_planes(mask, size, size)
    return mask


def _is_known(mapping: InferenceProviderMapping) -> bool:
    """Tell whether huggingface_hub knows how to ask this provider for a mask."""
    if mapping.task != TASK:
        return False
    try:
        get_provider_helper(mapping.provider, TASK, mapping.hf_model_id)
    except ValueError:
        return False
    return True


def _request(offer: Offer, jpeg: bytes, access: Access) -> RequestParameters:
    mapping = offer.mapping
    helper: Any = copy.copy(get_provider_helper(mapping.provider, TASK, mapping.hf_model_id))
    # What it would look up: the mapping is known, and without a token none is sent, least of all HF_TOKEN.
    helper._prepare_mapping_info = lambda model: mapping
    helper._prepare_api_key = lambda key: key
    parameters: RequestParameters = helper.prepare_request(
        inputs=MimeBytes(jpeg, "image/jpeg"),
        parameters={},
        headers={},
        model=mapping.hf_model_id,
        api_key=access.token or False,
    )
    return parameters


async def _send(
    client: httpx2.AsyncClient, method: str, url: str, timeout: httpx2.Timeout, **request: Any
) -> bytes:
    """Make one call; the answer's body.

    Raises:
        Trouble: it is not 200, or too long.
        httpx2.HTTPError: it did not come.

    """
    body = bytearray()
    async with client.stream(method, url, timeout=timeout, **request) as answer:
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise _not_understood(f"more than {LARGEST_ANSWER // 1_000_000} MB")
    if answer.status_code != 200:
        raise _trouble(answer.status_code, answer.headers, bytes(body))
    return bytes(body)


async def _poll(
    client: httpx2.AsyncClient,
    offer: Offer,
    sent: RequestParameters,
    timeout: httpx2.Timeout,
    queued: Any,
) -> bytes:
    """Wait for what fal-ai has put into its queue, for as long as the caller lets it."""
    # Its own addresses are led through where the call went, as huggingface_hub does it.
    before = sent.url.partition(f"/{offer.mapping.provider_id}")[0]
    query = urlsplit(sent.url).query
    headers = {name: value for name, value in sent.headers.items() if name != "content-type"}
    try:
        place = urlsplit(queued["response_url"]).path
        status = queued["status"]
        while status != "COMPLETED":
            if status not in ("IN_QUEUE", "IN_PROGRESS"):
                raise _not_understood("a status that is unknown")
            await sleep(POLL_SECONDS)
            url = f"{before}{place}/status?{query}"
            status = _json(await _send(client, "GET", url, timeout, headers=headers))["status"]
        done = _json(await _send(client, "GET", f"{before}{place}?{query}", timeout, headers=headers))
        picture = done["image"]["url"]
        if picture.startswith("data:"):
            return _from_base64(picture.partition(",")[2])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise _not_understood(type(error).__name__) from None
    if not picture.startswith("https://"):
        raise _not_understood("a picture elsewhere")
    return await _send(client, "GET", picture, timeout)  # on a server of files, which gets no token


def _mask_of_list(answer: Any) -> bytes:
    """Return the file in `[{"label", "score", "mask"}]`; of several the one with the best score."""
    try:
        best = max(answer, key=lambda one: one.get("score") or 0.0)
        return _from_base64(best["mask"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise _not_understood(type(error).__name__) from None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _not_understood(type(error).__name__) from None


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _not_understood(type(error).__name__) from None


def _trouble(status: int, headers: Mapping[str, str], body: bytes) -> Trouble:
    """Say what an answer that is not 200 means. What it says itself is not repeated: it may hold what was sent."""
    if status == 503:
        wait = _estimated(body)
        if wait is None:
            wait = _retry_after(headers)
        if wait is None:
            wait = LOADING_SECONDS
        log.warning("Model loading: Hugging Face answers 503, and is asked again in %.1f s", wait)
        loading = f"The model is still being loaded at Hugging Face. Try again in {math.ceil(wait)} s."
        return Trouble(Overloaded(loading, max(1.0, wait)), again=True, wait=wait)
    if status == 429:
        wait = _retry_after(headers)
        log.warning(
            "HuggingFace rate limit exceeded: 429, asked again %s",
            "later" if wait is None else f"in {wait:.1f} s",
        )
        limited = "Hugging Face takes no more calls of this account for now. Try again in a moment."
        return Trouble(Overloaded(limited, max(1.0, wait or LOADING_SECONDS)), again=True, wait=wait)
    if status in REFUSALS:
        return Trouble(RemoteRefused(REFUSALS[status]))
    if status == 404:
        gone = f"Hugging Face serves no model at this address (404). Check {ENDPOINT_URL} and CUTOUT_HF_PROVIDER."
        return Trouble(RemoteRefused(gone))
    if status == 413:
        large = "Hugging Face calls the picture too large (413), though it is sent as small as the network sees it."
        return Trouble(PhotoTooLarge(f"{large} Try another, or raise the endpoint's limit."))
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
    except ValueError:  # of numbers without an end
        return None
    return _seconds(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _seconds(told: Any) -> float | None:
    try:
        seconds = float(told)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(seconds, LONGEST_PAUSE) if math.isfinite(seconds) and seconds >= 0 else None


def _not_understood(how: str) -> Trouble:
    return Trouble(RemoteFailed(f"What Hugging Face answered is no mask ({how}). Try again."), again=True)


def _hub_answered(status: int) -> ModelUnavailable:
    if status in REFUSALS:
        return RemoteRefused(REFUSALS[status])
    return RemoteFailed(f"The model hub answered {status} when asked who serves the models. Try again later.")


def _hub_away(error: Exception) -> RemoteFailed:
    return RemoteFailed(
        f"The model hub cannot be asked who serves the models ({type(error).__name__}). Check the network, or set"
        " CUTOUT_DEVICE=cpu."
    )
