"""A trained model as a product: recommendations for anyone."""
