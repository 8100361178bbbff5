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

# why a step failed, by type; each try of it; the one that a number is of
ATTEMPTS = """
ALTER TABLE steps ADD COLUMN failure TEXT;
ALTER TABLE steps ADD COLUMN attempts INTEGER;
ALTER TABLE measurements ADD COLUMN attempt INTEGER;
CREATE TABLE attempts (
  run TEXT REFERENCES runs(id), step TEXT, attempt INTEGER,
  state TEXT, failure TEXT, error TEXT, started TEXT, finished TEXT,
  PRIMARY KEY (run, step, attempt)
);
"""

# the audit trail of the devices that this file's runs used: event is "health" or "power", of which `was` turned into
# `now`; `during` is a run. It stays with the file: a board of the same name elsewhere is another one
DEVICE_EVENTS = """
CREATE TABLE device_events (
  id INTEGER PRIMARY KEY, device TEXT, at TEXT, event TEXT, was TEXT, now TEXT, why TEXT, during TEXT, step TEXT
);
CREATE INDEX device_events_by_device ON device_events (device, event, id);
CREATE VIEW device_health AS
SELECT device, now AS health, at AS since, why, during, step FROM device_events
WHERE id IN (SELECT max(id) FROM device_events WHERE event = 'health' GROUP BY device);
"""

# whether the device was emulated, by what its clock counts: wall, instructions; null for hardware
EMULATED = """
ALTER TABLE measurements ADD COLUMN emulated TEXT;
DROP VIEW pareto;
CREATE VIEW pareto AS
SELECT runs.recipe, verdicts.run, model, scheme, build, runtime, device, emulated, extra, on_front, reason, is_float,
       metric, value, unit, low, high, n
FROM verdicts JOIN runs ON runs.id = verdicts.run
LEFT JOIN measurements USING (run, model, scheme, build, device, extra);
"""

# of each round that a measurement has raw values of: why it was left out (null: it was not), and the device around it
ROUNDS = """
CREATE TABLE rounds (
  measurement TEXT REFERENCES measurements(id), round INTEGER, invalid TEXT, environment TEXT,
  PRIMARY KEY (measurement, round)
);
"""

# with which rows of the front it is tied, and what else to know of it by topic, as JSON
TIES = """
ALTER TABLE verdicts ADD COLUMN ties TEXT;
ALTER TABLE verdicts ADD COLUMN notes TEXT;
"""

# what each device of a run said of itself when that run last asked it, as JSON; `devices` has what it said since
RUN_DEVICES = """
CREATE TABLE run_devices (
  run TEXT REFERENCES runs(id), device TEXT, capabilities TEXT,
  PRIMARY KEY (run, device)
);
"""

# beside its objectives, the difference in each that counts as none, as JSON
MARGINS = "ALTER TABLE runs ADD COLUMN margins TEXT;"

# of scores, what was read as percent before a metric said by its unit that it is a share
SHARES = """
UPDATE measurements SET unit = 'share'
WHERE unit = '' AND better = 'max' AND value BETWEEN 0 AND 1 AND raw IN ('samples', 'resamples');
"""

MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("tables", TABLES),
    ("views", VIEWS),
    ("tags", TAGS),
    ("measured by", MEASURED_BY),
    ("detail", DETAIL),
    ("attempts", ATTEMPTS),
    ("device events", DEVICE_EVENTS),
    ("emulated", EMULATED),
    ("rounds", ROUNDS),
    ("ties", TIES),
    ("run devices", RUN_DEVICES),
    ("margins", MARGINS),
    ("shares", SHARES),
)
