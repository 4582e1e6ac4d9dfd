"""Parts of the models: towers, encoders, pooling, losses, masks."""
