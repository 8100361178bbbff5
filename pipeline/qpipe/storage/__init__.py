"""The results in SQLite, and the content-addressed cache."""
