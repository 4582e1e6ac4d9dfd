"""The chunked and the sampled loss against F.cross_entropy and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_lite.model.layers import softmax_loss
from recbole_lite.model.layers.history_mask import HistoryMask
from recbole_lite.model.layers.softmax_loss import (
    cross_entropy,
    rows_per_chunk,
    sampled_cross_entropy,
)

N, N_ITEMS, D = 13, 10, 4
# Row of each target in a batch of 4 users, and the step of the input before it.
ROWS = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3])
STEPS = torch.tensor([0, 1, 2, 3, 4, 2, 0, 1, 2, 4, 2, 3, 4])
BEFORE = torch.tensor([[1, 2, 2], [3, 0, 0], [0, 0, 0], [10, 4, 0]])
INPUTS = torch.tensor([[5, 5, 6, 1, 7], [4, 8, 9, 0, 0], [1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])


@pytest.fixture(params=[1, 4, 13, 100])
def chunk(request, monkeypatch):
    """Rows in a chunk: one by one, cut within a user, exactly all, more than there are."""
    monkeypatch.setattr(softmax_loss, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(softmax_loss, "_SCORES", {"cpu": request.param * N_ITEMS})
    assert rows_per_chunk(N_ITEMS, torch.device("cpu")) == request.param
    return request.param


def problem(seed=0, n=N, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    users = scale * torch.randn(n, D, generator=generator, dtype=dtype)
    weight = torch.randn(N_ITEMS, D, generator=generator, dtype=dtype)
    targets = torch.randint(N_ITEMS, (n,), generator=generator)
    return users.requires_grad_(), weight.requires_grad_(), targets


def reference(users, weight, targets, seen=False, smoothing=0.0):
    scores = users @ weight.T
    if seen:
        left_out = torch.zeros(scores.shape, dtype=torch.bool)
        for k, (row, step) in enumerate(zip(ROWS.tolist(), STEPS.tolist(), strict=True)):
            had = {*BEFORE[row].tolist(), *INPUTS[row, : step + 1].tolist()}
            for item in had - {0, targets[k].item() + 1}:
                left_out[k, item - 1] = True
        scores = scores.masked_fill(left_out, -torch.inf)
        if smoothing:  # torch's definition, of which torch makes infinity here
            even = (-scores.log_softmax(1)).masked_fill(left_out, 0).sum(1) / (~left_out).sum(1)
            return (1 - smoothing) * F.cross_entropy(scores, targets) + smoothing * even.mean()
    return F.cross_entropy(scores, targets, label_smoothing=smoothing)


def seen_of(targets):
    return HistoryMask(BEFORE, INPUTS, ROWS, STEPS, targets + 1)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


# -- over all items ---------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("with_seen", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradients_for_any_chunk(with_seen, seed, smoothing, chunk):
    users, weight, targets = problem(seed)
    seen = seen_of(targets) if with_seen else None
    loss = cross_entropy(users, weight, targets, seen, smoothing)
    expected = reference(users, weight, targets, with_seen, smoothing)
    torch.testing.assert_close(loss, expected)
    wanted = gradients(3 * expected, users, weight)
    torch.testing.assert_close(gradients(3 * loss, users, weight), wanted)


def test_left_out_items_get_no_gradient(chunk):
    """A user who had all items but the target: nothing is to be learned."""
    users, weight, targets = problem(n=1)
    before = torch.arange(1, N_ITEMS + 1)[None]
    first = torch.zeros(1, dtype=torch.long)
    seen = HistoryMask(before, torch.zeros(1, 2, dtype=torch.long), first, first, targets + 1)
    loss = cross_entropy(users, weight, targets, seen)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in gradients(loss, users, weight))


def test_scores_are_made_a_chunk_at_a_time(chunk, monkeypatch):
    sizes = []
    amax = torch.amax

    def count(scores, *args, **kwargs):
        sizes.append(tuple(scores.shape))
        return amax(scores, *args, **kwargs)

    monkeypatch.setattr(torch, "amax", count)
    cross_entropy(*problem())
    assert sum(rows for rows, _ in sizes) == N
    assert all(rows <= chunk and items == N_ITEMS for rows, items in sizes)


@pytest.mark.parametrize("frozen", ["users", "weight"])
def test_only_one_side_is_trained(frozen, chunk):
    users, weight, targets = problem()
    trained = weight if frozen == "users" else users
    (users if frozen == "users" else weight).requires_grad_(False)
    (gradient,) = gradients(cross_entropy(users, weight, targets), trained)
    torch.testing.assert_close(gradient, *gradients(reference(users, weight, targets), trained))


def test_without_gradients_none_are_made(chunk, monkeypatch):
    users, weight, targets = problem()
    expected = reference(users, weight, targets).detach()
    monkeypatch.setattr(torch.Tensor, "__matmul__", None)  # of use to the users' gradient only
    monkeypatch.setattr(torch.Tensor, "addmm_", None)  # to the weight's
    with torch.no_grad():
        loss = cross_entropy(users, weight, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)
    users.requires_grad_(False), weight.requires_grad_(False)
    torch.testing.assert_close(cross_entropy(users, weight, targets), expected)


def test_backward_twice_adds_up(chunk):
    users, weight, targets = problem()
    loss = cross_entropy(users, weight, targets)
    loss.backward(retain_graph=True)
    once = users.grad.clone(), weight.grad.clone()
    loss.backward()
    torch.testing.assert_close((users.grad, weight.grad), (2 * once[0], 2 * once[1]))


def test_a_second_derivative_is_refused():
    users, weight, targets = problem()
    loss = cross_entropy(users, weight, targets)
    (gradient,) = torch.autograd.grad(loss.square(), users, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("with_seen", [False, True])
def test_no_rows(with_seen, chunk):
    users, weight, targets = problem(n=0)
    none = torch.zeros(0, dtype=torch.long)
    seen = HistoryMask(BEFORE, INPUTS, none, none, targets) if with_seen else None
    loss = cross_entropy(users, weight, targets, seen)
    assert loss.item() == 0
    loss.backward()
    assert users.grad.shape == (0, D)
    assert not weight.grad.any()


def test_double_precision_inputs_get_double_precision_gradients(chunk):
    """The loss itself is made in float32."""
    users, weight, targets = problem(dtype=torch.float64)
    loss, expected = cross_entropy(users, weight, targets), reference(users, weight, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(
        gradients(loss, users, weight), gradients(expected, users, weight), strict=True
    ):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_under_autocast_the_loss_is_as_exact_as_its_inputs(chunk):
    """With users in bfloat16 the loss is that of the rounded users, made in float32."""
    users, weight, targets = problem()
    layer = torch.nn.Linear(D, D, bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(users)
        assert mixed.dtype == torch.bfloat16
        loss = cross_entropy(mixed, weight, targets)
    exact = reference(mixed.detach().float(), weight, targets)
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(loss, reference(layer(users), weight, targets), rtol=0.02, atol=0)
    loss.backward()
    assert weight.grad.dtype == layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, *gradients(exact, weight))
    wanted = gradients(reference(layer(users), weight, targets), layer.weight)[0]
    torch.testing.assert_close(layer.weight.grad, wanted, rtol=0.05, atol=0.01)


def test_large_scores_do_not_overflow(chunk):
    users, weight, targets = problem(scale=1e4)
    loss, expected = cross_entropy(users, weight, targets), reference(users, weight, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        gradients(loss, users, weight), gradients(expected, users, weight), rtol=1e-4, atol=1e-4
    )


def test_users_that_do_not_lie_side_by_side(chunk):
    users, weight, targets = problem()
    wide = users.detach().repeat_interleave(2, 1).T.contiguous().T.requires_grad_()
    (gradient,) = gradients(cross_entropy(wide[:, ::2], weight, targets), wide)
    torch.testing.assert_close(
        gradient[:, ::2], *gradients(reference(users, weight, targets), users)
    )
    assert not gradient[:, 1::2].any()


@pytest.mark.parametrize(
    "device, n_items, rows",
    [
        ("cpu", 2**11, 1024),
        ("cpu", 2**11 + 1, 1023),
        ("cpu", 2**20, 128),  # never fewer
        ("cuda", 2**20, 128),
        ("cuda", 2**10, 2**17),
        ("mps", 2**10, 2**14),  # a device that nothing was measured on
    ],
)
def test_rows_at_once(device, n_items, rows):
    assert rows_per_chunk(n_items, torch.device(device)) == rows


# -- over sampled items -----------------------------------------------------------------------


@pytest.fixture
def draw(monkeypatch):
    """``draw([3, 3, 7])``: the sample that the next losses see."""

    def fix(sample):
        def randint(high, size, device=None):
            assert (high, size) == (N_ITEMS, (len(sample),))
            return torch.tensor(sample)

        monkeypatch.setattr(torch, "randint", randint)

    return fix


def test_sampled_value_by_hand(draw):
    users, weight, _ = problem(n=2)
    targets = torch.tensor([7, 2])
    draw([3, 3, 7, 5])
    loss = sampled_cross_entropy(users, weight, targets, 4)
    scores = (users @ weight.T).double().tolist()
    # A sampled item stands for 10 / 4; the first row's target, 7, is in the sample.
    expected = 0.0
    for row, target, negatives in zip(scores, (7, 2), ([3, 3, 5], [3, 3, 7, 5]), strict=True):
        total = math.exp(row[target]) + 2.5 * sum(math.exp(row[item]) for item in negatives)
        expected += (math.log(total) - row[target]) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_a_sample_of_each_item_once_is_smoothed_as_all_items(draw):
    users, weight, targets = problem()
    draw(list(range(N_ITEMS)))
    loss = sampled_cross_entropy(users, weight, targets, N_ITEMS, 0.3)
    expected = reference(users, weight, targets, smoothing=0.3)
    torch.testing.assert_close(loss, expected)
    wanted = gradients(expected, users, weight)
    torch.testing.assert_close(gradients(loss, users, weight), wanted)


def test_the_gradient_reaches_only_the_sample_and_the_targets(draw):
    users, weight, _ = problem(n=2)
    draw([3, 3, 5])
    sampled_cross_entropy(users, weight, torch.tensor([7, 2]), 3).backward()
    assert weight.grad.any(1).nonzero().flatten().tolist() == [2, 3, 5, 7]
    assert users.grad.any(1).all()


def test_a_target_is_never_its_own_negative(draw):
    users, weight, targets = problem(n=1)
    draw([targets.item()] * 4)
    loss = sampled_cross_entropy(users, weight, targets, 4)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in gradients(loss, users, weight))


def test_the_sum_of_exponentials_is_unbiased():
    """Mean over 4,000 samples of 5 items against the sum over all 10."""
    users, weight, targets = problem(n=1, scale=0.5)
    users, weight = users.detach(), weight.detach()
    scores = (users @ weight.T)[0]
    torch.manual_seed(0)
    losses = torch.stack(
        [sampled_cross_entropy(users, weight, targets, 5) for _ in range(4000)]
    ).double()
    sums = (losses + scores[targets[0]]).exp()
    deviation = (sums.std() / len(sums) ** 0.5).item()
    assert deviation < 0.05 * scores.exp().sum()
    assert abs(sums.mean() - scores.exp().sum()) < 4.5 * deviation


def test_a_large_sample_comes_near_the_full_loss():
    users, weight, targets = problem()
    torch.manual_seed(0)
    loss = sampled_cross_entropy(users, weight, targets, 200_000)
    expected = reference(users, weight, targets)
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    torch.testing.assert_close(
        gradients(loss, users, weight), gradients(expected, users, weight), rtol=0.05, atol=2e-3
    )


def test_the_sample_follows_the_seed():
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(sampled_cross_entropy(*problem(), 3).item())
    assert losses[0] == losses[1] != losses[2]


def test_no_rows_to_sample_for():
    users, weight, targets = problem(n=0)
    loss = sampled_cross_entropy(users, weight, targets, 4)
    assert loss.item() == 0
    loss.backward()
    assert users.grad.shape == (0, D)


# -- whose labels are smoothed ----------------------------------------------------------------


@pytest.mark.parametrize(
    "model, loss_type, ignored",
    [("ItemLM", "CE", 0), ("GRU4Rec", "CE", 0), ("GRU4Rec", "BPR", 1), ("BERT4Rec", "CE", 0),
     ("BERT4Rec", "BPR", 1), ("Caser", "BPR", 1)],
)  # fmt: skip
def test_models_smooth_their_labels_or_say_that_they_do_not(
    model, loss_type, ignored, config_for, caplog
):
    from recbole_lite import create_dataset, data_preparation, get_trainer

    config = config_for(model, loss_type=loss_type, n_heads=2, mask_ratio=0.5, lm_dropout=0.0)
    train = data_preparation(config, create_dataset(config))[0]
    batch, losses = next(iter(train)), []
    for config["label_smoothing"] in (0.0, 0.5):
        torch.manual_seed(0)
        module = config.model_class(config, train._dataset).eval()
        get_trainer(config["MODEL_TYPE"], model)(config, module)
        losses.append(module.calculate_loss(batch).item())
    assert (losses[0] == losses[1]) is bool(ignored)
    assert caplog.text.count(f"label_smoothing is ignored: the loss of {model}") == ignored
