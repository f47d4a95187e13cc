"""
The jobs: pure functions over (table, window), run as a graph, each window again only when what goes into it changed.

`job` says what a job is, `chain` lists them, `progress` knows what was done from what, `running` runs what is due and
`engine` is where: in this process, or elsewhere. A job's output replaces its own (job, window) in the store.
"""
