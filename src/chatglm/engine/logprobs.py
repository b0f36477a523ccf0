"""Log-probabilities of rows of scores: of the most likely tokens, and of one that is chosen later.

On a processor the native kernels find them; torch finds the same tokens, and the same numbers but for their rounding.
Of equally likely tokens the lower ids come first. A row that holds NaN, or whose highest score is not finite, has no
log-probabilities: NaN.
"""

import torch
from torch import Tensor

from chatglm import native
from chatglm.engine.drawing import Room, most_likely


class Likelihoods:
    """What is told of some rows' scores before settings change them.

    Args:
        raw: float32 [n, V], contiguous; not changed here.
        count: how many of the most likely tokens are told; all of them where there are fewer.
        room: memory for as many numbers, used until the last call.
        changes: whether `raw` will have been changed when a token is chosen.
    """

    def __init__(self, raw: Tensor, count: int, room: Room, *, changes: bool) -> None:
        count = min(count, raw.shape[1])
        if raw.device.type == "cpu" and native.available():
            kept = room(raw.device, *raw.shape) if changes else None
            self._most, self._log_sums, self.logprobs, self.ids = native.find_highest(raw, count, kept)
            self._numbers = raw if kept is None else kept
        else:
            self._most = self._log_sums = raw.new_zeros(len(raw))
            self._numbers = torch.log_softmax(raw, dim=1, out=room(raw.device, *raw.shape))
            self.ids = most_likely(_ranks(raw), count)[1]
            self.logprobs = self._numbers.gather(1, self.ids)

    def of(self, tokens: Tensor) -> Tensor:
        """The log-probability of a token of each row: int64 [n] -> [n]."""
        return self._numbers.gather(1, tokens[:, None])[:, 0] - self._most - self._log_sums


def _ranks(scores: Tensor) -> Tensor:
    """int64 numbers in the order of the scores [n, V], equal ones by falling id, so that no two are the same."""
    bits = (scores + 0.0).view(torch.int32)  # -0.0 is 0.0
    ordered = bits ^ (bits >> 31 & 0x7FFFFFFF)  # the bits of negative numbers run the other way
    falling = torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    return (ordered.long() << 32) | falling
