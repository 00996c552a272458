"""What each operation on a GPU costs: kernels, bytes, FLOP, and whether the host waits for it.

Counted are the operations that `tests.pretend_gpu` sees. An operation is one kernel, with these exceptions: views and
empty tensors take none; the bias of a convolution, and a map in the wrong layout, take one more each, which torch and
cuDNN start by themselves; padding first fills, then copies. Each value is read once and written once, so caches that
are too small for that are left out, and so are the few kernels in which torch finds or sorts places.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.pretend_gpu import Call, is_channels_last, tensors_of

GROUPS = {
    "convolution": ("convolution", "cudnn_convolution_relu"),
    "matrix product": ("addmm", "mm", "bmm", "baddbmm", "_addmm_activation"),
    "attention": ("_window_attention", "scaled_dot_product_attention"),
    "deformable convolution": ("_deform_branch",),
    "layer norm": ("_layer_norm", "native_layer_norm"),
    "resizing and pooling": (
        "_resize_kernel", "_halve", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "avg_pool2d",
        "max_pool2d_with_indices", "mean",
    ),
    "joining": ("cat", "stack"),
    "copies": ("clone", "copy_", "_to_copy", "constant_pad_nd", "replication_pad2d", "roll"),
    "gathering": (
        "index", "index_put_", "index_select", "index_add_", "gather", "grid_sampler_2d", "nonzero", "sort",
        "repeat_interleave",
    ),
    "host": ("upload", "download", "tolist", "_local_scalar_dense"),
}  # fmt: skip
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "as_strided_"}
# These do not read what they write into.
OVERWRITE = {"copy_", "fill_", "zero_"}
# These read as much of their first argument as they return or are given, not all of it.
SELECT = {"index", "index_select", "gather", "grid_sampler_2d"}
SCATTER = {"index_put_", "index_add_"}


@dataclass(frozen=True)
class Cost:
    """What one kernel, or an operation without one, costs."""

    name: str
    group: str
    kernels: int = 0
    bytes: int = 0
    flop: int = 0
    operations: int = 0  # those that the host starts
    wait: str = ""


@dataclass
class Count:
    """Costs of all operations; its `note` is what `pretended_gpu` takes."""

    costs: list[Cost] = field(default_factory=list)

    def note(self, call: Call) -> None:
        self.costs.extend(costs_of(call))

    @property
    def operations(self) -> int:
        return sum(cost.operations for cost in self.costs)

    @property
    def kernels(self) -> int:
        return sum(cost.kernels for cost in self.costs)

    @property
    def bytes(self) -> int:
        return sum(cost.bytes for cost in self.costs)

    @property
    def flop(self) -> int:
        return sum(cost.flop for cost in self.costs)

    @property
    def waits(self) -> list[str]:
        return [cost.wait for cost in self.costs if cost.wait]

    def of_group(self, group: str) -> "Count":
        return Count([cost for cost in self.costs if cost.group == group])

    @property
    def groups(self) -> dict[str, "Count"]:
        """Return the groups that have kernels, those with the most bytes first."""
        names = {cost.group for cost in self.costs if cost.kernels}
        return dict(sorted(((name, self.of_group(name)) for name in names), key=lambda item: -item[1].bytes))

    def seconds(self, bandwidth: float, flops: float) -> float:
        """Return the time of all kernels, each as long as its bytes or its FLOP take, at these rates a second."""
        return sum(max(cost.bytes / bandwidth, cost.flop / flops) for cost in self.costs)


def costs_of(call: Call) -> list[Cost]:
    """Return the costs of one operation: of its own kernel first, then of those that torch adds."""
    group = GROUP_OF.get(call.name, "elementwise")
    if call.name in EMPTY or is_view(call):
        return [Cost(call.name, group, operations=1, wait=call.wait)]
    if call.name in ("clone", "_to_copy") and changes_layout(call):
        group = "change of layout"
    main = Cost(call.name, group, 1, bytes_of(call), flop_of(call), 1, call.wait)
    return [main, *added(call)]


def is_view(call: Call) -> bool:
    """Return whether the result lies in the memory of an argument, and nothing is written."""
    given = {id(tensor.untyped_storage()) for tensor in tensors_of((call.args, call.kwargs))}
    out = tensors_of(call.out)
    return bool(out) and not call.changes and all(id(tensor.untyped_storage()) in given for tensor in out)


def changes_layout(call: Call) -> bool:
    (before,), (after,) = tensors_of(call.args), tensors_of(call.out)
    return before.dim() == 4 and is_channels_last(before) != is_channels_last(after)


def added(call: Call) -> Iterable[Cost]:
    """Yield the kernels that torch starts beside an operation's own."""
    if GROUP_OF.get(call.name) == "convolution":
        x, _, bias = call.args[:3]
        layout = torch.channels_last if is_channels_last(call.out) else torch.contiguous_format
        if not x.is_contiguous(memory_format=layout):
            yield Cost("layout for cuDNN", "change of layout", 1, 2 * size(x))
        if bias is not None and call.name == "convolution":
            yield Cost("bias of a convolution", "bias of a convolution", 1, 2 * size(call.out) + size(bias))
    if call.name == "constant_pad_nd":
        yield Cost("fill", "copies", 1, size(call.out))


def bytes_of(call: Call) -> int:
    """Return how many bytes an operation reads and writes."""
    given = distinct(tensors_of((call.args, call.kwargs)))
    made = [tensor for tensor in distinct(tensors_of(call.out)) if not any(tensor is one for one in given)]
    written = sum(map(size, made))
    if call.programs:  # a Triton kernel: each of its arguments is either read or written
        return sum(map(size, given))
    if call.name in SELECT:
        corners = 4 if call.name == "grid_sampler_2d" else 1
        first, *others = given
        return min(size(first), corners * written) + sum(map(size, others)) + written
    if call.name in SCATTER:
        target, *others = given
        values = max(map(size, others), default=0)
        return sum(map(size, others)) + 2 * min(size(target), values)
    if call.changes:
        target, *others = given
        return (1 if call.name in OVERWRITE else 2) * size(target) + sum(map(size, others)) + written
    return sum(map(size, given)) + written


def distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    found: list[Tensor] = []
    for tensor in tensors:
        if not any(tensor is one for one in found):
            found.append(tensor)
    return found


def size(tensor: Tensor) -> int:
    """Return the bytes of a tensor, counting a value that is repeated by a stride of 0 once."""
    lengths = (length for length, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
    return math.prod(lengths) * tensor.element_size()


def flop_of(call: Call) -> int:
    """Return the floating point operations of products; those of all other operations are few."""
    args, constants = call.args, call.kwargs
    match call.name:
        case "convolution" | "cudnn_convolution_relu":
            return 2 * int(call.out.numel()) * int(math.prod(args[1].shape[1:]))
        case "mm" | "bmm":
            return 2 * int(call.out.numel()) * int(args[0].shape[-1])
        case "addmm" | "baddbmm" | "_addmm_activation":
            return 2 * int(call.out.numel()) * int(args[1].shape[-1])
        case "scaled_dot_product_attention":
            return 4 * int(args[0].numel()) * int(args[1].shape[-2])
        case "_window_attention":
            scores = constants["QUERIES"] * (constants["FIRST"] + constants["REST"])
            return 4 * call.programs * int(scores * constants["DEPTH"])
        case "_deform_branch":
            products = (constants["TAPS"] + 1) * constants["CHANNELS"] * constants["MIDDLE"]
            return 2 * call.programs * int(constants["BLOCK"] * products)
    return 0
