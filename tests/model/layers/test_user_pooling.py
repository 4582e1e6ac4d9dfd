"""UserPooling against values by hand; prefixes against whole sequences."""

import pytest
import torch

from recbole_lite.config.validation import validate
from recbole_lite.config.yaml_files import Setting
from recbole_lite.model.layers.user_pooling import UserPooling
from recbole_lite.utils.errors import ConfigError

POOLINGS = ("mean", "last", "recency")
NAN = float("nan")
# Three outputs o_1, o_2, o_3. At first the recency rate is ln 2: each weighs half its successor.
OUTPUTS = [[7.0, 0.0], [14.0, -7.0], [21.0, 7.0]]
POOLED = {
    "mean": [14.0, 0.0],
    "last": [21.0, 7.0],
    "recency": [(7 + 2 * 14 + 4 * 21) / 7, (0 - 2 * 7 + 4 * 7) / 7],
}
FIRST_TWO = {
    "mean": [10.5, -3.5],
    "last": [14.0, -7.0],
    "recency": [(7 + 2 * 14) / 3, (0 - 2 * 7) / 3],
}


def with_rate(raw_rate):
    pooling = UserPooling("recency")
    torch.nn.init.constant_(pooling.raw_rate, raw_rate)
    return pooling


@pytest.mark.parametrize("kind", POOLINGS)
def test_values_by_hand_with_padding_on_either_side(kind):
    """Padding holds NaN: what stands there must not matter, not even times 0."""
    padding = [NAN, NAN]
    hidden = torch.tensor(
        [
            [*OUTPUTS, padding, padding],
            [padding, padding, *OUTPUTS],
            [padding, *OUTPUTS[:2], padding, padding],
            [OUTPUTS[2], *[padding] * 4],
        ]
    )
    mask = ~hidden.isnan().any(-1)
    expected = torch.tensor([POOLED[kind], POOLED[kind], FIRST_TWO[kind], OUTPUTS[2]])
    torch.testing.assert_close(UserPooling(kind)(hidden, mask), expected)


@pytest.mark.parametrize("kind", POOLINGS)
def test_prefixes_by_hand(kind):
    expected = torch.tensor([[OUTPUTS[0], FIRST_TWO[kind], POOLED[kind]]])
    torch.testing.assert_close(UserPooling(kind).prefixes(torch.tensor([OUTPUTS])), expected)


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_row_without_items_is_zero_and_has_no_gradient(kind):
    pooling = UserPooling(kind)
    hidden = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]]).bool()
    pooled = pooling(hidden, mask)
    assert torch.equal(pooled[1], torch.zeros(5))
    pooled.square().sum().backward()
    assert not hidden.grad[1].any()
    for parameter in (hidden, *pooling.parameters()):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize("raw_rate", [-3.0, 0.0, 1.5])
def test_each_prefix_is_pooled_as_if_it_were_alone(kind, raw_rate):
    pooling = with_rate(raw_rate) if kind == "recency" else UserPooling(kind)
    hidden = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    pooled = pooling.prefixes(hidden)
    assert pooled.shape == hidden.shape
    for end in range(1, 7):
        mask = torch.arange(6).expand(3, -1) < end
        torch.testing.assert_close(pooled[:, end - 1], pooling(hidden, mask))
        torch.testing.assert_close(
            pooled[:, end - 1], pooling(hidden[:, :end], torch.ones(3, end).bool())
        )


def test_the_decay_is_learned_alike_from_prefixes_and_whole_sequences():
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    gradients = []
    for pool in (
        lambda pooling: pooling.prefixes(hidden)[:, -1],
        lambda pooling: pooling(hidden, torch.ones(2, 5).bool()),
    ):
        pooling = with_rate(0.3)
        pool(pooling).square().sum().backward()
        gradients.append(pooling.raw_rate.grad)
    assert gradients[0].abs() > 1e-3
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("raw_rate, limit", [(-40.0, "mean"), (80.0, "last")])
def test_limits_of_the_decay(raw_rate, limit):
    hidden = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(6) < torch.tensor([[6], [2], [1]])
    recency, other = with_rate(raw_rate), UserPooling(limit)
    torch.testing.assert_close(recency(hidden, mask), other(hidden, mask))
    torch.testing.assert_close(recency.prefixes(hidden), other.prefixes(hidden))


@pytest.mark.parametrize("kind", POOLINGS)
def test_the_number_format_of_the_outputs_is_kept(kind):
    hidden = torch.tensor([OUTPUTS], dtype=torch.bfloat16)
    pooling = UserPooling(kind)
    for pooled in (pooling(hidden, torch.ones(1, 3).bool()), pooling.prefixes(hidden)[:, -1]):
        assert pooled.dtype == torch.bfloat16
        expected = torch.tensor([POOLED[kind]])
        torch.testing.assert_close(pooled.float(), expected, rtol=0.02, atol=0.1)


def test_only_the_decay_is_learned():
    assert {kind: len(list(UserPooling(kind).parameters())) for kind in POOLINGS} == {
        "mean": 0,
        "last": 0,
        "recency": 1,
    }


def test_an_unknown_kind():
    with pytest.raises(ConfigError, match="one of mean, last, recency, found 'max'"):
        validate("user_pooling", Setting("max", "command line"))


@pytest.mark.parametrize("kind", ["mean", "last", "recency"])
def test_prefixes_of_several_sequences_in_a_row(kind):
    pooling, hidden = UserPooling(kind), torch.randn(1, 5, 3)
    pooled = pooling.prefixes(hidden, torch.tensor([[1, 1, 1, 2, 2]]))
    apart = [pooling.prefixes(part) for part in hidden.split([3, 2], 1)]
    torch.testing.assert_close(pooled, torch.cat(apart, 1))
