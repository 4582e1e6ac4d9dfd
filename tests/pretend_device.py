"""A pretend accelerator: tensors that say they are on ``sim:0`` and keep their data on the CPU.

It stands in for a GPU where there is none. Whole trainings run on it, and what would fail or be
slow on a GPU shows:

- An operation that mixes devices raises torch's own message. Allowed, as on CUDA: copies, CPU
  tensors without dimensions in pointwise operations, CPU indices in ``tensor[indices]``.
- ``numpy()`` and what else reads memory is refused; ``cpu()``, ``item()``, ``tolist()`` work.
- :func:`synchronisations` lists what makes the host wait for the device.

Random numbers come from torch's CPU generator, so that results can be compared with the CPU's.
Autocast casts as on CUDA (:data:`_HALF`, :data:`_FULL`); kernels, streams and the memory of a
device are not imitated.

torch takes a backend once in a process, before the process's first backward pass, and keeps it:
tests on the device run in a process of their own (``python -m pytest -m device``), so that no other
test meets it. Sparse tensors are not supported.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial

import torch
from torch._decomp import decomposition_table
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "sim"
_REGISTER = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
MISSING = None if _REGISTER else f"torch {torch.__version__} cannot register a Python backend"
aten = torch.ops.aten


class PretendTensor(torch.Tensor):
    """Tensor on the pretend device; `held` is the CPU tensor with its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        """Wrap a CPU tensor; sparse ones are not supported."""
        if held.layout != torch.strided:
            raise NotImplementedError(f"{NAME} has no tensors of layout {held.layout}")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        """Run an operation that has a tensor of the device among its arguments."""
        return _run(operation, *args, **(kwargs or {}))

    def __tensor_flatten__(self):
        """Part of torch's protocol for wrappers.

        Module.to changes the parameters of such in place, as it does for CUDA; else tied ones
        would come apart.
        """
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner, *_):
        """Inverse."""
        return PretendTensor(inner["held"])

    def __repr__(self, **_):
        return f"{self.held!r} on {NAME}:0"

    def __deepcopy__(self, memo):
        twin = PretendTensor(self.held.clone()).requires_grad_(self.requires_grad)
        twin._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), twin)

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)

    def numpy(self, **_):
        """Refuse, in torch's words."""
        raise TypeError(
            f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    def __array__(self, *_):
        return self.numpy()

    def tolist(self):
        """Values as numbers."""
        return self.cpu().tolist()

    def data_ptr(self):
        """Where the values are."""
        return self.held.data_ptr()


# -- operations ---------------------------------------------------------------------------------

_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXED = {  # CPU indices are allowed; position of the values to be put
    aten.index.Tensor: None,
    aten._unsafe_index.Tensor: None,
    aten.index_put.default: 2,
    aten.index_put_.default: 2,
    aten._index_put_impl_.default: 2,
}
# Not marked as pointwise, but take a number from the CPU all the same.
_FILLS = {aten.masked_fill, aten.masked_fill_, aten.index_fill, aten.index_fill_, aten.fill_}
# Operations whose lengths have to be on the CPU, and stay there.
_PACKED = {aten._pack_padded_sequence.default, aten._pad_packed_sequence.default}


def _run(operation, *args, **kwargs):
    """Kernel of every operation: check devices, compute on the CPU, wrap what comes out."""
    given = _tensors((args, kwargs))
    on_device = any(isinstance(tensor, PretendTensor) for tensor in given)
    if on_device:
        _check_devices(operation, args, kwargs, given)
    wanted = kwargs.get("device")
    to_device = on_device if wanted is None else torch.device(wanted).type == NAME
    _count(operation, args, kwargs, to_device)
    inner_args, inner_kwargs = pytree.tree_map(_held, (args, dict(kwargs)))
    if wanted is not None:
        inner_kwargs["device"] = torch.device("cpu")
        inner_kwargs.pop("pin_memory", None)
    result = operation(*inner_args, **inner_kwargs)
    if operation._schema.is_mutable:
        return _mutated(operation, args, kwargs, given)
    if operation in _PACKED:
        return PretendTensor(result[0]), result[1]
    return _wrapped(operation, given, result) if to_device else result


def _wrapped(operation, given, result):
    """Tensors of the device; in inference mode, views of normal tensors are normal, too."""
    is_view = any(returned.alias_info is not None for returned in operation._schema.returns)
    normal = is_view and not any(tensor.is_inference() for tensor in given)
    with torch.inference_mode(torch.is_inference_mode_enabled() and not normal):
        return pytree.tree_map_only(torch.Tensor, PretendTensor, result)


def _tensors(values) -> list[torch.Tensor]:
    return [value for value in pytree.tree_leaves(values) if isinstance(value, torch.Tensor)]


def _held(value):
    return value.held if isinstance(value, PretendTensor) else value


def _is_foreign(value) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, PretendTensor)


def _check_devices(operation, args, kwargs, given) -> None:
    """Refuse CPU tensors among those of the device, as CUDA does."""
    if operation in _COPIES or operation in _PACKED:
        return
    foreign = [tensor for tensor in given if _is_foreign(tensor)]
    if operation in _INDEXED and not _is_foreign(args[0]):
        place = _INDEXED[operation]
        foreign = [args[place]] if place and _is_foreign(args[place]) else []
    takes_numbers = (
        torch.Tag.pointwise in operation.tags
        or operation in _INDEXED
        or operation.overloadpacket in _FILLS
        or operation.name().startswith("aten::_foreach_")
    )
    changed = _written(operation, args, kwargs)
    for tensor in foreign:
        if tensor.dim() or not takes_numbers or any(tensor is other for other in changed):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and {tensor.device}! (in {operation})"
            )


def _written(operation, args, kwargs) -> list[torch.Tensor]:
    """Tensors that an operation writes to."""
    found = []
    for place, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += _tensors(value)
    return found


def _mutated(operation, args, kwargs, given):
    """What an operation in place returns: the very tensors that it changed."""
    for tensor in given:
        if isinstance(tensor, PretendTensor) and tensor.shape != tensor.held.shape:
            tensor.data = PretendTensor(tensor.held)  # squeeze_, resize_ ...
    returns = operation._schema.returns
    if not returns:
        return None
    changed = _written(operation, args, kwargs)
    return changed[0] if len(returns) == 1 else tuple(changed)


# -- autocast -----------------------------------------------------------------------------------

# torch's lists for CUDA, without what no recommender uses.
_HALF = [
    "conv1d", "conv2d", "convolution", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv",
    "linear", "addbmm", "baddbmm", "bmm", "linalg_vecdot", "chain_matmul",
    "scaled_dot_product_attention", "gru_cell", "lstm_cell",
]  # fmt: skip
_FULL = [
    "exp", "expm1", "log", "log2", "log10", "log1p", "reciprocal", "rsqrt", "pow", "softplus",
    "layer_norm", "native_layer_norm", "group_norm", "norm", "linalg_vector_norm",
    "cosine_similarity", "nll_loss", "nll_loss_nd", "kl_div", "l1_loss", "smooth_l1_loss",
    "mse_loss", "margin_ranking_loss", "binary_cross_entropy_with_logits", "cross_entropy_loss",
    "cdist", "logsumexp", "prod", "softmax", "log_softmax", "cumprod", "cumsum", "sum",
]  # fmt: skip
_WIDEST = [
    "addcdiv", "addcmul", "dot", "vdot", "index_put", "tensordot", "scatter_add",
]  # fmt: skip


def _cast(values, dtype):
    return pytree.tree_map_only(
        PretendTensor,
        lambda value: value.to(dtype) if value.dtype.is_floating_point else value,
        values,
    )


def _widest(values) -> torch.dtype:
    types = {t.dtype for t in _tensors(values) if t.dtype.is_floating_point}
    return torch.float32 if len(types) != 1 else types.pop()


def _autocast(operation, dtype_of, *args, **kwargs):
    values = args, kwargs
    args, kwargs = _cast(values, dtype_of(values))
    with torch.autocast(NAME, enabled=False):
        return operation(*args, **kwargs)


def _register_autocast(kernels) -> None:
    lists = (
        (_HALF, lambda _: torch.get_autocast_dtype(NAME)),
        (_FULL, lambda _: torch.float32),
        (_WIDEST, _widest),
    )
    for names, dtype_of in lists:
        for packet in (getattr(aten, name) for name in names):
            for operation in (getattr(packet, overload) for overload in packet.overloads()):
                if not operation._schema.is_mutable:
                    kernel = partial(_autocast, operation, dtype_of)
                    kernels.impl(operation, kernel, "AutocastPrivateUse1")


# -- what the host waits for --------------------------------------------------------------------

# The size of their result depends on values.
_SIZED_BY_VALUES = {
    "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "unique_dim_consecutive", "bincount", "equal", "_linalg_svd", "_linalg_eigh",
}  # fmt: skip
_counters: list[Counter] = []


@contextmanager
def synchronisations():
    """Count what makes the host wait until the device has done all that it was given.

    Yields
    ------
    collections.Counter
        ``"item at model/next_item.py:90"`` -> how often; the place is the innermost one outside
        torch. Copies from the CPU count unless they are ``non_blocking``.
    """
    counter = Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


def _count(operation, args, kwargs, to_device) -> None:
    if not _counters:
        return
    why = _waits_for(operation, args, kwargs, to_device)
    if why:
        place = _place()
        for counter in _counters:
            counter[f"{why} at {place}"] += 1


def _waits_for(operation, args, kwargs, to_device) -> str | None:
    name = operation._schema.name.removeprefix("aten::")
    if name == "_local_scalar_dense":
        return "item"
    if name in _SIZED_BY_VALUES:
        return name
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return name
    if name == "_to_copy":
        return None if to_device or kwargs.get("non_blocking") else "copy to the CPU"
    if name == "copy_":
        return _copy(*args, **kwargs)
    return _index(operation, args) if operation in _INDEXED else None


def _copy(target, source, non_blocking=False) -> str | None:
    if non_blocking or _is_foreign(target) == _is_foreign(source) or not source.numel():
        return None
    return "copy to the CPU" if _is_foreign(target) else "blocking copy from the CPU"


def _index(operation, args) -> str | None:
    indices = [index for index in args[1] if index is not None]
    if any(_is_foreign(index) for index in indices):
        return "index on the CPU"
    if not any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        return None
    place = _INDEXED[operation]
    if place and args[place].numel() == 1 and len(indices) == 1 and not any(args[3:4]):
        return None  # a masked fill
    return "index by a mask"


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith("<") and "/torch/" not in file and file != __file__:
            return "/".join(file.rsplit("/", 2)[-2:]) + f":{frame.f_lineno}"
        frame = frame.f_back
    return "?"


# -- the backend --------------------------------------------------------------------------------


class _Backend(getattr(backend_registration, "_DummyBackendModule", object)):
    """What torch asks of ``torch.sim``."""

    def get_amp_supported_dtype(self):
        """Types of autocast."""
        return [torch.float16, torch.bfloat16]


# Their usual kernels resize a result or, for torch.tensor, meet no Python.
_DIRECT = (aten.arange.default, aten.arange.start, aten.arange.start_step, aten.eye.default,
    aten.eye.m, aten.copy_.default)  # fmt: skip
# Fused cells have no kernel on a CPU; torch's own decompositions take their place.
_DECOMPOSED = (aten.gru.input, aten.gru.data, aten.lstm.input, aten.lstm.data, aten.rnn_tanh.input,
    aten.rnn_relu.input)  # fmt: skip


def _register(kernels, fallbacks) -> None:
    fallbacks.fallback(_run, "PrivateUse1")
    fallbacks.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for operation in _DIRECT:
        kernels.impl(operation, partial(_run, operation), "PrivateUse1")
    for operation in _DECOMPOSED:
        kernels.impl(operation, decomposition_table[operation], "AutogradPrivateUse1")
    _register_autocast(kernels)


@contextmanager
def pretend_device():
    """Make ``sim:0`` a device; afterwards only its name stays behind, see the module.

    Yields
    ------
    torch.device
    """
    if not hasattr(torch, NAME):
        _REGISTER(NAME, _Backend())
    libraries = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    try:
        _register(*libraries)
        yield torch.device(NAME, 0)
    finally:
        for library in libraries:
            library._destroy()
