"""The tables and views of the store, as migrations: each is applied once, in this order.

A migration is never edited after it was released. Times are UTC in ISO 8601, JSON is text, booleans
are 0 or 1. The coordinates of a row are model, scheme, build, device and `extra`: what a sweep
adds to them, as JSON.
"""

from __future__ import annotations

RUNS = """
CREATE TABLE runs (
  -- part of the name of a folder
  id TEXT PRIMARY KEY CHECK (id GLOB '[0-9a-z]*' AND id NOT GLOB '*[^0-9a-z-]*'),
  recipe TEXT NOT NULL,
  recipe_path TEXT NOT NULL,
  recipe_digest TEXT NOT NULL,
  recipe_text TEXT NOT NULL,
  request TEXT NOT NULL CHECK (json_type(request) = 'object'),
  objectives TEXT NOT NULL CHECK (json_type(objectives) = 'object'),
  started TEXT NOT NULL,
  finished TEXT,
  state TEXT NOT NULL CHECK (state IN ('running', 'done', 'partial', 'failed', 'interrupted')),
  versions TEXT NOT NULL CHECK (json_type(versions) = 'object'),
  host TEXT NOT NULL,
  -- for each objective, the difference that counts as none
  margins TEXT NOT NULL CHECK (json_type(margins) = 'object')
) STRICT;

-- a user's own words for runs
CREATE TABLE tags (
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  tag TEXT NOT NULL,
  PRIMARY KEY (run, tag)
) STRICT;

-- what each device of a run reported when the run last checked it; `devices` has later checks too
CREATE TABLE run_devices (
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  device TEXT NOT NULL,
  capabilities TEXT NOT NULL CHECK (json_type(capabilities) = 'object'),
  PRIMARY KEY (run, device)
) STRICT;
"""

STEPS = """
CREATE TABLE steps (
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  step TEXT NOT NULL,
  kind TEXT,
  stage TEXT,
  state TEXT NOT NULL DEFAULT 'pending'
    CHECK (state IN ('pending', 'running', 'done', 'cached', 'failed', 'skipped')),
  key TEXT,
  key_fields TEXT CHECK (json_type(key_fields) = 'object'),
  seconds REAL CHECK (seconds >= 0),
  started TEXT,
  finished TEXT,
  device TEXT,
  model TEXT,
  scheme TEXT,
  build TEXT,
  error TEXT,
  failure TEXT,  -- the type of its failure
  attempts INTEGER CHECK (attempts >= 0),
  PRIMARY KEY (run, step)
) STRICT;

CREATE TABLE attempts (
  run TEXT NOT NULL,
  step TEXT NOT NULL,
  attempt INTEGER NOT NULL CHECK (attempt >= 1),
  state TEXT NOT NULL
    CHECK (state IN ('running', 'done', 'cached', 'failed', 'skipped', 'interrupted')),
  failure TEXT,
  error TEXT,
  started TEXT,
  finished TEXT,
  PRIMARY KEY (run, step, attempt),
  FOREIGN KEY (run, step) REFERENCES steps (run, step) ON DELETE CASCADE
) STRICT;
"""

MEASUREMENTS = """
CREATE TABLE measurements (
  id TEXT PRIMARY KEY,
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  model TEXT NOT NULL,
  scheme TEXT NOT NULL,
  build TEXT NOT NULL,
  device TEXT NOT NULL,
  extra TEXT NOT NULL CHECK (json_type(extra) = 'object'),
  runtime TEXT,
  metric TEXT NOT NULL,
  value REAL NOT NULL,
  unit TEXT NOT NULL,
  low REAL,
  high REAL,
  n INTEGER NOT NULL CHECK (n >= 0),
  better TEXT NOT NULL CHECK (better IN ('min', 'max')),
  raw TEXT NOT NULL CHECK (raw IN ('rounds', 'samples', 'resamples')),
  is_float INTEGER NOT NULL DEFAULT 0 CHECK (is_float IN (0, 1)),
  model_digest TEXT,
  build_digest TEXT,
  evaluation_digest TEXT,
  metric_digest TEXT,
  target TEXT CHECK (json_type(target) = 'object'),
  fingerprint TEXT,
  measured_at TEXT NOT NULL,
  step TEXT,  -- the step that measured it
  -- what is behind the number, such as nodes by provider and precision
  detail TEXT NOT NULL CHECK (json_type(detail) = 'object'),
  attempt INTEGER CHECK (attempt >= 1),  -- the attempt at the step; null where it was cached
  -- what the clock of an emulator counts; null for hardware
  emulated TEXT CHECK (emulated IN ('wall', 'instructions')),
  UNIQUE (run, model, scheme, build, device, extra, metric),
  CHECK (low <= high)
) STRICT;

-- raw values
CREATE TABLE "values" (
  measurement TEXT NOT NULL REFERENCES measurements (id) ON DELETE CASCADE,
  round INTEGER NOT NULL CHECK (round >= 0),
  position INTEGER NOT NULL CHECK (position >= 0),
  value REAL NOT NULL,
  PRIMARY KEY (measurement, round, position)
) STRICT, WITHOUT ROWID;

-- of each round with raw values: why it does not count (null: it does), and the device around it
CREATE TABLE rounds (
  measurement TEXT NOT NULL REFERENCES measurements (id) ON DELETE CASCADE,
  round INTEGER NOT NULL CHECK (round >= 0),
  invalid TEXT,
  environment TEXT NOT NULL CHECK (json_type(environment) = 'object'),
  PRIMARY KEY (measurement, round)
) STRICT;

CREATE TABLE verdicts (
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  model TEXT NOT NULL,
  scheme TEXT NOT NULL,
  build TEXT NOT NULL,
  device TEXT NOT NULL,
  extra TEXT NOT NULL CHECK (json_type(extra) = 'object'),
  on_front INTEGER NOT NULL CHECK (on_front IN (0, 1)),
  reason TEXT NOT NULL,
  objectives TEXT NOT NULL CHECK (json_type(objectives) = 'object'),
  margins TEXT NOT NULL CHECK (json_type(margins) = 'object'),
  -- the rows of the front that it is tied with
  ties TEXT NOT NULL DEFAULT '[]' CHECK (json_type(ties) = 'array'),
  notes TEXT NOT NULL DEFAULT '{}' CHECK (json_type(notes) = 'object'),  -- by topic
  judged_on TEXT NOT NULL DEFAULT '',  -- digest of what the run had when it was judged; '': unknown
  PRIMARY KEY (run, model, scheme, build, device, extra)
) STRICT;
"""

# device_events is the audit trail of the devices that this file's runs used: `event` is "health",
# "power", ..., and `was` became `now`; `during` is a run. It stays with the file: a board of the
# same name elsewhere is another one
DEVICES = """
CREATE TABLE devices (
  name TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  capabilities TEXT NOT NULL CHECK (json_type(capabilities) = 'object'),
  fingerprint TEXT NOT NULL,
  checked TEXT NOT NULL
) STRICT;

CREATE TABLE device_events (
  id INTEGER PRIMARY KEY,
  device TEXT NOT NULL,
  at TEXT NOT NULL,
  event TEXT NOT NULL,
  was TEXT,
  now TEXT NOT NULL,
  why TEXT NOT NULL,
  during TEXT,
  step TEXT
) STRICT;
CREATE INDEX device_events_by_device ON device_events (device, event, id);
"""

# pareto: each verdict with its metrics, one a row
# latest: the newest measurement of each row of a recipe
# device_health: the last change of each device's health
VIEWS = """
CREATE VIEW pareto AS
SELECT runs.recipe, verdicts.run, model, scheme, build, runtime, device, emulated, extra, on_front,
       reason, is_float, metric, value, unit, low, high, n
FROM verdicts JOIN runs ON runs.id = verdicts.run
LEFT JOIN measurements USING (run, model, scheme, build, device, extra);

CREATE VIEW latest AS
SELECT * FROM (
  SELECT runs.recipe, measurements.*, row_number() OVER (
    PARTITION BY recipe, model, scheme, build, device, extra, metric
    ORDER BY measured_at DESC, run DESC
  ) AS age
  FROM measurements JOIN runs ON runs.id = measurements.run
) WHERE age = 1;

CREATE VIEW device_health AS
SELECT device, now AS health, at AS since, why, during, step FROM device_events
WHERE id IN (SELECT max(id) FROM device_events WHERE event = 'health' GROUP BY device);
"""

# unreachable_devices: those that a run left out because they did not answer, and why
# history: each number of a row of a recipe over its runs, with the number of the run before. Smoke
# runs, whose numbers do not count, are marked and are before or after each other alone
REPORTS = """
CREATE TABLE unreachable_devices (
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  device TEXT NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (run, device)
) STRICT;

CREATE VIEW history AS
SELECT recipe, started, run, is_smoke, model, scheme, build, device, extra, metric, value, unit,
       low, high, n, better, lag(value) OVER earlier AS value_before,
       lag(run) OVER earlier AS run_before
FROM (
  SELECT runs.recipe, runs.started,
         coalesce(json_extract(runs.request, '$.smoke'), 0) AS is_smoke, measurements.*
  FROM measurements JOIN runs ON runs.id = measurements.run
)
WINDOW earlier AS (
  PARTITION BY recipe, is_smoke, model, scheme, build, device, extra, metric ORDER BY started, run
);
"""

# the times in which a run had a device to itself; they stay with the file, as device_events do
LEASES = """
CREATE TABLE leases (
  id INTEGER PRIMARY KEY,
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  device TEXT NOT NULL,
  step TEXT NOT NULL,  -- the newest one
  since TEXT NOT NULL,
  until TEXT
) STRICT;
CREATE INDEX leases_by_device ON leases (device, id);
"""

# nights of labs: their runs, what the canary measured on each device, and what was found. They stay
# with the file, as the cache and the boards that they speak of do
NIGHTS = """
CREATE TABLE nights (
  lab TEXT NOT NULL,
  night TEXT NOT NULL,  -- its date; -2, -3 ... where a date has several
  started TEXT NOT NULL,
  finished TEXT,
  missed TEXT NOT NULL CHECK (json_type(missed) = 'array'),  -- what was not done
  PRIMARY KEY (lab, night)
) STRICT;

CREATE TABLE night_runs (
  lab TEXT NOT NULL,
  night TEXT NOT NULL,
  recipe TEXT NOT NULL,  -- as the lab file names it
  run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  PRIMARY KEY (lab, night, recipe),
  FOREIGN KEY (lab, night) REFERENCES nights (lab, night) ON DELETE CASCADE
) STRICT;

CREATE TABLE canaries (
  lab TEXT NOT NULL,
  night TEXT NOT NULL,
  device TEXT NOT NULL,
  value REAL CHECK (value > 0),  -- ms; null where it did not run
  problem TEXT,  -- why the number does not count, or why there is none
  moved INTEGER NOT NULL DEFAULT 0 CHECK (moved IN (0, 1)),
  environment TEXT NOT NULL CHECK (json_type(environment) = 'object'),
  PRIMARY KEY (lab, night, device),
  FOREIGN KEY (lab, night) REFERENCES nights (lab, night) ON DELETE CASCADE
) STRICT;

CREATE TABLE findings (
  id INTEGER PRIMARY KEY,
  lab TEXT NOT NULL,
  -- change: of a series; board: of the canary; device: it could not be used; failure: of steps
  kind TEXT NOT NULL CHECK (kind IN ('change', 'board', 'device', 'failure')),
  subject TEXT NOT NULL,  -- the series, device or recipe
  metric TEXT NOT NULL DEFAULT '',
  device TEXT NOT NULL DEFAULT '',
  state TEXT NOT NULL CHECK (state IN ('new', 'sustained', 'recovered', 'flaky')),
  status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'acknowledged', 'closed')),
  is_regression INTEGER NOT NULL CHECK (is_regression IN (0, 1)),
  start TEXT NOT NULL,  -- the night from which on it is so
  reported TEXT NOT NULL,  -- the night that found it
  newest TEXT NOT NULL,  -- the newest night that has looked
  before REAL,
  after REAL,
  unit TEXT NOT NULL DEFAULT '',
  text TEXT NOT NULL,
  evidence TEXT NOT NULL DEFAULT '',
  beside TEXT NOT NULL CHECK (json_type(beside) = 'array'),  -- what changed with it
  command TEXT NOT NULL DEFAULT '',
  note TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX findings_by_subject ON findings (lab, subject, metric);
"""

# what a step measured is replaced whenever it measures anew
BY_STEP = """
CREATE INDEX measurements_by_step ON measurements (run, step);
"""

# smoke runs, whose numbers do not count, are marked in `pareto` and `latest`, too; the newest
# number of a smoke run stands beside that of a real one, never in its place
SMOKE = """
DROP VIEW pareto;
CREATE VIEW pareto AS
SELECT runs.recipe, verdicts.run, coalesce(json_extract(runs.request, '$.smoke'), 0) AS is_smoke,
       model, scheme, build, runtime, device, emulated, extra, on_front, reason, is_float, metric,
       value, unit, low, high, n
FROM verdicts JOIN runs ON runs.id = verdicts.run
LEFT JOIN measurements USING (run, model, scheme, build, device, extra);

DROP VIEW latest;
CREATE VIEW latest AS
SELECT * FROM (
  SELECT *, row_number() OVER (
    PARTITION BY recipe, is_smoke, model, scheme, build, device, extra, metric
    ORDER BY measured_at DESC, run DESC
  ) AS age
  FROM (
    SELECT runs.recipe, coalesce(json_extract(runs.request, '$.smoke'), 0) AS is_smoke,
           measurements.*
    FROM measurements JOIN runs ON runs.id = measurements.run
  )
) WHERE age = 1;
"""

TRAINING = """
-- how training went in a step: arrays of its own step, mean loss since the one before, SQNR in dB
CREATE TABLE training_curves (
  run TEXT NOT NULL,
  step TEXT NOT NULL,
  curve TEXT NOT NULL CHECK (json_type(curve) = 'array'),
  PRIMARY KEY (run, step),
  FOREIGN KEY (run, step) REFERENCES steps (run, step) ON DELETE CASCADE
) STRICT;
"""

# what a search has tried; it stays with the file, as the cache that it counts on does
TRIALS = """
CREATE TABLE trials (
  search TEXT NOT NULL,  -- digest of the recipe that is searched, and of what is varied
  number INTEGER NOT NULL CHECK (number >= 0),
  scheme TEXT NOT NULL,
  parameters TEXT NOT NULL CHECK (json_type(parameters) = 'object'),  -- as the optimizer names them
  chain TEXT NOT NULL CHECK (json_type(chain) = 'array'),  -- as a recipe has it
  metrics TEXT CHECK (json_type(metrics) = 'object'),  -- null where it failed
  run TEXT NOT NULL,
  PRIMARY KEY (search, number)
) STRICT;
"""

MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("store", RUNS + STEPS + MEASUREMENTS + DEVICES + VIEWS),
    ("reports", REPORTS),
    ("leases", LEASES),
    ("nights", NIGHTS),
    ("measurements by step", BY_STEP),
    ("smoke", SMOKE),
    ("training", TRAINING),
    ("trials", TRIALS),
)

# the first migration before the release: a file that has it is of another form than all since
BEFORE_RELEASE = "tables"
