"""What demand and power will be: pooled quantile forecasts over several horizons, where they beat the baselines."""
