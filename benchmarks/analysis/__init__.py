"""Analysis of rows: statistics, comparisons, the scoreboard, regret and recommendations."""
