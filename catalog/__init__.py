"""What the data is and how it is stored; knows no model, no vendor and no order.

errors        the errors a user can act on
config        the base of every configuration
timestamps    intervals; parsing and printing times
progress      how long work reports its state
arrays        bars and series as numpy columns
records       what importers hand over (`Batch`)
types         custom data types of the engine
instruments   definitions, ids, bar types
encoding      columns to and from the engine's Parquet
checks        what a batch must satisfy
manifest      the commit record
transactions  lock, stage, publish, recover
vintages      first, latest, as known at a time
merging       what is new, known or restated
ingest        batches in, one commit out
reading       records of one state of the catalog
inventory     what there is, and where it came from
store         `Catalog`: open and read
quality       faults of what is stored
query         DuckDB views over the catalog
"""
