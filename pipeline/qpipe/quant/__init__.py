"""What every algorithm shares: arithmetic, codebooks, statistics, ranges, the QDQ view; knows no recipe and no run."""
