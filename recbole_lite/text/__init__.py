"""Text tower: item text in, one vector per item out (Item LLM, paper Section 4.2)."""

from recbole_lite.text.pooling import first_token, masked_mean
from recbole_lite.text.tower import ItemVectors, item_vectors

__all__ = ["ItemVectors", "first_token", "item_vectors", "masked_mean"]
