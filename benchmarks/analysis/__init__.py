"""What rows say: statistics, comparisons, the scoreboard, regret and recommendations."""
