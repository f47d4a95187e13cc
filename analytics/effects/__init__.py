"""Did it work: what a change of driver, firmware, framework, limit or place did to joules per token, and how sure."""
