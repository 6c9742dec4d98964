"""Groups of features beyond the base table: one module, one kernel each (see `research.kernels`)."""
