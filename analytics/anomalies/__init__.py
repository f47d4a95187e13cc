"""
What is wrong: rules for what is known, detectors for what is odd, and incidents of what belongs together.

`rules` reads what to look for, `findings` looks, `incidents` puts stretches of one kind and place together, `impact`
says what they cost so far, `job` is all of that as a job, `alerts` is how an Alertmanager gets it. Detectors write
anomaly_scores, which rules of the sort ``[[score]]`` judge.
"""
