"""The Top-N task (Section 5.4, Figure 5): one right item among 99 negatives, row by row.

Two sizes of LiteLLM4Rec, the paper's and the small encoder of ``properties/prefix/ml-1m.yaml``,
each as a sequential model that ranks the candidates without having read them, and fine-tuned from
it on the task; beside them Pop, P5 and POD, which rank the same candidates. A third size, that of
``properties/demo.yaml``, is trained if it is asked for, from random weights as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recbole_lite.config.configurator import LiteConfig
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.data.topn_candidates import write_candidates
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.evaluator.collector import LiteCollector
from recbole_lite.evaluator.evaluator import LiteEvaluator, per_user_results
from recbole_lite.experiments.reproduce import paper_figures
from recbole_lite.experiments.reproduce.baselines import PREFIX, ModelSpec
from recbole_lite.experiments.reproduce.protocol import Request, Rows, check_names
from recbole_lite.experiments.reproduce.time_budget import measure, protocol_of
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.report.format import figure, grid, metric_label
from recbole_lite.report.rank_metrics import random_guess
from recbole_lite.utils.files import to_plain
from recbole_lite.utils.paths import PROPERTIES

# A hundred candidates where the sequential task has 20 items: of the paper's 256 sequences a step
# would take 10 GiB.
TASK = {"task": "topn", "train_strategy": "all", "train_batch_size": 64}
WRITTEN = {**TASK, "train_batch_size": 16}  # P5 and POD: a candidate is five tokens of the prompt
SEQUENTIAL = "sequential model"  # it reads no candidates
# What the fine-tuned rows read -> settings.
INPUTS = {
    "candidates alone": {"topn_history": False},
    "history and candidates": {"topn_history": True},
}
NOTE = """\
The paper shows Figure 5 as a picture and states no values, so none are listed here. It states that
LITE-LLM4Rec's NDCG is much better than that of P5 and POD, and its Recall (here Hit) for small k.

Every row ranks the same candidates of each test user: the test item and {negatives} items that the
user has not had (SHA-256 of the candidates: {sha256}).
"sequential model" is trained on all items for the budget and scores the candidates without reading
them. The fine-tuned rows start from its weights and train for the same time on the task, so their
total training time is twice as long. P5 and POD train on the task alone. Pop counts once.

The paper leaves some details open. "candidates alone" follows its sentence literally; the input
then does not distinguish users. "history and candidates" puts the user's last items in front.
Training candidates are drawn again in each epoch; a step has {batch} windows ({written} for P5 and
POD). Fine-tuning starts from the sequential model; the paper does not state what it starts from,
nor how long it trains."""


@dataclass(frozen=True)
class Family:
    """A size of LiteLLM4Rec."""

    prefix: str  # of the names of its rows
    files: tuple[Path, ...] = ()  # configuration of the sequential model
    on_task: Mapping[str, Any] | None = None  # what else the fine-tuned rows need
    from_random: bool = False  # whether to train on the task from random weights as well

    def sequential(self) -> ModelSpec:
        """The model that is fine-tuned."""
        return ModelSpec(f"{self.prefix}, {SEQUENTIAL}", "LiteLLM4Rec", {}, self.files)

    def on_candidates(self, begin: str | None, suffix: str = "") -> list[ModelSpec]:
        """Rows of the task: they begin with the weights in a folder, or with random ones."""
        shared = {**TASK, **(self.on_task or {}), **({} if begin is None else {"init_from": begin})}
        return [
            ModelSpec(
                f"{self.prefix}, {name}{suffix}", "LiteLLM4Rec", {**shared, **changes}, self.files
            )
            for name, changes in INPUTS.items()
        ]


# The small encoder numbers its 20 positions, and the candidates take one.
FAMILIES = (
    Family("LiteLLM4Rec"),
    Family("prefix", tuple(PREFIX), {"MAX_ITEM_LIST_LENGTH": 19}),
)
DEMO = Family("demo", (PROPERTIES / "demo.yaml",), from_random=True)


def figure5(request: Request) -> str:
    """Run what is missing of the rows, and print them as Markdown.

    Raises
    ------
    ConfigError
        No row could be run.
    """
    families = {family.prefix: family for family in (*FAMILIES, DEMO)}
    wanted = request.models or ["Pop", *(family.prefix for family in FAMILIES), "P5", "POD"]
    check_names(wanted, ["Pop", *families, "P5", "POD"])
    rows = Rows(request, request.out / request.dataset / "topn")
    names = []
    for name in wanted:
        if name in families:
            names += _family(rows, families[name])
        else:
            rows.train(ModelSpec(name, name, TASK if name == "Pop" else WRITTEN))
            names.append(name)
    rows.check()
    return render(rows, names)


def render(rows: Rows, names: list[str]) -> str:
    """Table of all rows, those without a result among them, and what each had."""
    metrics, first = paper_figures.TOPN_METRICS, next(iter(rows.results.values()))
    figures = {"random guessing": first["random_guess"]}
    figures |= {name: rows.results.get(name, {}).get("test", {}) for name in names}
    table = [[name, *(figure(of.get(m)) for m in metrics)] for name, of in figures.items()]
    digests = sorted({result["candidates"] for result in rows.results.values()})
    note = NOTE.format(
        negatives=first["protocol"]["topn_negatives"],
        sha256=", ".join(digests),
        batch=TASK["train_batch_size"],
        written=WRITTEN["train_batch_size"],
    )
    parts = [grid(table, ["", *map(metric_label, metrics)]), note]
    return "\n\n".join([*parts, *rows.describe()])


def _family(rows: Rows, family: Family) -> list[str]:
    """Train a family's rows; their names."""
    spec = family.sequential()
    found = rows.train(spec, by=measure_on_candidates)
    tuned = family.on_candidates(found["run_dir"] if found else "")
    if found and not (Path(found["run_dir"]).is_dir() or all(map(rows.has, tuned))):
        # Only its figures are left; the rows that need its weights are made anew with it.
        rows.path(spec).unlink()
        found = rows.train(spec, by=measure_on_candidates)
        tuned = family.on_candidates(found["run_dir"] if found else "")
    for row in tuned:
        if found:
            rows.train(row)
        else:
            rows.fail(row, f"begins with {spec.name}, which was not run")
    fresh = family.on_candidates(None, ", from random weights") if family.from_random else []
    for row in fresh:
        rows.train(row)
    return [row.name for row in (spec, *tuned, *fresh)]


def measure_on_candidates(
    spec: ModelSpec, dataset: str, settings: Mapping[str, Any], minutes: float, command: str
) -> dict[str, Any]:
    """Train a sequential model by the clock, then let it rank the candidates.

    As ``time_budget.measure``, but ``test`` and ``ranks`` are among the
    candidates; ``test_all_items`` is of its own task.
    """
    found = measure(spec, dataset, settings, minutes, command)
    config = LiteConfig(
        spec.model, dataset, spec.files, config_dict={**settings, **spec.settings, **TASK}
    )
    return {**found, "test_all_items": found["test"], **rank_candidates(found["run_dir"], config)}


@torch.no_grad()
def rank_candidates(folder: str | Path, config: LiteConfig) -> dict[str, Any]:
    """What a sequential model's scores give among the candidates of the Top-N task.

    Parameters
    ----------
    folder : str or Path
        Of the model's run. The candidates are written beside its weights, as a run of the task
        does it.
    config : LiteConfig
        Of the task; decides the candidates and the metrics.

    Returns
    -------
    dict
        ``test``, ``ranks``, ``random_guess``, ``candidates`` (their SHA-256), and ``largest_k``
        and ``protocol`` of `config`.
    """
    _, model, trained, *_ = load_data_and_model(folder)
    model.eval()
    dataset = create_dataset(config, trained.vocabulary)  # the internal ids of the model
    test = data_preparation(config, dataset)[2]
    collector, evaluator = LiteCollector(config), LiteEvaluator(config)
    collector.loader = test
    for batch, hidden, users, targets in test:
        batch.interaction.pop(CANDIDATES, None)  # or the model would read them
        scores = model.full_sort_predict(batch.to(config["device"])).cpu()
        scores[hidden] = -torch.inf  # all but the candidates
        collector.eval_batch_collect(scores, batch, users, targets)
    result = evaluator.evaluate(collector.get_data_struct())
    found = per_user_results(evaluator, test, dataset)
    return {
        "test": to_plain(result),
        "ranks": dict(zip(found["users"], map(int, found["ranks"]), strict=True)),
        "random_guess": random_guess(config),
        "candidates": write_candidates(
            Path(folder) / "candidates-test.jsonl", dataset, test._dataset
        ),
        **protocol_of(config),
    }
