"""The tables and views of the store, as migrations: applied in this order, each once, never edited once released.

Times are UTC in ISO 8601, JSON is text, truth is 0 or 1. A row's coordinates are model, scheme, build, device and
`extra`: what a sweep adds, as JSON.
"""

from __future__ import annotations

TABLES = """
CREATE TABLE runs (
  id TEXT PRIMARY KEY, recipe TEXT, recipe_path TEXT, recipe_digest TEXT, recipe_text TEXT,
  request TEXT, objectives TEXT,
  started TEXT, finished TEXT, state TEXT, versions TEXT, host TEXT
);
CREATE TABLE steps (
  run TEXT REFERENCES runs(id), step TEXT, kind TEXT, stage TEXT, state TEXT, key TEXT, key_fields TEXT,
  seconds REAL, started TEXT, finished TEXT, device TEXT, model TEXT, scheme TEXT, build TEXT, error TEXT, log TEXT,
  PRIMARY KEY (run, step)
);
CREATE TABLE devices (
  name TEXT PRIMARY KEY, kind TEXT, capabilities TEXT, fingerprint TEXT, checked TEXT
);
CREATE TABLE measurements (
  id TEXT PRIMARY KEY, run TEXT REFERENCES runs(id),
  model TEXT, scheme TEXT, build TEXT, device TEXT, extra TEXT, runtime TEXT,
  metric TEXT, value REAL, unit TEXT, low REAL, high REAL, n INTEGER, better TEXT, raw TEXT, is_float INTEGER,
  model_digest TEXT, build_digest TEXT, evaluation_digest TEXT, metric_digest TEXT, target TEXT, fingerprint TEXT,
  measured_at TEXT,
  UNIQUE (run, model, scheme, build, device, extra, metric)
);
CREATE TABLE "values" (
  measurement TEXT REFERENCES measurements(id), round INTEGER, position INTEGER, value REAL,
  PRIMARY KEY (measurement, round, position)
) WITHOUT ROWID;
CREATE TABLE verdicts (
  run TEXT REFERENCES runs(id), model TEXT, scheme TEXT, build TEXT, device TEXT, extra TEXT,
  on_front INTEGER, reason TEXT, objectives TEXT, margins TEXT,
  PRIMARY KEY (run, model, scheme, build, device, extra)
);
"""

# pareto: each verdict with its metrics, one a row; latest: the newest measurement of each row of a recipe
VIEWS = """
CREATE VIEW pareto AS
SELECT runs.recipe, verdicts.run, model, scheme, build, runtime, device, extra, on_front, reason, is_float,
       metric, value, unit, low, high, n
FROM verdicts JOIN runs ON runs.id = verdicts.run
LEFT JOIN measurements USING (run, model, scheme, build, device, extra);
CREATE VIEW latest AS
SELECT * FROM (
  SELECT runs.recipe, measurements.*, row_number() OVER (
    PARTITION BY recipe, model, scheme, build, device, extra, metric ORDER BY measured_at DESC, run DESC
  ) AS age
  FROM measurements JOIN runs ON runs.id = measurements.run
) WHERE age = 1;
"""

# a user's own words for runs
TAGS = """
CREATE TABLE tags (
  run TEXT REFERENCES runs(id), tag TEXT,
  PRIMARY KEY (run, tag)
);
"""

# the step that measured it
MEASURED_BY = "ALTER TABLE measurements ADD COLUMN step TEXT;"

# what stands behind a number, as JSON: the nodes by provider and precision
DETAIL = "ALTER TABLE measurements ADD COLUMN detail TEXT;"

MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("tables", TABLES), ("views", VIEWS), ("tags", TAGS), ("measured by", MEASURED_BY), ("detail", DETAIL),
)  # fmt: skip
