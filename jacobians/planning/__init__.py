"""Which method computes what: the registry, the plan (the one door of every call), the planner and its cost model."""
