"""The arithmetic: laws 1 and 2, and what -inf does."""

import pytest
import torch

from decode.engine.logits import proxy_logits

INF = float("inf")


def random_logits(seed: int, shape=(3, 50)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 5


def test_is_the_equation():
    base, expert, antiexpert = map(random_logits, range(3))
    expected = base + 0.7 * (expert - antiexpert)
    assert torch.equal(proxy_logits(base, expert, antiexpert, 0.7), expected)


def test_alpha_zero_is_the_base_exactly():
    base, expert, antiexpert = map(random_logits, range(3))
    expert[0, 3] = -INF
    assert torch.equal(proxy_logits(base, expert, antiexpert, 0.0), base)


def test_equal_small_models_leave_the_base_exactly():
    base, expert = random_logits(0), random_logits(1)
    expert[1, 2:9] = -INF
    assert torch.equal(proxy_logits(base, expert, expert, 1.3), base)


def test_equal_small_models_still_learn():
    base, small = torch.randn(5), torch.randn(5)
    expert = small.clone().requires_grad_()
    proxy_logits(base, expert, small, 2.0)[3].backward()
    assert expert.grad is not None and expert.grad.tolist() == [0, 0, 0, 2, 0]


def test_a_constant_added_to_any_model_changes_no_probability():
    logits = [random_logits(seed).double() for seed in range(3)]
    expected = proxy_logits(*logits, 1.5).softmax(-1)
    for role in range(3):
        moved = [x + 7.0 if i == role else x for i, x in enumerate(logits)]
        torch.testing.assert_close(proxy_logits(*moved, 1.5).softmax(-1), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_operands_are_upcast_before_they_are_combined(dtype):
    base, expert, antiexpert = (random_logits(seed).to(dtype) for seed in range(3))
    found = proxy_logits(base, expert, antiexpert, 0.3)
    assert found.dtype == torch.float32
    assert torch.equal(found, base.float() + 0.3 * (expert.float() - antiexpert.float()))
    in_low_precision = (base + 0.3 * (expert - antiexpert)).float()
    assert not torch.equal(found, in_low_precision)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.5, 1.0, 3.0])
def test_minus_infinity_never_makes_nan(alpha):
    values = torch.tensor([0.0, -INF])
    base, expert, antiexpert = torch.cartesian_prod(values, values, values).T[:, None]  # (1, 8)
    found = proxy_logits(base, expert, antiexpert, alpha)
    assert not found.isnan().any()
    assert not (found == INF).any()
    assert found[0, base[0].isneginf()].isneginf().all()
    both = expert[0].isneginf() & antiexpert[0].isneginf() & base[0].isfinite()
    assert found[0, both] == 0.0


def test_ids_that_are_not_shared_keep_the_base_logit():
    base, expert, antiexpert = map(random_logits, range(3))
    shared = torch.arange(50) % 2 == 0
    found = proxy_logits(base, expert, antiexpert, 1.0, shared)
    assert torch.equal(found[:, ~shared], base[:, ~shared])
    assert torch.equal(found[:, shared], (base + (expert - antiexpert))[:, shared])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, found \[\(3, 50\), \(3, 50\), \(3, 49\)\]"):
        proxy_logits(random_logits(0), random_logits(1), random_logits(2, (3, 49)), 1.0)
