"""The Top-N task (Section 5.4, Figure 5): one right item among 99 negatives, row by row.

Two sizes of LiteLLM4Rec, the paper's and the small encoder of ``properties/prefix/ml-1m.yaml``,
each as a sequential model that ranks the candidates without having read them, and fine-tuned from
it on the task; beside them Pop, P5 and POD, all asked the same candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recbole_lite.config.configurator import LiteConfig
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.data.candidates import write_candidates
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.evaluator.evaluator import LiteCollector, LiteEvaluator
from recbole_lite.experiments.reproduce import paper_figures
from recbole_lite.experiments.reproduce.baselines import PREFIX
from recbole_lite.experiments.reproduce.markdown_tables import budget, figure, grid
from recbole_lite.experiments.reproduce.protocol import Request, Rows
from recbole_lite.experiments.reproduce.time_budget import Side, asked, measure
from recbole_lite.quick_start import load_data_and_model, per_user_of
from recbole_lite.report.format import metric_label
from recbole_lite.report.rank_metrics import random_guess
from recbole_lite.utils.files import to_plain

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
The paper gives Figure 5 as a picture: its text names no figure, so none stands here. It says that
LITE-LLM4Rec's NDCG is much better than that of P5 and POD, and its Recall (here Hit) where k is
small.

Every row ranks the same candidates of each test user, the right item and {negatives} that the user
has not had (SHA-256 of them: {sha256}).
"sequential model" is trained on all items for the budget and scores the candidates without having
read them. The fine-tuned rows begin with its weights and train as long again on the task: they have
had twice the time. P5 and POD train on the task alone. Pop counts once.

What the paper leaves open, and how it is here: "candidates alone" is its sentence taken literally,
and then nothing in the input tells users apart; "history and candidates" puts the user's last items
in front. Training candidates are drawn anew in each epoch; a step has {batch} windows ({written}
of P5 and POD). Fine-tuning begins with the sequential model; the paper does not say with what it
begins, nor how long it lasts."""


@dataclass(frozen=True)
class Family:
    """A size of LiteLLM4Rec.

    Attributes
    ----------
    prefix : str
        Of the names of its rows.
    files : list of Path
        Configuration of the sequential model.
    on_task : dict
        What else the fine-tuned rows need.
    """

    prefix: str
    files: tuple[Path, ...] = ()
    on_task: Mapping[str, Any] | None = None

    def sequential(self) -> Side:
        """The model that is fine-tuned."""
        return Side(f"{self.prefix}, {SEQUENTIAL}", "LiteLLM4Rec", {}, self.files)

    def fine_tuned(self, folder: str) -> list[Side]:
        """Rows that begin with the weights in a folder."""
        shared = {**TASK, **(self.on_task or {}), "init_from": folder}
        return [
            Side(f"{self.prefix}, {name}", "LiteLLM4Rec", {**shared, **changes}, self.files)
            for name, changes in INPUTS.items()
        ]


# The small encoder numbers its 20 positions, and the candidates take one.
FAMILIES = (
    Family("LiteLLM4Rec"),
    Family("prefix", tuple(PREFIX), {"MAX_ITEM_LIST_LENGTH": 19}),
)


def figure5(request: Request) -> str:
    """Run what is missing of the rows, and print them as Markdown.

    Raises
    ------
    ConfigError
        No row could be run.
    """
    rows = Rows(request, request.out / request.dataset / "topn")
    rows.train(Side("Pop", "Pop", TASK))
    names = ["Pop"]
    for family in FAMILIES:
        names += _family(rows, family)
    for model in ("P5", "POD"):
        rows.train(Side(model, model, WRITTEN))
        names.append(model)
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
    return "\n\n".join([*parts, *budget(rows.results, rows.problems, rows.request)])


def _family(rows: Rows, family: Family) -> list[str]:
    """Train a family's rows; their names."""
    side = family.sequential()
    found = rows.train(side, by=measure_unread)
    if found and not Path(found["run_dir"]).is_dir() and not _all_there(rows, family, found):
        # Only its figures are left; the rows that need its weights are made anew with it.
        rows.path(side).unlink()
        found = rows.train(side, by=measure_unread)
    tuned = family.fine_tuned(found["run_dir"] if found else "")
    for row in tuned:
        if found:
            rows.train(row)
        else:
            rows.fail(row, f"begins with {side.name}, which was not run")
    return [side.name, *(row.name for row in tuned)]


def _all_there(rows: Rows, family: Family, found: dict[str, Any]) -> bool:
    return all(rows.has(tuned) for tuned in family.fine_tuned(found["run_dir"]))


def measure_unread(
    side: Side, dataset: str, settings: Mapping[str, Any], minutes: float, command: str
) -> dict[str, Any]:
    """Train a sequential model by the clock, then let it rank the candidates.

    As ``time_budget.measure``, but ``test`` and ``ranks`` are among the
    candidates; ``test_all_items`` is of its own task.
    """
    found = measure(side, dataset, settings, minutes, command)
    config = LiteConfig(
        side.model, dataset, side.files, config_dict={**settings, **side.settings, **TASK}
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
    for batch, hidden, users, targets in test:
        batch.interaction.pop(CANDIDATES, None)  # or the model would read them
        scores = model.full_sort_predict(batch.to(config["device"])).cpu()
        scores[hidden] = -torch.inf  # all but the candidates
        collector.eval_batch_collect(scores, batch, users, targets)
    result = evaluator.evaluate(collector.get_data_struct())
    found = per_user_of(evaluator, test, dataset)
    return {
        "test": to_plain(result),
        "ranks": dict(zip(found["users"], map(int, found["ranks"]), strict=True)),
        "random_guess": random_guess(config),
        "candidates": write_candidates(
            Path(folder) / "candidates-test.jsonl", dataset, test._dataset
        ),
        **asked(config),
    }
