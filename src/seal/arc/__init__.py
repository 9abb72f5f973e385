"""The ARC room: grids, tasks, augmentations, views, serialisations, voting, recipes and pictures.

Nothing here needs a model; a tokenizer is needed only by `serialise.Codec`.
"""
