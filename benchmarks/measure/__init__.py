"""The instrument: clocks, memory, samples, conditions, the oracle and the ceilings."""
