"""Inputs and outputs of the ONNX graph: padded ids to packed histories, scores to the top items.

Both parts are built operator by operator, because torch's exporter does not support sizes that
depend on the data (the longest history of a batch).
"""

from __future__ import annotations

from recbole_lite.inference.onnx_runtime import REFUSED

ALL_SCORES = "all_scores"
# Inputs of the exported module, see recbole_lite.inference.packed_encoder.Packing.
PACKED = ["packed_ids", "packed_positions", "packed_users", "packed_slots", "packed_lengths"]
FLOAT, INT64, BOOL = 1, 7, 9  # onnx.TensorProto's numbers


def add_inputs_outputs(model, n_items: int, max_length: int) -> None:
    """Add inputs and outputs, in place, to a graph from `PACKED` to ``all_scores``.

    Parameters
    ----------
    model : onnx.ModelProto
    n_items : int
        Including padding.
    max_length : int
        Number of last items of a history that are read.
    """
    front, back = _GraphBuilder("front"), _GraphBuilder("back")
    _pack(front, n_items, max_length)
    _select_top_k(back, n_items)
    _wrap(model, front, back)


def _pack(build: _GraphBuilder, n_items: int, max_length: int) -> None:
    """``items`` [batch, length] -> `PACKED`; invalid rows make an operator fail."""
    one, zero = build.number(1), build.number(0)
    build.check_ids("items", n_items)
    mask = build("Cast", build("Not", build("Equal", "items", zero)), to=INT64)  # [B, W] of 0, 1
    counts = build("ReduceSum", mask, build.vector(1), keepdims=1)  # [B, 1]
    build.refuse(
        "a row of items is empty or all padding (0); give at least one item",
        build("Equal", counts, zero),
    )
    behind = build("CumSum", mask, one)  # [B, W]: items up to and including here
    _refuse_holes(build, mask, behind, counts)
    kept = build("Min", counts, build.number(max_length))  # [B, 1]
    positions = build("Sub", build("Sub", behind, one), build("Sub", counts, kept))  # [B, W]
    read = build("And", build("Cast", mask, to=BOOL), build("GreaterOrEqual", positions, zero))
    places = build("Transpose", build("NonZero", read), perm=[1, 0])  # [N, 2], row by row
    build("GatherND", build.guarded("items"), places, out=PACKED[0])
    build("GatherND", positions, places, out=PACKED[1])
    build("Gather", places, zero, axis=1, out=PACKED[2])
    lengths = build("Squeeze", kept, build.vector(1), out=PACKED[4])  # [B]
    longest = build("ReduceMax", lengths, keepdims=0)
    first = build("Sub", build("CumSum", kept, zero), kept)  # [B, 1]: place of the first item
    slots = build("Add", first, build("Range", zero, longest, one))  # [B, L]
    total = build("ReduceSum", lengths, keepdims=0)
    build("Min", slots, build("Sub", total, one), out=PACKED[3])


def _refuse_holes(build: _GraphBuilder, mask: str, behind: str, counts: str) -> None:
    """Refuse padding that has items on both sides."""
    before = build("Greater", behind, build.number(0))
    after = build("Less", behind, counts)
    padding = build("Equal", mask, build.number(0))
    build.refuse(
        "a row of items has padding (0) between items; it may stand before or behind them",
        build("And", padding, build("And", before, after)),
    )


def _select_top_k(build: _GraphBuilder, n_items: int) -> None:
    """``all_scores``, ``exclude`` and ``k`` -> ``scores`` and ``ids``."""
    zero = build.number(0)
    build.check_ids("exclude", n_items)
    exclude = build.guarded("exclude")
    minus_inf = build("Expand", build.minus_inf, build("Shape", exclude))
    masked = build("ScatterElements", ALL_SCORES, exclude, minus_inf, axis=1)
    best = build("TopK", masked, "k", axis=1, out=["scores", "best"])[1]
    unfilled = build("IsInf", "scores", detect_positive=0)
    build("Where", unfilled, zero, best, out="ids")


def _wrap(model, front: _GraphBuilder, back: _GraphBuilder) -> None:
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


class _GraphBuilder:
    """Collects operators; a call appends one and returns the name of its output."""

    def __init__(self, prefix: str):
        import onnx

        self.helper, self.prefix = onnx.helper, prefix
        self.nodes: list = []
        self.constants: dict[str, object] = {}
        self._checks: list[str] = []

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
        """Fail if any of `wrong` is true: an operator of this name reads beyond an array's end."""
        count = self("ReduceSum", self("Cast", wrong, to=INT64), keepdims=0)
        array = self._constant(f"{self.prefix}_true", BOOL, [1], True)
        self._checks.append(self("Gather", array, self("Min", count, self.number(1))))
        self.nodes[-1].name = REFUSED + why

    def guarded(self, name: str) -> str:
        """The value of this name, which becomes available after all checks so far."""
        passed = self._checks[0]
        for other in self._checks[1:]:
            passed = self("And", passed, other)
        return self("Where", passed, name, self.number(0))

    def _constant(self, name: str, kind: int, shape: list[int], value) -> str:
        self.constants[name] = self.helper.make_tensor(name, kind, shape, [value])
        return name
