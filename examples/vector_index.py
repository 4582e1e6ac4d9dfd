r"""Items of a model in a faiss index, and in a table for pgvector.

    python examples/vector_index.py saved/RUN out 1,50

Writes out/items.csv and, if faiss is installed, out/items.faiss, and prints the items with the
largest inner products with the vector of a user who had items 1 and 50: the recommendations,
without exclusion of the history. In PostgreSQL with pgvector:

    CREATE TABLE items (id text PRIMARY KEY, title text, embedding vector(256));
    \copy items FROM out/items.csv CSV HEADER
    SELECT id, title FROM items ORDER BY embedding <#> :user LIMIT 5;
"""

import csv
import sys
from pathlib import Path

import numpy as np

from recbole_lite import Recommender


def main(model: str, out: str, history: str) -> None:
    """Write the files and print five items."""
    recommender = Recommender.load(model)
    catalogue, vectors = recommender.catalogue, recommender.item_vectors()
    user = recommender.user_vectors([history.split(",")])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "items.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "title", "embedding"])
        for place, vector in enumerate(vectors.tolist(), 1):
            numbers = "[" + ",".join(map(str, vector)) + "]"
            rows.writerow([catalogue.ids[place], catalogue.titles[place], numbers])
    try:
        import faiss
    except ModuleNotFoundError:
        best = np.argsort(-(user @ vectors.T)[0], kind="stable")[:5]
    else:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        faiss.write_index(index, str(folder / "items.faiss"))
        best = index.search(user, 5)[1][0]
    for row in best:
        print(catalogue.ids[row + 1], catalogue.titles[row + 1], sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
