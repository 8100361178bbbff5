"""The store of results in SQLite, and the cache of step results.

Other rooms may use:

- results: the store of all runs
- nights: the same with the nights of labs
- rows: the types of its rows, and the coordinates of a row
- merge: the union of several databases
- cache: the results of steps by key
- sharing_cache: the same in front of a folder that several users share
- remote_cache: the same in front of a URL that several machines share
- remote_files: whether a URL may be used
- folder_lock: a folder that one process has to itself
"""
