"""From measurements to a decision.

Other rooms may use:

- scoring: metrics over samples
- intervals, round_statistics: numbers with their 95 % intervals
- evidence: whether one number is better than another
- measured_rows, pareto: the rows of a run, and their Pareto front
- recommend, knee: what to ship, and what is the nearest to the best of each objective
- row_phrases: which rows are within limits
- runs, device_changes: one run against another
- json_rows: the types of the rows that these return
- formatting: numbers as text
"""
