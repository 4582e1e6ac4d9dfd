"""Charts: round axes, places that can be computed by hand, labels that do not overlap."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from recbole_lite.evaluator.evaluator import LiteEvaluator, ranked_by
from recbole_lite.report import charts, user_groups
from recbole_lite.report.intervals import half_interval
from recbole_lite.report.rank_metrics import is_of_ranks, metric_values


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 0.1, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (0.03, 0.27, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (28.1, 30, [28, 28.5, 29, 29.5, 30]),
        (3, 3, [2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6]),
        (-0.02, 0.005, [-0.02, -0.015, -0.01, -0.005, 0, 0.005]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (0.05, "0.05"), (30.0, "30"), (28.5, "28.5"), (1500, "1,500"), (2e-5, "2.0e-05")],
)
def test_figures_of_axes_are_short(value, text):
    assert charts.figure(value) == text


def parse(svg):
    return ElementTree.fromstring(re.sub(r' xmlns="[^"]+"', "", str(svg)))


def test_bars_have_the_height_of_their_values():
    bars = [charts.Bars("A", [(0.1, 0.01), (0.2, 0.0)]), charts.Bars("B", [(0.4, 0.0), (0.1, 0.0)])]
    root = parse(charts.bar_chart("t", ["x", "y"], bars, "of"))
    heights = {
        r.find("title").text.split(":")[0]: float(r.get("height")) for r in root.iter("rect")
    }
    assert list(heights) == ["A, x", "B, x", "A, y", "B, y"]
    assert heights["B, x"] == pytest.approx(4 * heights["A, x"], abs=0.3)
    assert heights["A, y"] == pytest.approx(2 * heights["B, y"], abs=0.3)


def test_an_empty_group_has_no_bar():
    bars = [charts.Bars("A", [(math.nan, math.nan), (0.2, 0.0)])]
    root = parse(charts.bar_chart("t", ["x", "y"], bars, "of"))
    assert len(list(root.iter("rect"))) == 1
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")


def test_labels_of_lines_that_end_together_do_not_overlap():
    series = [charts.Series(f"s{n}", [(0, 0.1 * n), (1, 0.5 + 1e-3 * n)]) for n in range(4)]
    root = parse(charts.line_chart("t", series, "epoch"))
    places = sorted(
        float(text.get("y")) for text in root.iter("text") if (text.text or "").startswith("s")
    )
    assert len(places) == 4
    assert min(np.diff(places)) >= 15
    assert places[-1] < charts.HEIGHT


def test_one_point_is_a_chart_too():
    root = parse(charts.line_chart("t", [charts.Series("a", [(0, 0.3)])], "epoch", (0, "best")))
    (dot,) = root.iter("circle")
    assert 0 < float(dot.get("cx")) < charts.WIDTH
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")


def test_names_in_charts_are_escaped():
    svg = charts.interval_chart("<t>", [charts.Interval("<b>&", 0.1, -0.1, 0.2)], "x")
    assert "<b>" not in svg
    assert parse(svg).get("aria-label") == "<t>"


# -- figures ----------------------------------------------------------------------------------


def test_values_of_users_are_recboles(config_for):
    ranks = np.array([0, 1, 2, 3, 4, 5, 0, 5])
    metrics = ["Recall", "NDCG", "MRR", "MAP", "Hit", "Precision"]
    expected = LiteEvaluator(config_for("Pop", metrics=metrics)).per_user(ranked_by(ranks, 5))
    assert len(expected) == 12
    for name, values in expected.items():
        assert is_of_ranks(name)
        np.testing.assert_allclose(metric_values(name, ranks), values)


@pytest.mark.parametrize("name", ["itemcoverage@10", "auc", "recall", "ndcg@0", "ndcg@x"])
def test_other_metrics_are_none_of_ranks(name):
    assert not is_of_ranks(name)


def test_the_half_interval_is_that_of_the_standard_error():
    values = np.array([1.0, 0.0, 0.0, 1.0])
    assert half_interval(values) == pytest.approx(1.96 * math.sqrt(1 / 3) / 2, abs=1e-4)
    assert math.isnan(half_interval(values[:1]))


def test_recall_of_groups_by_hand():
    rows = [(1, 1, 5), (3, 1, 5), (0, 2, 5), (2, 4, 9), (11, 4, 40), (0, 4, 41)]
    users = {
        f"u{n}": {"rank": rank, "item_quartile": quartile, "history_length": length}
        for n, (rank, quartile, length) in enumerate(rows)
    }
    quartiles = [{"least": n, "most": n + 1} for n in range(3)] + [{"least": 1000, "most": 1000}]
    by_item = user_groups.by_popularity(users, quartiles)
    assert [group.label for group in by_item] == ["0 to 1", "1 to 2", "2 to 3", "1,000"]
    assert [len(group.users) for group in by_item] == [2, 1, 0, 3]
    found = user_groups.recall(users, by_item, 10)
    assert found[0] == (1.0, 0.0)
    assert found[1] == (0.0, 0.0)
    assert math.isnan(found[2][0])
    assert found[3] == pytest.approx((1 / 3, math.sqrt(2 / 9 / 3)))
    by_length = user_groups.by_history(users)
    assert [group.users for group in by_length] == [["u0", "u1", "u2"], ["u3"], ["u4", "u5"]]
    assert [group.label for group in by_length] == ["5", "9", "40 to 41"]


def test_the_label_of_a_mark_keeps_off_the_line():
    falling = charts.Series("loss", [(n, 10.0 - n) for n in range(10)])
    rising = charts.Series("recall", [(n, float(n)) for n in range(10)])
    places = []
    for series in (falling, rising):
        root = parse(charts.line_chart("t", [series], "epoch", (9, "best")))
        (label,) = (text for text in root.iter("text") if text.text == "best")
        places.append(float(label.get("y")))
    assert places[0] < charts.HEIGHT / 2 < places[1]
