"""A taught model: a folder with the base's name, adapters, passages, training texts and what was measured."""
