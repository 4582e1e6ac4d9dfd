"""Both ends of the exported graph: what callers send -> packed histories; scores -> best items.

They are written operator by operator, since sizes that depend on the data (the longest history of
a batch) are not for torch's exporter.
"""

from __future__ import annotations

from recbole_lite.inference.onnx_runtime import REFUSED

ALL_SCORES = "all_scores"
# Inputs of the module that is exported, see recbole_lite.inference.packed_encoder.Packing.
PACKED = ["packed_ids", "packed_positions", "packed_users", "packed_slots", "packed_lengths"]
FLOAT, INT64, BOOL = 1, 7, 9  # onnx.TensorProto's numbers


def add(model, n_items: int, max_length: int) -> None:
    """Put both ends onto a graph from `PACKED` to ``all_scores``, in place.

    Parameters
    ----------
    model : onnx.ModelProto
    n_items : int
        With padding.
    max_length : int
        Items of a history that are read: the last ones.
    """
    front, back = _Steps("front"), _Steps("back")
    _pack(front, n_items, max_length)
    _choose(back, n_items)
    _put_around(model, front, back)


def _pack(steps: _Steps, n_items: int, max_length: int) -> None:
    """``items`` [batch, length] -> `PACKED`; what cannot be ranked makes an operator fail."""
    one, zero = steps.number(1), steps.number(0)
    steps.check_ids("items", n_items)
    mask = steps("Cast", steps("Not", steps("Equal", "items", zero)), to=INT64)  # [B, W] of 0, 1
    counts = steps("ReduceSum", mask, steps.vector(1), keepdims=1)  # [B, 1]
    steps.refuse(
        "a row of items is empty or all padding (0); give at least one item",
        steps("Equal", counts, zero),
    )
    behind = steps("CumSum", mask, one)  # [B, W]: items up to here, this one included
    _refuse_holes(steps, mask, behind, counts)
    kept = steps("Min", counts, steps.number(max_length))  # [B, 1]
    positions = steps("Sub", steps("Sub", behind, one), steps("Sub", counts, kept))  # [B, W]
    read = steps("And", steps("Cast", mask, to=BOOL), steps("GreaterOrEqual", positions, zero))
    places = steps("Transpose", steps("NonZero", read), perm=[1, 0])  # [N, 2], row by row
    steps("GatherND", steps.guarded("items"), places, out=PACKED[0])
    steps("GatherND", positions, places, out=PACKED[1])
    steps("Gather", places, zero, axis=1, out=PACKED[2])
    lengths = steps("Squeeze", kept, steps.vector(1), out=PACKED[4])  # [B]
    longest = steps("ReduceMax", lengths, keepdims=0)
    first = steps("Sub", steps("CumSum", kept, zero), kept)  # [B, 1]: place of the first item
    slots = steps("Add", first, steps("Range", zero, longest, one))  # [B, L]
    total = steps("ReduceSum", lengths, keepdims=0)
    steps("Min", slots, steps("Sub", total, one), out=PACKED[3])


def _refuse_holes(steps: _Steps, mask: str, behind: str, counts: str) -> None:
    """Padding with an item before and after it."""
    before = steps("Greater", behind, steps.number(0))
    after = steps("Less", behind, counts)
    padding = steps("Equal", mask, steps.number(0))
    steps.refuse(
        "a row of items has padding (0) between items; it may stand before or behind them",
        steps("And", padding, steps("And", before, after)),
    )


def _choose(steps: _Steps, n_items: int) -> None:
    """``all_scores``, ``exclude`` and ``k`` -> ``scores`` and ``ids``."""
    zero = steps.number(0)
    steps.check_ids("exclude", n_items)
    exclude = steps.guarded("exclude")
    lost = steps("Expand", steps.minus_inf, steps("Shape", exclude))
    left = steps("ScatterElements", ALL_SCORES, exclude, lost, axis=1)
    best = steps("TopK", left, "k", axis=1, out=["scores", "best"])[1]
    none = steps("IsInf", "scores", detect_positive=0)
    steps("Where", none, zero, best, out="ids")


def _put_around(model, front: _Steps, back: _Steps) -> None:
    graph, info = model.graph, front.helper.make_tensor_value_info
    core = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*front.nodes, *core, *back.nodes])
    graph.initializer.extend([*front.constants.values(), *back.constants.values()])
    graph.input.extend(
        [
            info("items", INT64, ["batch", "length"]),
            info("exclude", INT64, ["batch", "excluded"]),
            info("k", INT64, [1]),
        ]
    )
    graph.output.extend(
        [
            info("scores", FLOAT, ["batch", "top"]),
            info("ids", INT64, ["batch", "top"]),
            info(ALL_SCORES, FLOAT, ["batch", "n_items"]),
        ]
    )


class _Steps:
    """Collects operators; a call appends one and gives the name of what comes out."""

    def __init__(self, prefix: str):
        import onnx

        self.helper, self.prefix = onnx.helper, prefix
        self.nodes: list = []
        self.constants: dict[str, object] = {}
        self._sound: list[str] = []

    def __call__(self, kind: str, *inputs: str, out: str | list[str] | None = None, **attributes):
        name = f"{self.prefix}_{len(self.nodes)}_{kind}"
        outputs = out if isinstance(out, list) else [out or name]
        self.nodes.append(self.helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs if isinstance(out, list) else outputs[0]

    def number(self, value: int) -> str:
        """Constant, int64 []."""
        return self._constant(f"{self.prefix}_number_{value}", INT64, [], value)

    def vector(self, value: int) -> str:
        """Constant, int64 [1]."""
        return self._constant(f"{self.prefix}_vector_{value}", INT64, [1], value)

    @property
    def minus_inf(self) -> str:
        """Constant, float32 [1]."""
        return self._constant(f"{self.prefix}_minus_inf", FLOAT, [1], float("-inf"))

    def check_ids(self, name: str, n_items: int) -> None:
        """Refuse ids that are negative or too large."""
        below = self("Less", name, self.number(0))
        above = self("GreaterOrEqual", name, self.number(n_items))
        self.refuse(
            f"an id in {name} is not from 0 (padding) to {n_items - 1}", self("Or", below, above)
        )

    def refuse(self, why: str, wrong: str) -> None:
        """Fail where any of `wrong` is true: an operator of this name looks behind an array."""
        count = self("ReduceSum", self("Cast", wrong, to=INT64), keepdims=0)
        array = self._constant(f"{self.prefix}_true", BOOL, [1], True)
        self._sound.append(self("Gather", array, self("Min", count, self.number(1))))
        self.nodes[-1].name = REFUSED + why

    def guarded(self, name: str) -> str:
        """The value of this name; whatever reads it comes after all checks so far."""
        sound = self._sound[0]
        for other in self._sound[1:]:
            sound = self("And", sound, other)
        return self("Where", sound, name, self.number(0))

    def _constant(self, name: str, kind: int, shape: list[int], value) -> str:
        self.constants[name] = self.helper.make_tensor(name, kind, shape, [value])
        return name
