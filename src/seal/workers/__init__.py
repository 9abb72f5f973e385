"""Where a pool's batches are run: this process, another process, a TTT server."""
