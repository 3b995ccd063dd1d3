"""pass@k: the chance that at least one of k samples of a problem passes (Chen et al. 2021).

    pass@k = 1 - C(n - c, k) / C(n, k)        n samples drawn, c of them right

the estimator without bias of section 2.1; the mean over problems is the metric.
"""

from math import comb


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The unbiased estimate for one problem, from whole numbers and so exact to the last bit.

    Raises:
        ValueError: k is less than 1 or more than the samples, or more are right than there are.
    """
    if not 0 <= num_right <= num_samples:
        raise ValueError(f"{num_right} right of {num_samples} samples is no count")
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@{k} needs k from 1 to the number of samples, found {num_samples} samples"
        )
    draws = comb(num_samples, k)
    return (draws - comb(num_samples - num_right, k)) / draws
