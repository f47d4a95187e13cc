"""
History from elsewhere, into the store: MLPerf and nvidia-smi logs, a Prometheus server, CSV and Parquet.

Each reader yields `Unit`s (what is stored whole or not at all) with an `Account` of every line of every file; `take_in`
writes the units and adds up the report. Nothing is stored of a unit with bad lines unless the caller says `partial`.
"""
