"""A trained model behind HTTP, and as tools of a language model."""
