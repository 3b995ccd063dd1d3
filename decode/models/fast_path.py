"""Whether graphs, lanes and fused kernels are used. They change the speed and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-3}  # of the largest logit
ROUNDED = 0.05  # the same of models in bfloat16 and float16


class FastPath:
    """One switch for the process: off, models compute eagerly, one after another."""

    is_on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Turn it off for a while."""
        before, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = before


fast_path = FastPath()


def beyond_rounding(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float | None:
    """By how much two computations of some logits differ; None if rounding explains it.

    Args:
        found, expected: of one shape. NaN is no difference to NaN, nor an infinity to itself.
        dtype: in which the models compute.
    """
    tolerance = TOLERANCE.get(dtype, ROUNDED)
    bound = tolerance * expected.nan_to_num(0.0, 0.0, 0.0).abs().max()
    is_equal = (found == expected) | (found.isnan() & expected.isnan())
    differences = (found - expected).abs().masked_fill(is_equal, 0)
    return None if (differences <= bound).all() else float(differences.nan_to_num().max())
