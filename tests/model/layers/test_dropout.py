"""Dropout by random bytes: the rate, the scale, the gradient, and whom it replaces."""

import pytest
import torch
from torch import nn

from recbole_lite.model.layers.dropout import Dropout, replace_dropout

# Rate -> zeros among 256 equally likely bytes.
ZEROS = {0.001: 1, 0.1: 26, 0.5: 128, 0.7: 179, 0.8: 205, 0.9999: 255}


def seeded(seed=0):
    torch.manual_seed(seed)


@pytest.mark.parametrize("p, zeros", ZEROS.items())
def test_rate_and_scale(p, zeros):
    """Over a million elements, and over each of the 8 bytes of a 64-bit draw."""
    seeded()
    n = 1_000_000
    out = Dropout(p)(torch.ones(n))
    share = zeros / 256
    deviation = (share * (1 - share) / n) ** 0.5
    assert abs((out == 0).float().mean().item() - share) < 4.5 * deviation
    lanes = (out.view(-1, 8) == 0).float().mean(0)
    assert (lanes - share).abs().max() < 4.5 * deviation * 8**0.5
    # With the exact scale the expectation is exact, too: share kept x scale = 1.
    assert torch.equal(out[out != 0].unique(), torch.tensor([256 / (256 - zeros)]))


def test_elements_are_dropped_independently():
    seeded()
    kept = (Dropout(0.5)(torch.ones(1_000_000)) != 0).float() * 2 - 1
    for lag in (1, 2, 7, 8, 64):
        assert abs((kept[lag:] * kept[:-lag]).mean()) < 0.0045, lag


def test_kept_elements_are_scaled_and_the_others_zero():
    seeded()
    x = torch.randn(31, 17)
    out = Dropout(0.25)(x)  # 64 of 256
    kept = out != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(out, torch.where(kept, x * (256 / 192), 0.0))


@pytest.mark.parametrize("p, training", [(0.7, False), (0.0, True), (0.0, False)])
def test_nothing_is_dropped_in_evaluation_or_at_rate_0(p, training):
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(p).train(training)(x), x)


def test_at_rate_1_nothing_is_left():
    x = torch.ones(1000, requires_grad=True)
    out = Dropout(1.0)(x)
    out.sum().backward()
    assert not out.any()
    assert not x.grad.any()


def test_the_mask_follows_the_seed():
    x, dropout = torch.ones(100), Dropout(0.5)
    outs = []
    for seed in (0, 0, 1):
        seeded(seed)
        outs.append(dropout(x))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert not torch.equal(dropout(x), dropout(x))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (8,), (9,), (3, 0, 2), (3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_shape_and_number_format(shape, dtype):
    out = Dropout(0.5)(torch.ones(shape, dtype=dtype))
    assert (out.shape, out.dtype) == (shape, dtype)
    assert ((out == 0) | (out == 2)).all()


def test_a_view_whose_elements_do_not_lie_side_by_side():
    seeded()
    x = torch.randn(40, 30).T[::2]
    assert not x.is_contiguous()
    before = x.clone()
    out = Dropout(0.5)(x)
    assert torch.equal(x, before)
    assert torch.equal(out, torch.where(out != 0, 2 * x, 0.0))
    assert 0.3 < (out == 0).float().mean() < 0.7


def test_the_gradient_goes_where_the_values_went():
    seeded()
    x = torch.randn(50, 20, requires_grad=True)
    out = Dropout(0.5)(x)
    upstream = torch.randn(50, 20)
    out.backward(upstream)
    assert torch.equal(x.grad, torch.where(out != 0, 2 * upstream, 0.0))


def test_other_devices_use_torchs_own():
    assert Dropout(0.5)(torch.empty(3, device="meta")).device.type == "meta"


class Other(nn.Dropout):
    """A model's own variant, which is left to it."""


def test_who_is_replaced():
    def parts():
        return {
            "plain": nn.Dropout(0.3),
            "silent": nn.Dropout(0.4).eval(),
            "own": Other(0.3),
            "channels": nn.Dropout2d(0.3),
            "alpha": nn.AlphaDropout(0.3),
            "linear": nn.Linear(2, 2),
        }

    model = nn.Sequential(nn.ModuleDict({**parts(), "deep": nn.ModuleDict(parts())}))
    before = dict(model.named_modules())
    replace_dropout(model)
    after = dict(model.named_modules())
    assert before.keys() == after.keys()
    for name, module in after.items():
        if name.endswith(("plain", "silent")):
            assert type(module) is Dropout
            assert module.p == before[name].p
            assert module.training is before[name].training
        else:
            assert module is before[name]
    assert not after["0.deep.silent"].training


def test_a_replaced_model_is_the_same_in_evaluation():
    seeded()
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU()).eval()
    x = torch.randn(3, 4)
    expected = model(x)
    replace_dropout(model)
    assert torch.equal(model(x), expected)
