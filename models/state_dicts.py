"""State dicts as they are published or trained, under the names that the networks here have.

Networks that were trained with DistributedDataParallel or torch.compile are saved with prefixes. FeyNobg is published by its
library nobg, which gives the parts of BiRefNet other names.
"""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cutout.models.swin import relative_position_index

# What training wraps around a network, in any order.
WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")

# The names of nobg, which keeps the backbone as transformers does and the decoder's parts in lists, coarsest first.
NOBG = "bb.swin.embeddings.patch_embeddings.projection.weight"
NOBG_UNUSED = "bb.swin.layernorm."  # behind the last block, where a backbone has a norm for each stage
NOBG_NAMES = (
    (r"^bb\.swin\.embeddings\.patch_embeddings\.projection\.", "bb.patch_embed.proj."),
    (r"^bb\.swin\.embeddings\.norm\.", "bb.patch_embed.norm."),
    (r"^bb\.swin\.encoder\.layers\.", "bb.layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
)
NOBG_NORM = re.compile(r"bb\.hidden_states_norms\.stage(\d)\.")
# The first item of each list and the number that it has here; the next has one less.
NOBG_LIST = re.compile(
    r"decoder\.(decoder_blocks|lateral_blocks|ipt_blks|conv_ms_spvn|gdt_convs|gdt_convs_attn|gdt_convs_pred)\.(\d)\."
)
NOBG_FIRST = {"decoder_blocks": "decoder_block4", "lateral_blocks": "lateral_block4", "ipt_blks": "ipt_blk5"}
NOBG_PART = re.compile(r"(?P<block>.*)\.attention\.(?P<part>[qkv])_proj\.(?P<leaf>weight|bias)")


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under the names that the networks here have; one that has them already stays as it is."""
    state = {WRAPPED.sub("", name): tensor for name, tensor in state.items()}
    return _from_nobg(state) if NOBG in state else state


def renamed_part(name: str) -> str:
    """Return the name here of one tensor that is published as it is: not of a part of an attention."""
    name = WRAPPED.sub("", name)
    if norm := NOBG_NORM.match(name):
        return f"bb.norm{int(norm[1]) - 1}.{name[norm.end() :]}"
    if item := NOBG_LIST.match(name):
        first = NOBG_FIRST.get(item[1], f"{item[1]}_4")
        return f"decoder.{first[:-1]}{int(first[-1]) - int(item[2])}.{name[item.end() :]}"
    for pattern, here in NOBG_NAMES:
        name = re.sub(pattern, here, name)
    return name


def depths_of(names: Iterable[str]) -> tuple[int, ...]:
    """Return the number of blocks in each stage of a BiRefNet's backbone, by the names of its tensors; empty if it has none."""
    blocks = [re.match(r"bb\.layers\.(\d+)\.blocks\.(\d+)\.", name) for name in names]
    found = {(int(block[1]), int(block[2])) for block in blocks if block}
    stages = sorted({stage for stage, _ in found})
    return tuple(sum(stage == other for other, _ in found) for stage in stages)


def _from_nobg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of nobg, join queries, keys and values, and add the indices that it does not save."""
    out, parts = {}, {}
    for name, tensor in state.items():
        if part := NOBG_PART.fullmatch(name):
            block = renamed_part(f"{part['block']}.")
            parts[f"{block}attn.qkv.{part['leaf']}", part["part"]] = tensor
        elif not name.startswith(NOBG_UNUSED):
            out[renamed_part(name)] = tensor
    for joint in dict.fromkeys(name for name, _ in parts):
        if all((joint, part) in parts for part in "qkv"):
            out[joint] = torch.cat([parts[joint, part] for part in "qkv"])
    for name in [name for name in out if name.endswith(".relative_position_bias_table")]:
        window = (math.isqrt(out[name].shape[0]) + 1) // 2
        index = relative_position_index(window).to(out[name].device)
        out[name.replace("_bias_table", "_index")] = index
    return out
