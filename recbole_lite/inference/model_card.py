"""Model card of a packed model: data set, protocol and measured metrics."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.utils.dataset_names import part_file

PAPER = "https://arxiv.org/abs/2402.09543"


def model_card(bundle: ModelBundle) -> ModelCard:
    """Model card in the format of the Hugging Face Hub."""
    name = f"{bundle.model}-{bundle.dataset}"
    test = bundle.about.get("results", {}).get("test") or {}
    data = ModelCardData(
        library_name="recbole-lite",
        tags=["recommendation", "sequential-recommendation", bundle.model],
        datasets=None,  # ids of data sets on the Hub; ours are not there
        model_name=name if test else None,
        eval_results=[
            EvalResult(
                task_type="sequential-recommendation",
                dataset_type=bundle.dataset,
                dataset_name=bundle.dataset,
                dataset_split=f"test ({_split(bundle.dataset, bundle.settings)})",
                metric_type=metric,
                metric_value=round(float(value), 6),
            )
            for metric, value in test.items()
            if value is not None
        ]
        or None,
    )
    sections = {
        "Use": _use(name),
        "Data": _data(bundle),
        "Protocol": _protocol(bundle.dataset, bundle.settings, bundle.about.get("results", {})),
        "Results": _results(bundle.about),
        "Limits": _limits(bundle),
    }
    parts = [f"# {name}", _introduction(bundle)]
    body = "\n\n".join([*parts, *(f"## {head}\n\n{text}" for head, text in sections.items())])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n", ignore_metadata_errors=True)


def _introduction(bundle: ModelBundle) -> str:
    text = (
        f"A sequential recommender ({bundle.model}). It maps the ordered items of a user to "
        "scores of all items of its catalogue."
    )
    if bundle.model == "LiteLLM4Rec":
        settings = bundle.settings
        source = f"Item LLM: `{settings.get('item_llm')}`"
        if settings.get("item_vectors"):
            source = f"Precomputed item vectors: `{Path(settings['item_vectors']).name}`"
        text += (
            f" Method: LITE-LLM4Rec ([arXiv 2402.09543]({PAPER})). "
            f"{source} (`item_llm_training: "
            f"{settings.get('item_llm_training')}`); Recommendation LLM: "
            f"`{settings.get('rec_llm')}` (`rec_llm_init: {settings.get('rec_llm_init')}`)."
        )
    return text


def _use(name: str) -> str:
    return f"""\
```python
from recbole_lite import Recommender

recommender = Recommender.from_pretrained("{name}")  # this folder
recommender.recommend([["ID OF AN ITEM", "ID OF THE NEXT ONE"]], k=10)
```

Ids and titles are in `items.jsonl`."""


def _data(bundle: ModelBundle) -> str:
    counts = bundle.about.get("data", {})
    listed = ", ".join(f"{value:,} {key}" for key, value in counts.items())
    more = f" {bundle.n_added:,} items were added after training." if bundle.n_added else ""
    epoch = bundle.about.get("epoch")
    epoch = "unknown" if epoch is None else epoch + 1
    return f"`{bundle.dataset}`: {listed}.{more} Weights are of epoch {epoch}."


def _split(dataset: str, settings) -> str:
    if parts := settings.get("benchmark_filename"):
        return "files " + ", ".join(part_file(dataset, part) for part in parts)
    split = (settings.get("eval_args") or {}).get("split")
    return "leave-one-out" if split == {"LS": "valid_and_test"} else str(split)


def _protocol(dataset: str, settings, results) -> str:
    split = _split(dataset, settings)
    left_out = "excluding the items of the user's history"
    if split == "leave-one-out":
        how = "Leave-one-out: each user's last item is the test item, the one before validation."
    else:
        how = f"Split: `{split}`."
    mode = (settings.get("eval_args") or {}).get("mode")
    ranked = "all items" if mode == "full" else f"sampled items (`{mode}`)"
    seen = (
        left_out
        if settings.get("eval_exclude_history")
        else "including the items of the user's history"
    )
    chosen = f"best validation {settings.get('valid_metric')}"
    if "valid" in results and not results["valid"]:
        chosen = "last epoch"
    return (
        f"{how} Ranking over {ranked}, {seen}. Input: the last "
        f"{settings.get('MAX_ITEM_LIST_LENGTH')} items. Training examples: "
        f"`train_strategy: {settings.get('train_strategy')}`. Seed {settings.get('seed')}; "
        f"weights of the {chosen}."
    )


def _results(about) -> str:
    results = {
        name: {metric: value for metric, value in (values or {}).items() if value is not None}
        for name, values in about.get("results", {}).items()
    }
    results = {name: values for name, values in results.items() if values}
    if not results:
        measured = "results" in about
        return "Nothing was measured: it was trained on all data." if measured else "Not recorded."
    metrics = list(next(iter(results.values())))
    lines = ["| | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for name, values in results.items():
        cells = " | ".join(f"{float(values[m]):.4f}" for m in metrics if m in values)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + _probabilities(about)


def _probabilities(about) -> str:
    test = (about.get("temperature") or {}).get("test")
    if not test:
        return ""
    return (
        "\n\nCalibrated on the validation part (`probabilities=True`): on the test part, the first "
        f"ten items have a probability of {test['expected'][1]:.3f} in sum, and "
        f"{test['hits']:.3f} of the targets are among them."
    )


def _limits(bundle: ModelBundle) -> str:
    return (
        "It recommends the items of its catalogue to users with at least one of them in their "
        f"history, and reproduces the biases and gaps of `{bundle.dataset}`. One training run; "
        "another seed gives other figures. For the licence of the data and of the language models "
        "that it was made from, see their sources."
    )
