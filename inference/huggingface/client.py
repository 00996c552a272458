"""Client of Hugging Face's inference providers: find a checkpoint's provider, send requests, read responses.

URLs, headers and bodies of requests are prepared by huggingface_hub, but they are sent here instead of by its
`InferenceClient`, for these reasons:

- It neither waits nor retries.
- Its timeouts apply to each read, so a response that arrives in small pieces may never end.
- Its polling of fal-ai has no limit and cannot be cancelled.
- It looks up a model's providers again, without a timeout and with HF_TOKEN.
"""

import base64
import binascii
import copy
import json
import logging
from asyncio import sleep
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
from PIL import Image
from torch import Tensor

from cutout.inference.errors import (
    InvalidPhoto,
    RemoteFailed,
    RemoteRefused,
)
from cutout.inference.huggingface.config import HuggingFaceConfig
from cutout.inference.huggingface.faults import (
    Trouble,
    hub_answered,
    hub_away,
    not_understood,
    trouble,
)
from cutout.inference.imaging import decode
from cutout.inference.imaging.resize import resize_planes
from cutout.inference.limits import SizeLimits
from cutout.models.catalog import Checkpoint

log = logging.getLogger(__name__)

TASK = "image-segmentation"
ENDPOINT = "endpoint"
HUB_SECONDS = 10.0
POLL_SECONDS = 0.5
# A mask of 1024² pixels has at most 1 MB, and a cut-out of that size 4 MB. At most 2048² pixels are requested. Reading
# a response takes up to 20 bytes of memory per pixel, for each concurrent call.
LARGEST_ANSWER = 64_000_000
LARGEST_MASK = SizeLimits(pixels=16_800_000)

OFFLINE = "HF_HUB_OFFLINE is set, which disables calls to Hugging Face. Unset it, or set CUTOUT_DEVICE=cpu."


@dataclass(frozen=True, eq=False)
class Offer:
    """A checkpoint, and the provider or endpoint that serves it."""

    checkpoint: Checkpoint
    provider: str
    mapping: InferenceProviderMapping

    @property
    def backend(self) -> str:
        return f"huggingface:{self.provider}"


def endpoint_offer(checkpoint: Checkpoint, url: str) -> Offer:
    """Return the offer of the user's own endpoint at `url`."""
    mapping = InferenceProviderMapping(  # type: ignore[no-untyped-call]
        provider="hf-inference", hf_model_id=url, providerId=url, status="live", task=TASK
    )
    return Offer(checkpoint, ENDPOINT, mapping)


def find_offer(checkpoint: Checkpoint, repository: str, access: HuggingFaceConfig) -> Offer | str:
    """Ask the model hub which provider serves a checkpoint; return its offer, or the reason why there is none.

    Raises:
        RemoteRefused, RemoteFailed: the hub refused the request or could not be reached.

    """
    try:
        info = HfApi().model_info(
            repository,
            expand=["inferenceProviderMapping"],
            timeout=HUB_SECONDS,
            token=access.token or False,
        )
    except RepositoryNotFoundError:
        return f"{checkpoint.name}: the model hub has no repository {repository}, or the token has no permission to read it"
    except HfHubHTTPError as error:
        raise hub_answered(error.response.status_code) from None
    except OfflineModeIsEnabled:
        raise RemoteRefused(OFFLINE) from None
    except (httpx2.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise hub_away(error) from None
    mappings = info.inference_provider_mapping or []
    for mapping in mappings:
        if access.provider in ("auto", mapping.provider) and mapping.status == "live" and _is_known(mapping):
            return Offer(checkpoint, mapping.provider, mapping)
    there = ", ".join(f"{one.provider} ({one.status})" for one in mappings) or "none"
    wanted = "any provider" if access.provider == "auto" else access.provider
    return f"{checkpoint.name}: {repository} is not served live for {TASK} by {wanted} (providers: {there})"


def whoami(access: HuggingFaceConfig) -> str:
    """Return the name of the account that the token belongs to, as the model hub knows it.

    Raises:
        RemoteRefused, RemoteFailed: the hub does not know the token, or could not be reached.

    """
    headers = build_hf_headers(token=access.token or False)
    try:
        answer = get_session().get(
            f"{constants.ENDPOINT}/api/whoami-v2", headers=headers, timeout=HUB_SECONDS
        )
    except OfflineModeIsEnabled:
        raise RemoteRefused(OFFLINE) from None
    except httpx2.HTTPError as error:
        raise hub_away(error) from None
    if answer.status_code != 200:
        raise hub_answered(answer.status_code)
    try:
        return str(answer.json()["name"])
    except (ValueError, LookupError, TypeError) as error:
        raise hub_away(error) from None


async def call(client: httpx2.AsyncClient, offer: Offer, jpeg: bytes, access: HuggingFaceConfig) -> bytes:
    """Send a picture to the provider; return the bytes of the resulting picture file, a mask or a cut-out.

    Raises:
        Trouble: the call failed.

    """
    parameters = _request(offer, jpeg, access)
    timeout = httpx2.Timeout(access.seconds / 2)  # of silence, so that there is time for a retry
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
        raise Trouble(RemoteRefused(OFFLINE), kind="refused") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        # The message may contain text of the remote side, so only the type of the error is named.
        failed = RemoteFailed(
            f"Hugging Face could not be reached, or the connection was lost ({type(error).__name__})."
        )
        raise Trouble(failed, again=True) from None


def read_mask(data: bytes, size: int) -> Tensor:
    """Decode the file of a mask or a cut-out to a mask, float [1,1,size,size] of 0…1.

    If the picture has an alpha channel, that is the mask; otherwise its grey levels are.

    Raises:
        Trouble: the file is not a valid picture.

    """
    try:
        picture = decode.decode(data, LARGEST_MASK)
    except InvalidPhoto as error:
        raise not_understood(type(error).__name__) from None
    levels = picture.alpha
    if levels is None:
        levels = np.array(Image.fromarray(picture.rgb).convert("L"))
    mask = torch.from_numpy(levels)[None, None].float().div_(255)
    if mask.shape[-2:] != (size, size):
        mask = resize_planes(mask, size, size)
    return mask


def _is_known(mapping: InferenceProviderMapping) -> bool:
    """Return whether huggingface_hub supports image segmentation with this provider."""
    if mapping.task != TASK:
        return False
    try:
        get_provider_helper(mapping.provider, TASK, mapping.hf_model_id)
    except ValueError:
        return False
    return True


def _request(offer: Offer, jpeg: bytes, access: HuggingFaceConfig) -> RequestParameters:
    mapping = offer.mapping
    helper: Any = copy.copy(get_provider_helper(mapping.provider, TASK, mapping.hf_model_id))
    # Skip the helper's look-ups: the mapping is known, and without a token none may be sent, least of all HF_TOKEN.
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
    """Send one request and return the body of the response.

    Raises:
        Trouble: the status code is not 200, or the body is too long.
        httpx2.HTTPError: the request failed.

    """
    body = bytearray()
    async with client.stream(method, url, timeout=timeout, **request) as answer:
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise not_understood(f"more than {LARGEST_ANSWER // 1_000_000} MB")
    if answer.status_code != 200:
        raise trouble(answer.status_code, answer.headers, bytes(body))
    return bytes(body)


async def _poll(
    client: httpx2.AsyncClient,
    offer: Offer,
    sent: RequestParameters,
    timeout: httpx2.Timeout,
    queued: Any,
) -> bytes:
    """Poll fal-ai's queue until the result is there, and return the picture's bytes. The caller limits the time."""
    # Use only the path of the URL in the response, behind the base URL of the first request, as huggingface_hub does.
    before = sent.url.partition(f"/{offer.mapping.provider_id}")[0]
    query = urlsplit(sent.url).query
    headers = {name: value for name, value in sent.headers.items() if name != "content-type"}
    try:
        place = urlsplit(queued["response_url"]).path
        status = queued["status"]
        while status != "COMPLETED":
            if status not in ("IN_QUEUE", "IN_PROGRESS"):
                raise not_understood("unknown status")
            await sleep(POLL_SECONDS)
            url = f"{before}{place}/status?{query}"
            status = _json(await _send(client, "GET", url, timeout, headers=headers))["status"]
        done = _json(await _send(client, "GET", f"{before}{place}?{query}", timeout, headers=headers))
        picture = done["image"]["url"]
        if picture.startswith("data:"):
            return _from_base64(picture.partition(",")[2])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise not_understood(type(error).__name__) from None
    if not picture.startswith("https://"):
        raise not_understood("unexpected image URL")
    return await _send(client, "GET", picture, timeout)  # a file server, which must not get the token


def _mask_of_list(answer: Any) -> bytes:
    """Return the mask's file from `[{"label", "score", "mask"}]`; if there are several, the one with the best score."""
    try:
        best = max(answer, key=lambda one: one.get("score") or 0.0)
        return _from_base64(best["mask"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise not_understood(type(error).__name__) from None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise not_understood(type(error).__name__) from None


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise not_understood(type(error).__name__) from None
