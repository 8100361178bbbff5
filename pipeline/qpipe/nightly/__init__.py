"""Nights: a lab runs its recipes on its devices, and says what moved.

Other rooms may use:

- lab_file: LAB.yaml, read and checked
- lab_start: a first LAB.yaml, and what starts it every night
- night: one night, from the canaries to the findings
- night_page: its pages
- notification: who is told
- series: the numbers of all nights
- change_points: whether a series has changed its level

Its own are: canary, board_watch (devices at the beginning), baseline, changes, rerun,
confirmation, findings.
"""
