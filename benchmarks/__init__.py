"""Measurements of seal beside named peers. Each module runs by itself: `python -m benchmarks.inner_loop`."""
