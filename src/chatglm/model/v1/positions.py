"""What a prefix-LM sees and where its tokens stand: the prompt reads itself both ways, the answer from left to right.

A prompt ends with `[gMASK] <sop>`. Everything before `<sop>` is the context: all of it is visible to every token. From
`<sop>` on a token sees the context and what comes before it. Each token has two positions. In the context they count
0, 1, 2, ... and 0; from `<sop>` on the first stays where the mask token stands, and the second counts 1, 2, 3, ...

Shapes: B batch, S tokens, T cached plus new tokens.
"""

import torch
from torch import Tensor

from chatglm.errors import PromptError
from chatglm.model.v1.config import ChatGLM1Config


def context_lengths(ids: Tensor, config: ChatGLM1Config) -> Tensor:
    """Index of the first `<sop>` of each row of ids [B, S] -> [B].

    Raises:
        PromptError: a row has none.
    """
    return _first(ids, torch.tensor(config.bos_token_id, device=ids.device), "<sop>")


def make_position_ids(ids: Tensor, config: ChatGLM1Config, real: Tensor | None = None) -> Tensor:
    """Positions of ids [B, S] -> [B, 2, S], or [B, S] without `position_encoding_2d`. `real` [B, S]: 0 for padding,
    which has position 0; positions then count from the first real token.

    Raises:
        PromptError: a row without `<sop>`, or without a mask token.
    """
    context = context_lengths(ids, config)[:, None]
    masks, pads = _mask_positions(ids, config)[:, None], _left_pads(ids, real)[:, None]
    steps = torch.arange(ids.shape[1], device=ids.device)[None]
    counted, answer = (steps - pads).clamp(min=0), steps >= context
    if not config.position_encoding_2d:
        by_mask = answer & ~(ids == config.gmask_token_id).any(1, keepdim=True)
        return torch.where(by_mask, masks - pads, counted)
    rows = torch.where(answer, masks - pads, counted), torch.where(answer, steps - context + 1, 0)
    return torch.stack(rows, dim=1)


def hidden_columns(ids: Tensor, config: ChatGLM1Config, real: Tensor | None = None) -> Tensor:
    """The mask of whole prompts [B, S] -> bool [B, 1, S, S], True where a row must not see a column. Padding sees
    nothing and is not seen."""
    context, steps = context_lengths(ids, config), torch.arange(ids.shape[1], device=ids.device)
    later = steps[None, :] > steps[:, None]
    hidden = later[None] & (steps[None, None] >= context[:, None, None])
    if real is not None:
        pad = real == 0
        hidden = hidden | pad[:, None, :] | pad[:, :, None]
    return hidden[:, None]


def hidden_after(real: Tensor, new: int) -> Tensor:
    """The mask of the last `new` of T tokens behind a cache, real [B, T] -> bool [B, 1, new, T]."""
    total = real.shape[1]
    columns = torch.arange(total, device=real.device)
    later = columns[None, :] > columns[total - new :, None]
    return (later[None] | (real == 0)[:, None, :])[:, None]


def next_positions(positions: Tensor, count: int) -> Tensor:
    """[..., S] -> [..., S + count]: the first row of two stays, the second counts on; one row alone stays."""
    following = positions[..., -1:].expand(*positions.shape[:-1], count).clone()
    if positions.dim() == 3:
        following[:, 1] += torch.arange(1, count + 1, device=positions.device)
    return torch.cat((positions, following), dim=-1)


def _mask_positions(ids: Tensor, config: ChatGLM1Config) -> Tensor:
    """Index of each row's mask token [B]: the first [gMASK], or where there is none the first [MASK]."""
    with_gmask = (ids == config.gmask_token_id).any(1, keepdim=True)
    mask_ids = torch.where(with_gmask, config.gmask_token_id, config.mask_token_id)
    return _first(ids, mask_ids, "[gMASK] or [MASK]")


def _first(ids: Tensor, wanted: Tensor, name: str) -> Tensor:
    found = ids == wanted
    if not ids.is_meta and not bool(found.any(1).all()):
        raise PromptError(
            f"a row of input_ids has no {name}; every prompt of ChatGLM-6B ends with [gMASK] <sop>, as its tokenizer "
            "makes it (behind a cache, pass position_ids)"
        )
    return found.int().argmax(1)


def _left_pads(ids: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    return (real != 0).int().argmax(1)
