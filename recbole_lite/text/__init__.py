"""Text tower: item text in, one vector per item out (Item LLM, paper Section 4.2)."""

from recbole_lite.text.item_vectors import ItemVectors, item_vectors
from recbole_lite.text.token_pooling import first_token, masked_mean

__all__ = ["ItemVectors", "first_token", "item_vectors", "masked_mean"]
