"""Groups of features beyond the base table: one module, one kernel each (see `research.kernels`).

What a group must define is `research.groups.registry.Group`; which groups a configuration
switches on, and with which options, is decided there too. Nothing is imported before it is used.
"""
