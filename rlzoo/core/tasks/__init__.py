"""What is known about environments by their ids alone: family, one name, scale of the scores.

Standard library only: configurations, records and tables ask here without making an environment.
"""
