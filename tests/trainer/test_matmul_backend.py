"""Matrix products by oneDNN: which are replaced, what they give, when the choice is made."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_lite.trainer import matmul_backend
from recbole_lite.trainer.matmul_backend import (
    matrix_products,
    mixed_precision,
    uses_onednn,
    wants_onednn,
)
from recbole_lite.utils.errors import ConfigError
from tests.tiny_data import QUICK, write_tiny

BIG = (130, 100, 110)  # m, k, n: more than 2**20 multiplications
ONEDNN = "mkldnn::_linear_pointwise"

needs_onednn = pytest.mark.skipif(not matmul_backend._works(), reason="this torch has no oneDNN")


class Calls(TorchDispatchMode):
    """Names of the operators that reach torch."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def calls(work, *context):
    with Calls() as recorder, matrix_products(*context):
        recorder.names.clear()  # of the look whether the operator is there
        work()
    return recorder.names


def laid_out(rows, columns, transposed):
    return torch.randn(columns, rows).t() if transposed else torch.randn(rows, columns)


@needs_onednn
@pytest.mark.parametrize("b_transposed", [False, True])
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), [BIG, BIG[::-1], (1, 1100, 1000), (1024, 1025, 1)])
def test_products_are_right_however_the_matrices_lie(m, k, n, a_transposed, b_transposed):
    a, b, bias = laid_out(m, k, a_transposed), laid_out(k, n, b_transposed), torch.randn(n)
    with matrix_products("onednn"):
        product, with_bias = a @ b, torch.addmm(bias, a, b)
    expected = a.double() @ b.double()
    torch.testing.assert_close(product.double(), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(with_bias.double(), expected + bias, rtol=0, atol=2e-4)
    assert product.is_contiguous()
    assert with_bias.is_contiguous()


@needs_onednn
def test_a_layer_and_its_gradients_go_through_onednn():
    m, k, n = BIG
    layer, x = torch.nn.Linear(k, n), torch.randn(2, m // 2, k, requires_grad=True)

    def gradients():
        return torch.autograd.grad(layer(x).square().sum(), [x, layer.weight, layer.bias])

    expected, found = gradients(), []
    names = calls(lambda: found.extend(gradients()), "onednn")
    assert names.count(ONEDNN) == 3  # forward, gradient of x, gradient of the weight
    assert not {"aten::mm", "aten::addmm"} & set(names)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(9, 9), torch.ones(9, 9)),
        (torch.ones(0, 2000), torch.ones(2000, 2000)),
        (torch.ones(200, 200, dtype=torch.float64), torch.ones(200, 200, dtype=torch.float64)),
        (torch.ones(200, 200, dtype=torch.bfloat16), torch.ones(200, 200, dtype=torch.bfloat16)),
        (torch.ones(200, 200).to_sparse(), torch.ones(200, 200)),
    ],
    ids=["small", "empty", "float64", "bfloat16", "sparse"],
)
def test_other_products_are_left_alone(a, b):
    assert ONEDNN not in calls(lambda: a @ b, "onednn")


def test_a_bias_that_is_a_matrix_or_scaled_is_left_alone():
    m, k, n = BIG
    a, b = torch.ones(m, k), torch.ones(k, n)
    found = []

    def work():
        found.append(torch.addmm(torch.ones(m, n), a, b))
        found.append(torch.addmm(torch.ones(n), a, b, beta=2))

    names = calls(work, "onednn")
    assert ONEDNN not in names
    assert [one.unique().item() for one in found] == [k + 1, k + 2]


@needs_onednn
def test_nothing_changes_outside_inside_torch_and_off_the_cpu():
    a = torch.ones(200, 200)
    assert calls(lambda: a @ a, "onednn").count(ONEDNN) == 1
    assert calls(lambda: a @ a, "torch") == ["aten::mm"]
    assert calls(lambda: a @ a, "onednn", "cuda") == ["aten::mm"]
    with Calls() as recorder:
        a @ a
    assert recorder.names == ["aten::mm"]


@needs_onednn
def test_a_context_within_another_multiplies_once():
    a = torch.ones(200, 200)

    def work():
        with matrix_products("onednn"):
            a @ a
        a @ a  # the outer context still holds

    assert calls(work, "onednn") == [*("aten::t", ONEDNN) * 2]


INTEL, AMD, OTHER = "vendor_id\t: GenuineIntel\n", "vendor_id\t: AuthenticAMD\n", None


@pytest.mark.parametrize(
    ("capability", "vendor", "mkl", "works", "chosen"),
    [
        ("AVX512", AMD, True, True, True),  # MKL would take AVX2
        ("AVX512", INTEL, True, True, False),
        ("AVX2", AMD, True, True, False),
        ("AVX2", INTEL, True, True, False),
        ("DEFAULT", AMD, True, True, False),
        ("AVX512", AMD, False, True, False),  # torch multiplies by something else
        ("AVX512", AMD, True, False, False),
        ("AVX512", OTHER, True, True, False),
        ("NO AVX", OTHER, False, True, False),
    ],
)
def test_auto_goes_by_the_processor(capability, vendor, mkl, works, chosen, monkeypatch, tmp_path):
    """Answers of processors that need not be at hand."""
    if vendor is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{vendor}")
    monkeypatch.setattr(matmul_backend, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(matmul_backend, "_works", lambda: works)
    assert wants_onednn() is uses_onednn("auto") is chosen
    assert uses_onednn("auto", "cuda:0") is False
    assert uses_onednn("torch") is False
    if works:
        assert uses_onednn("onednn") is True


def test_a_torch_without_the_operator(monkeypatch):
    def absent(*_):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(matmul_backend, "_product", absent)
    assert not wants_onednn()
    with pytest.raises(ConfigError, match="this torch has no oneDNN"):
        uses_onednn("onednn")


def test_rounded_products_are_one_kind_of_devices_and_end_with_their_context():
    precision = torch.get_float32_matmul_precision
    usual = precision()
    for kind, device, there in (
        ("tf32", "cuda:1", "high"),
        ("tf32", "cpu", usual),
        ("bf16", "cpu", "medium"),
        ("bf16", "cuda", usual),
    ):
        with matrix_products(kind, device):
            assert precision() == there
            with matrix_products(kind, device, training=False):
                assert precision() == ("highest" if there == "medium" else there)
            assert precision() == there
        assert precision() == usual


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: asimd bf16 sve", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        (None, False),
    ],
)
def test_bfloat16_needs_a_processor_that_has_it(flags, has, monkeypatch, tmp_path):
    if flags:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    monkeypatch.setattr(matmul_backend, "_CPUINFO", tmp_path / "cpuinfo")
    assert matmul_backend.has_bfloat16() is has
    assert uses_onednn("bf16", "cuda") is False
    with nullcontext() if has else pytest.raises(ConfigError, match="bf16: this processor has no"):
        assert uses_onednn("bf16") is False


@pytest.fixture
def processor(monkeypatch, tmp_path):
    def is_one_with(flags):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
        monkeypatch.setattr(matmul_backend, "_CPUINFO", tmp_path / "cpuinfo")

    return is_one_with


def test_without_tiles_factors_are_converted_to_bfloat16(processor):
    processor("avx512f avx512_bf16")
    m, k, n = BIG
    a, b, bias, total = torch.randn(m, k), torch.randn(n, k).t(), torch.randn(n), torch.ones(m, n)
    out = torch.empty(m, n)
    expected = a.bfloat16().double() @ b.bfloat16().double()
    with matrix_products("bf16"):
        products = [a @ b, torch.mm(a, b, out=out), torch.addmm(bias, a, b), total.addmm_(a, b)]
    assert products[1] is out
    assert products[3] is total
    for product, added in zip(products, [0, 0, bias, 1], strict=True):
        assert product.dtype == torch.float32
        # Sums are rounded to 8 bits before the other summand is added.
        torch.testing.assert_close((product - added).double(), expected, rtol=2**-8, atol=1e-3)


def test_without_tiles_gradients_are_products_of_bfloat16(processor):
    processor("avx512f avx512_bf16")
    m, k, n = BIG
    layer, x = torch.nn.Linear(k, n), torch.randn(2, m // 2, k, requires_grad=True)
    grad = torch.randn(2, m // 2, n)
    with matrix_products("bf16"):
        found = torch.autograd.grad(layer(x), [x, layer.weight], grad)
    rounded = [t.detach().bfloat16().double() for t in (grad, layer.weight, x)]
    expected = [rounded[0] @ rounded[1], rounded[0].flatten(0, 1).T @ rounded[2].flatten(0, 1)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "conversions"), [("avx512_bf16", 2), ("avx512_bf16 amx_bf16 amx_tile", 0)]
)
def test_tiles_round_float32_factors_themselves(processor, flags, conversions):
    processor(flags)
    a, small = torch.ones(200, 200), torch.ones(9, 9)
    names = calls(lambda: (a @ a, small @ small), "bf16")
    assert names.count("aten::mm") == 2
    assert names.count("aten::to") == conversions + bool(conversions)  # and back


def test_bfloat16_trains_and_does_not_evaluate(monkeypatch, tmp_path, caplog):
    from recbole.model.sequential_recommender import SASRec

    from recbole_lite import run

    seen = {"loss": set(), "scores": set()}

    class Watched(SASRec):
        def calculate_loss(self, interaction):
            seen["loss"].add(torch.get_float32_matmul_precision())
            return super().calculate_loss(interaction)

        def full_sort_predict(self, interaction):
            seen["scores"].add(torch.get_float32_matmul_precision())
            return super().full_sort_predict(interaction)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matmul_backend, "has_bfloat16", lambda: True)
    write_tiny(tmp_path)
    settings = {**QUICK, "data_path": str(tmp_path), "matmul_backend": "bf16", "state": "INFO"}
    with caplog.at_level("INFO"):
        run(Watched, "tiny", config_dict=settings)
    assert seen == {"loss": {"medium"}, "scores": {"highest"}}
    assert "products of bfloat16" in caplog.text


@pytest.mark.parametrize(("enabled", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_mixed_precision_is_bfloat16(enabled, dtype):
    a = torch.ones(2, 2)
    with mixed_precision(torch.device("cpu"), enabled):
        assert (a @ a).dtype == dtype


def test_an_unknown_kind_is_refused_before_the_training(tmp_path):
    from recbole_lite import run

    write_tiny(tmp_path)
    settings = {**QUICK, "data_path": str(tmp_path)}
    with pytest.raises(ConfigError, match="matmul_backend must be one of auto, torch, onednn"):
        run("SASRec", "tiny", config_dict={**settings, "matmul_backend": "mkl"})


@pytest.mark.parametrize(
    ("model", "kind", "processor", "onednn"),
    [
        ("SASRec", "torch", True, False),
        ("SASRec", "auto", False, False),
        pytest.param("SASRec", "auto", True, True, marks=needs_onednn),
        pytest.param("SASRec", "onednn", False, True, marks=needs_onednn),
        pytest.param("ItemLM", "onednn", False, True, marks=needs_onednn),
    ],
)
def test_a_training_gives_the_same_but_for_rounding(
    tmp_path, monkeypatch, model, kind, processor, onednn
):
    """Both ways on any machine; `processor` is what the processor would choose."""
    from recbole_lite import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matmul_backend, "_SMALL", 0)  # all products, small as the model is
    monkeypatch.setattr(matmul_backend, "wants_onednn", lambda: processor)
    write_tiny(tmp_path)
    losses, used = [], []
    for products_by in ("torch", kind):
        settings = {**QUICK, "data_path": str(tmp_path), "matmul_backend": products_by}
        with Calls() as recorder:
            history = run(model, "tiny", config_dict={**settings, "epochs": 2})["history"]
        losses.append([entry["train_loss"] for entry in history])
        used.append(recorder.names.count(ONEDNN))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert used[0] == 0
    assert used[1] > 50 if onednn else used[1] == 0
