"""The steps of a recipe: planned, carried out on the host and on devices, recorded.

Other rooms may use:

- request: what a user asks of a recipe, and the same resolved to a recipe and its devices
- run: `run_recipe` carries a request out, `prepare_plan` plans it
- run_lock: whether a process carries out a run
- plan: the steps, and how they depend on each other
- scheduler: which steps have to be carried out; `compute` carries out steps of the host
- outcome: how the steps of a run ended
- events: what happens to the steps, for whoever shows it
- device_health: waiting for a device, and switching its power
- step_log: where the log of a step lies
- stage_results: results of steps, read from the folders of the cache
- portable_call: functions of stages, written so that they run without qpipe
- input_checks: whether networks and samples were read and fit each other
- scoring_record: what a measuring stage scored with
- cache_keys: what a result depends on; digests of files and folders
- host_step, worker: a stage called with the results of steps, here or in another process, as
  `testing` does, too
- float_reference: the float network's outputs on samples
- sequences: the chunks of sequences as samples, for a network with states
- targets: what a device with a runtime asks of quantization and of builds

Its own are: device_choice (of pools), executor (one step), retry (its attempts), recorder
(what goes to the store), engine_stages (stages of the engine itself),
measurement_check, code_digest, python_imports, imports_memo (the code in a key).
"""
