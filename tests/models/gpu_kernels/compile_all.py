"""Compile every kernel for a kind of GPU, which needs none: `python -m tests.models.gpu_kernels.compile_all 80`."""

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cutout.models.gpu_kernels import attention, deformable, normalisation, resampling

# Constants as the networks use them; all other arguments follow from their names.
# Those below that are smaller than in the networks take other branches of the code, which need less memory.
RESIZE = {"X_AT": 0, "X_CHANNELS": 64}
KERNELS: list[tuple[Any, int, dict[str, object]]] = [
    (
        deformable._deform_branch,
        deformable.WARPS,
        {"TAPS": 49, "KERNEL": 7, "CHANNELS": 64, "MIDDLE": 256, "BLOCK": deformable.BLOCK},
    ),
    (
        attention._window_attention,
        attention.WARPS,
        {
            "DEPTH": 32,
            "QUERIES": attention.QUERIES,
            "HEADS": 6,
            "WINDOW": 12,
            "SHIFT": 6,
            "FIRST": 128,
            "REST": 16,
        },
    ),
    (
        attention._window_attention,
        attention.WARPS,
        {"DEPTH": 32, "QUERIES": 16, "HEADS": 3, "WINDOW": 4, "SHIFT": 0, "FIRST": 16, "REST": 0},
    ),
    (normalisation._layer_norm, 4, {"CHANNELS": 192, "ROWS": 16, "BLOCK": 256, "ADD": True}),
    (
        normalisation._layer_norm,
        4,
        {"CHANNELS": 192, "ROWS": 16, "BLOCK": 256, "ADD": False, "delta_pointer": None},
    ),
    (
        resampling._resize_kernel,
        resampling.WARPS,
        {
            **RESIZE,
            "POSITIONS": 64,
            "BLOCK": 64,
            "OTHER_AT": 64,
            "OTHER_CHANNELS": 64,
            "ADD": False,
            "ALIGNED": False,
        },
    ),
    (
        resampling._resize_kernel,
        resampling.WARPS,
        {
            **RESIZE,
            "POSITIONS": 16,
            "BLOCK": 16,
            "OTHER_AT": 0,
            "OTHER_CHANNELS": 0,
            "ADD": True,
            "ALIGNED": True,
        },
    ),
    (resampling._halve, resampling.WARPS, {"CHANNELS": 64, "POSITIONS": 16, "BLOCK": 64}),
]


def main(capability: int) -> None:
    """Compile all kernels in float16, and write the shared memory that each needs, in bytes.

    A third word says whether a maximum of a number and none is the number.
    """
    for kernel, warps, constants in KERNELS:
        signature = {name: kind_of(name, constants) for name in kernel.arg_names}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=places)
        compiled = triton.compile(
            source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
        )
        drops = "drops" if "arith.maxnumf" in compiled.asm["ttir"] else "keeps"
        sys.stdout.write(f"{kernel.__name__} {compiled.metadata.shared} {drops}\n")


def kind_of(name: str, constants: dict[str, object]) -> str:
    """Return Triton's name for the type of an argument."""
    if name in constants:
        return "constexpr"
    if name.endswith("_pointer"):
        return "*fp16"
    return "fp32" if name in ("scale", "scale_x", "scale_y", "eps") else "i32"


if __name__ == "__main__":
    main(int(sys.argv[1]))
