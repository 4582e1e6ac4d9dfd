"""Search spaces: what the files say is what is drawn."""

import math
import pickle

import pytest

from recbole_lite.experiments.tune.space import read_space
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import PROPERTIES


@pytest.fixture
def space_of(tmp_path):
    def write(text, name="space.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return read_space(path)

    return write


KINDS = """\
a: {choice: [1, two, [3, 4], {k: 5}]}
b: {uniform: [0, 0.5]}
c: {loguniform: [1e-5, 1e-1]}
d: {quniform: [0.0, 0.8, 0.1]}
e: {randint: [1, 4]}
f: {grid: [x, y]}
g: {quniform: [2, 8, 2]}
"""


def drawn(space, number=2000):
    from ray.tune.search.variant_generator import generate_variants

    draws = []
    for seed in range(number // space.grid_size):
        variants = generate_variants({"config": space.domains()}, random_state=seed)
        draws += [space.decode(spec["config"]) for _, spec in variants]
    return draws


def test_yaml_kinds_are_drawn_as_they_say(space_of):
    """Shares of 2,000 draws; a share p has a standard error of sqrt(p (1 - p) / 2000) < 0.012."""
    draws = drawn(space_of(KINDS))
    assert len(draws) == 2000

    def share(condition):
        return sum(map(condition, draws)) / len(draws)

    assert [share(lambda d, v=v: d["a"] == v) for v in (1, "two", [3, 4], {"k": 5})] == (
        pytest.approx([0.25] * 4, abs=0.06)
    )
    assert share(lambda d: d["b"] < 0.125) == pytest.approx(0.25, abs=0.06)
    assert all(0 <= d["b"] <= 0.5 for d in draws)
    # Log-uniform over four decades: a quarter in each, where uniform has 90% in the last.
    for decade in range(4):
        low, high = 1e-5 * 10**decade, 1e-4 * 10**decade
        in_decade = share(lambda d, low=low, high=high: low <= d["c"] < high)
        assert in_decade == pytest.approx(0.25, abs=0.06)
    assert {d["d"] for d in draws} == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}
    assert {d["e"] for d in draws} == {1, 2, 3}
    assert share(lambda d: d["f"] == "x") == 0.5
    assert {d["g"] for d in draws} == {2, 4, 6, 8}
    assert {type(d["g"]) for d in draws} == {type(d["e"]) for d in draws} == {int}


def test_recboles_format(space_of):
    """Bounds of loguniform are natural logarithms, as RecBole documents it."""
    text = (
        "learning_rate loguniform -8,0\n"
        "# a comment\n"
        "train_batch_size choice [512, 1024]\n"
        "mlp_hidden_size choice ['[64,64]','[128]']\n"
        "dropout_prob quniform 0,0.6,0.2\n"
        "reg_weight uniform 0.1, 0.2\n"
    )
    space = space_of(text, "model.test")
    by_key = {parameter.key: parameter for parameter in space.parameters}
    assert by_key["learning_rate"].values == pytest.approx((math.exp(-8), 1.0))
    assert by_key["train_batch_size"].values == (512, 1024)
    assert by_key["mlp_hidden_size"].values == ([64, 64], [128])
    assert by_key["dropout_prob"].values == (0, 0.6, 0.2)
    assert by_key["reg_weight"].values == (0.1, 0.2)
    logs = [math.log(draw["learning_rate"]) for draw in drawn(space, 500)]
    assert min(logs) > -8
    assert sum(value < -4 for value in logs) / 500 == pytest.approx(0.5, abs=0.1)


def test_the_same_seed_draws_the_same(space_of):
    space = space_of(KINDS)
    assert drawn(space, 20) == drawn(space, 20)


def test_optuna_suggests_from_the_space(space_of):
    pytest.importorskip("optuna")
    from recbole_lite.experiments.tune.search import METRIC, make_searcher
    from recbole_lite.experiments.tune.tune_settings import read_settings

    space = space_of(KINDS.replace("grid", "choice"))
    searcher = make_searcher(read_settings({"searcher": "optuna"}), space, 4, "max")
    searcher.set_search_properties(None, None, space.domains())
    draws = []
    for n in range(12):
        draws.append(space.decode(searcher.suggest(f"t{n}")))
        # Larger is better the nearer c is to 1e-2.
        score = -abs(math.log10(draws[-1]["c"]) + 2)
        searcher.on_trial_complete(f"t{n}", {METRIC: score})
    assert all(draw["a"] in (1, "two", [3, 4], {"k": 5}) for draw in draws)
    assert all(1e-5 <= draw["c"] <= 1e-1 and draw["e"] in (1, 2, 3) for draw in draws)
    with pytest.raises(ConfigError, match="searcher optuna takes no grid"):
        make_searcher(read_settings({"searcher": "optuna"}), space_of(KINDS), 4, "max")


def test_rays_state_of_a_sweep_that_began_before_the_modules_moved_can_be_read():
    pytest.importorskip("ray")
    from recbole_lite.experiments.tune import search

    assert pickle.loads(b"crecbole_lite.tune.search\nAnnouncer\n.") is search.ProgressCallback
    assert pickle.loads(b"crecbole_lite.tune.search\nfolder_name\n.") is search.folder_name


@pytest.mark.parametrize("path", sorted((PROPERTIES / "hyper").glob("*")), ids=lambda p: p.stem)
def test_shipped_spaces_are_valid(path):
    from recbole_lite import LiteConfig
    from recbole_lite.experiments.tune.sweep_spec import check_space, make_spec

    values = {"train_stage": "finetune"} if path.stem == "S3Rec" else {}
    config = LiteConfig(path.stem, "ml-100k", config_dict=values)
    spec = make_spec(config, read_space(path), {})
    check_space(spec)
    assert spec.trials == 10


def test_a_pretraining_is_no_trial():
    from recbole_lite import LiteConfig
    from recbole_lite.experiments.tune.sweep_spec import check_space, make_spec

    config = LiteConfig("S3Rec", "ml-100k", config_dict={"train_stage": "pretrain"})
    with pytest.raises(ConfigError, match="sweep with --train_stage=finetune and --pre_model_path"):
        check_space(make_spec(config, read_space(PROPERTIES / "hyper" / "S3Rec.yaml"), {}))


def test_searcher_grid_takes_every_combination(space_of):
    space = space_of("a: {choice: [1, 2, 3]}\nb: {grid: [x, y]}\n").exhaustive()
    assert space.grid_size == 6
    assert sorted((d["a"], d["b"]) for d in drawn(space, 6)) == [
        (a, b) for a in (1, 2, 3) for b in "xy"
    ]


@pytest.mark.parametrize(
    "text, name, message",
    [
        ("", "s.yaml", "s.yaml: the search space is empty"),
        ("# nothing\n", "s.test", "s.test: the search space is empty"),
        ("a: 5\n", "s.yaml", "line 1: a: expected {kind: values}"),
        ("a: {uniform: [0, 1], choice: [1]}\n", "s.yaml", "expected {kind: values}"),
        ("a: {unifrom: [0, 1]}\n", "s.yaml", "unknown kind 'unifrom'; did you mean .*uniform"),
        ("a: {choice: []}\n", "s.yaml", "a: no values; choice takes"),
        ("a: {choice: 3}\n", "s.yaml", "a: not a list"),
        ("x: {choice: [1]}\na: {uniform: [2, 1]}\n", "s.yaml", "line 2: a: low is not below high"),
        ("a: {uniform: [1]}\n", "s.yaml", "the number of bounds is wrong"),
        ("a: {uniform: [0, b]}\n", "s.yaml", "a bound is not a number"),
        ("a: {uniform: [0, .inf]}\n", "s.yaml", "a bound is not finite"),
        ("a: {loguniform: [0, 1]}\n", "s.yaml", "low is not above 0"),
        ("a: {quniform: [0, 1, 0]}\n", "s.yaml", "the step is not in"),
        ("a: {randint: [0, 2.5]}\n", "s.yaml", "a bound is not a whole number"),
        ("a: {uniform: [0, 1]\n", "s.yaml", "not valid YAML"),
        ("a uniform 1\n", "s.test", "line 1: a: the number of bounds is wrong"),
        ("a uniform x,y\n", "s.test", "line 1: a: a bound is not a number"),
        ("\na loguniform 5,900\n", "s.test", "line 2: a: loguniform takes logarithms"),
        ("a normal 0,1\n", "s.test", "expected `key kind values`"),
        ("a choice [1]\na choice [2]\n", "s.test", "line 2: a is already set at .*line 1"),
        ("a choice __import__('os').getcwd()\n", "s.test", "a: not a list"),
    ],
)
def test_a_malformed_space_is_refused_with_its_place(text, name, message, space_of):
    with pytest.raises(ConfigError, match=message):
        space_of(text, name)


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"nowhere.test: cannot read this search space"):
        read_space("nowhere.test")
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot read"):
        read_space("nowhere.yaml")
