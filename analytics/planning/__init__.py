"""Where the next servers go: a plan at least cost that holds in every failure case, with its proof."""
