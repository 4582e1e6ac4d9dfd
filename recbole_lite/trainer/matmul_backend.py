"""Backend of matrix products: oneDNN or bfloat16 on a CPU, TF32 on a GPU.

On a CPU torch hands float32 products to MKL, which takes AVX2 on a processor that is not Intel's
even where it has AVX-512. oneDNN, which is part of torch as well, takes AVX-512 on any. Measured:
``benchmarks/products.py``, docs/training.md.
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_lite.utils.errors import ConfigError

# Multiplications in a product below which torch is left alone: oneDNN prepares code for each
# shape that it meets, and tests of tiny models meet many.
_SMALL = 2**20
_CPUINFO = Path("/proc/cpuinfo")
# Every operator of a training comes by, so these are looked up once.
_MM, _ADDMM = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
_MM_OUT, _ADDMM_TO = torch.ops.aten.mm.out, torch.ops.aten.addmm_.default

# Names of the kinds that round the factors of float32 products: kind of device, torch's precision.
_ROUNDED = {"tf32": ("cuda", "high"), "bf16": ("cpu", "medium")}

_running = threading.local()  # a dispatch mode holds for its thread alone


def uses_onednn(kind: str, device: str | torch.device = "cpu") -> bool:
    """Whether oneDNN is to multiply the matrices of a model.

    Parameters
    ----------
    kind : {"auto", "torch", "onednn", "bf16", "tf32"}
        auto: onednn where :func:`wants_onednn`, else torch. bf16, tf32: see :func:`rounded`.
    device : str or torch.device
        Where the model is; the answer is no unless that is a CPU.

    Raises
    ------
    ConfigError
        This torch has no oneDNN, or this processor no products of bfloat16.
    """
    if kind == "bf16" and torch.device(device).type == "cpu" and not has_bfloat16():
        raise ConfigError(
            "matmul_backend: bf16: this processor has no products of bfloat16 (avx512_bf16, "
            "amx_bf16); use auto"
        )
    if kind == "onednn" and not _works():
        raise ConfigError("matmul_backend: onednn: this torch has no oneDNN; use auto or torch")
    wanted = kind == "onednn" or (kind == "auto" and wants_onednn())
    return wanted and torch.device(device).type == "cpu"


@contextmanager
def matrix_products(kind: str, device: str | torch.device = "cpu", training: bool = True):
    """Let oneDNN multiply float32 matrices while the context lasts, if :func:`uses_onednn`.

    Gradients are included. Sums are made in another order, so results differ by rounding.
    ``tf32`` and ``bf16`` round the factors (:func:`rounded`), ``bf16`` in trainings alone.
    """
    if kind in _ROUNDED:
        with rounded(kind, device, training or kind == "tf32"):
            yield
        return
    if getattr(_running, "yes", False) or not uses_onednn(kind, device):
        yield
        return
    _running.yes = True
    try:
        with _OneDNN():
            yield
    finally:
        _running.yes = False


@contextmanager
def rounded(kind: str, device: str | torch.device, enabled: bool = True):
    """Round the factors of float32 products; sums stay float32.

    Parameters
    ----------
    kind : {"tf32", "bf16"}
        tf32: to 10 bits behind the point, on a CUDA device; bf16: to 7 bits, on a CPU. On other
        devices nothing changes.
    device : str or torch.device
    enabled : bool
        False: not within this context, even if an outer one rounds.
    """
    where, precision = _ROUNDED[kind]
    if torch.device(device).type != where:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision if enabled else "highest")
    converts = kind == "bf16" and enabled and converts_factors()
    try:
        with _BFloat16() if converts else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def mixed_precision(device: torch.device, enabled: bool = True):
    """Autocast to bfloat16, and what stays float32 (the loss over all items) in TF32.

    RecBole takes float16 on CUDA, whose gradients need a scaler; so does this where the device has
    no bfloat16.
    """
    lacks_it = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    dtype = torch.float16 if lacks_it else torch.bfloat16
    products = rounded("tf32", device if enabled else "cpu")
    with torch.autocast(device.type, dtype, enabled), products:
        yield


def wants_onednn() -> bool:
    """Whether torch's MKL passes over vector instructions that the processor has.

    A rule and no measurement: a run that is resumed must not choose otherwise than before.
    """
    widest = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return widest and torch.backends.mkl.is_available() and not _is_intel() and _works()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own."""
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", _cpuinfo()) is not None  # x86, Arm


def converts_factors() -> bool:
    """Whether bfloat16 needs a conversion: x86 without tiles (AMX), which oneDNN rounds for."""
    flags = _cpuinfo()
    return "avx512_bf16" in flags and "amx_bf16" not in flags


def _is_intel() -> bool:
    # Not Linux: nothing is known, so nothing is changed.
    return "GenuineIntel" in (_cpuinfo() or "GenuineIntel")


def _cpuinfo() -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        return _CPUINFO.read_text()[:4096]
    except OSError:
        return ""


def _works() -> bool:
    """Whether oneDNN's operator, which is not torch's documented interface, is as known here."""
    if not torch.backends.mkldnn.is_available():
        return False
    a = torch.arange(12.0).view(3, 4)
    try:
        return torch.equal(_product(a, a.T), (a[:, None] * a).sum(-1))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``a @ b + bias``, ``[m, k]`` and ``[k, n]``."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


class _OneDNN(TorchDispatchMode):
    """Replaces the two operators that a linear layer and its gradients come down to."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is _MM and _suits(*args):
            a, b = args
            if a.stride(0) == 1 and len(a) > b.shape[1]:
                # A weight's gradient. oneDNN is up to twice as fast with the longer side second.
                return _product(b.t(), a.t()).t().contiguous()
            return _product(a, b)
        if func is _ADDMM and not kwargs:
            bias, a, b = args
            if bias.dim() == 1 and bias.dtype == torch.float32 and _suits(a, b):
                return _product(a, b, bias)
        return func(*args, **(kwargs or {}))


class _BFloat16(TorchDispatchMode):
    """Converts the factors to bfloat16, and the product back.

    oneDNN itself rounds float32 factors only for AMX; with ``avx512_bf16`` alone it would multiply
    in float32.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (_MM, _MM_OUT) and _suits(*args):
            product = _rounded_product(*args)
            return kwargs["out"].copy_(product) if kwargs else product.float()
        if func in (_ADDMM, _ADDMM_TO) and not kwargs and _suits(*args[1:]):
            product = _rounded_product(*args[1:])
            return args[0].add_(product) if func is _ADDMM_TO else product.float().add_(args[0])
        return func(*args, **kwargs)


def _rounded_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _MM(a.bfloat16(), b.bfloat16())


def _suits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and a.layout == b.layout == torch.strided
        and a.numel() * b.shape[1] >= _SMALL
    )
