"""Plans (built engines) on disk: their records, which one fits a run, and which are trusted."""
