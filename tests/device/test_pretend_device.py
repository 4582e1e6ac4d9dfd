"""What the pretend device refuses, allows and counts."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretend_device import NAME, synchronisations
from torch import nn

pytestmark = pytest.mark.device

MIXED = "Expected all tensors to be on the same device, but found at least two devices, sim:0"


@pytest.fixture
def values(device):
    return torch.arange(6.0).view(2, 3).to(device)


def here():
    return torch.arange(6.0).view(2, 3)


REFUSED = {
    "sum": lambda x: x + here(),
    "sum the other way": lambda x: here() + x,
    "a number of the device and a CPU tensor": lambda x: x.sum() * here(),
    "in place": lambda x: x.mul_(here()),
    "into a CPU tensor": lambda x: here().add_(x),
    "into a CPU number": lambda x: torch.tensor(0.0).add_(x.sum()),
    "product": lambda x: x @ here().T,
    "cat": lambda x: torch.cat([x, here()]),
    "stack of numbers": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "where": lambda x: torch.where(here() > 2, x, 0.0),
    "masked fill": lambda x: x.masked_fill(here() > 2, 0.0),
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "index_select": lambda x: x.index_select(0, torch.tensor([1])),
    "index_select by a number": lambda x: x.index_select(0, torch.tensor(1)),
    "embedding": lambda x: F.embedding(torch.tensor([0, 1]), x),
    "a CPU tensor indexed by the device": lambda x: here()[x[0].long() * 0],
    "values put by an index": lambda x: x.__setitem__(torch.tensor([0]), torch.ones(1, 3)),
    "attention mask": lambda x: F.scaled_dot_product_attention(
        x[None], x[None], x[None], attn_mask=torch.zeros(2, 2)
    ),
    "linear": lambda x: nn.Linear(3, 2)(x),
    "gru": lambda x: nn.GRU(3, 2)(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_devices_is_refused(name, values):
    with pytest.raises(RuntimeError, match=MIXED):
        REFUSED[name](values)


ALLOWED = {
    "a CPU number": lambda x: x + x.new_tensor(2.0).cpu(),
    "a CPU number for masked places": lambda x: x.masked_fill(x > 2, torch.tensor(9.0)),
    "CPU indices": lambda x: x[torch.tensor([1, 0, 1])],
    "CPU indices, put": lambda x: x.clone().index_put_((torch.tensor([1]),), torch.tensor(7.0)),
    "a CPU mask": lambda x: x[torch.tensor([True, False])],
    "a copy": lambda x: x.clone().copy_(here() * 2),
    "a view changed in place": lambda x: x.clone().t().squeeze().mul_(2),
    "another shape in place": lambda x: x.clone().unsqueeze_(0).squeeze_(0).t_() * 2,
    "what is made there": lambda x: x + torch.arange(3, device=x.device) + torch.eye(3).to(x)[0],
    "torch.tensor": lambda x: x + torch.tensor([1, 2, 3], device=x.device),
    "torch.as_tensor": lambda x: x + torch.as_tensor(np.ones(3, np.float32), device=x.device),
    "a reduction": lambda x: torch.topk(x, 2).values.logsumexp(1),
    "packed": lambda x: nn.utils.rnn.pad_packed_sequence(
        nn.utils.rnn.pack_padded_sequence(x[..., None], torch.tensor([3, 2]), batch_first=True)
    )[0],
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_gives_the_cpus_values(name, inference, values):
    with torch.inference_mode(inference):
        found, expected = ALLOWED[name](values), ALLOWED[name](here())
    assert (found.device.type, expected.device.type) == (NAME, "cpu")
    assert found.shape == expected.shape
    assert torch.equal(found.cpu(), expected)


def test_memory_cannot_be_read(values, tmp_path):
    for read in (values.numpy, lambda: np.asarray(values)):
        with pytest.raises(TypeError, match="can't convert sim:0 device type tensor to numpy"):
            read()
    assert values.tolist() == here().tolist()
    assert float(values.sum()) == 15
    torch.save(values, tmp_path / "values.pt")
    assert torch.equal(torch.load(tmp_path / "values.pt", weights_only=True), here())
    with pytest.raises(NotImplementedError, match="no tensors of layout"):
        here().to_sparse().to(values.device)


class Net(nn.Module):
    """Tied weights, a fused cell, attention, a loss over indices."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.items = nn.Embedding(9, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 9)
        self.head.weight = self.items.weight

    def forward(self, ids, targets):
        hidden, _ = self.gru(self.items(ids))
        hidden = self.norm(F.scaled_dot_product_attention(hidden, hidden, hidden, is_causal=True))
        return F.cross_entropy(self.head(hidden).flatten(0, 1), targets.flatten())


def trained(device):
    net = Net().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(9, (2, 5, 6), generator=generator)
    losses, gradients = [], []
    for _ in range(4):
        optimizer.zero_grad()
        loss = net(ids.to(device), targets.to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        gradients += [p.grad.cpu().clone() for p in net.parameters()]
        optimizer.step()
        losses.append(loss.item())
    return net, losses, gradients


def test_gradients_and_steps_are_the_cpus(device):
    net, losses, gradients = trained(device)
    _, expected, others = trained("cpu")
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]
    for one, other in zip(gradients, others, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert net.head.weight is net.items.weight
    assert {p.device.type for p in net.parameters()} == {NAME}
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())
    assert copy.deepcopy(net).head.bias.device.type == NAME
    net.load_state_dict(Net().state_dict())
    assert torch.equal(net.head.bias.cpu(), Net().head.bias)


def test_autocast_casts_as_on_cuda(values):
    with torch.autocast(NAME):
        product = values @ values.T
        assert product.dtype == torch.float16
        assert torch.softmax(product, 1).dtype == torch.float32
        assert F.layer_norm(product, (2,)).dtype == torch.float32
        assert (product + values[:, :2]).dtype == torch.float32
    assert (values @ values.T).dtype == torch.float32


def mask_of(x):
    return x > 2


WAITS = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool((x > 2).any()),
    "copy to the CPU": lambda x: x.cpu(),
    "blocking copy from the CPU": lambda x: here().to(x.device),
    "nonzero": lambda x: mask_of(x).nonzero(),
    "index by a mask": lambda x: x[mask_of(x)],
    "index on the CPU": lambda x: x[torch.tensor([0])],
    "repeat_interleave": lambda x: torch.repeat_interleave(x[0].long()),
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_is_counted_with_its_place(name, values):
    with synchronisations() as counter:
        WAITS[name](values)
    ((place, times),) = counter.items()
    assert place.startswith("item at" if name == "if" else f"{name} at ")
    assert "device/test_pretend_device.py:" in place
    assert times == 1


def test_what_does_not_wait_is_not_counted(values):
    with synchronisations() as counter:
        here().to(values.device, non_blocking=True)
        changed = values.clone()
        changed[mask_of(changed)] = 0.0  # a masked fill
        changed[0, 1] = 5.0
        changed[values[0].long().clamp_max(1)].sum()
        torch.where(changed > 1, changed, 0.0).topk(2)
        torch.zeros(3, device=values.device)
    assert not counter


ENDS = """
import torch
from pretend_device import pretend_device
for _ in range(2):
    with pretend_device() as device:
        assert torch.tensor([1.0, 2.0], device=device).add(1).tolist() == [2, 3]
    try:
        torch.zeros(1, device=device)
    except NotImplementedError:
        continue
    raise SystemExit("operations are still registered")
"""


def test_it_ends_with_its_context():
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", ENDS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
